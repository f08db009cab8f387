"""ONNX model → every tensor of numbers that it carries: its name, whether its numbers are finite, their digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import SparseTensorProto, TensorProto, helper

from aaexport.graph.outside import is_outside, parts

Array = npt.NDArray[Any]
DIGITS = 16  # of a digest in hexadecimal: 64 bits tell the tensors of one file apart
FLOATING = frozenset(
    number
    for name, number in TensorProto.DataType.items()
    if name.startswith(("FLOAT", "DOUBLE", "BFLOAT", "COMPLEX"))
)


@dataclass(frozen=True)
class Content:
    """What one tensor holds.

    Attributes:
        name: an initializer's, or that of the value a Constant makes.
        size, bytes: how many numbers, and how much memory they take.
        nan, infinite: how many of them are not finite.
        digest: of type, shape and bytes, however they are stored; None if they do not fit each other.
    """

    name: str
    size: int = 0
    bytes: int = 0
    nan: int = 0
    infinite: int = 0
    digest: str | None = None


def contents(model: onnx.ModelProto) -> Iterator[Content]:
    """What each tensor of the model holds; external data must have been loaded, or lie outside (`outside`)."""
    for name, tensor in named_tensors(model):
        yield _content(name, tensor)


def named_tensors(model: onnx.ModelProto) -> Iterator[tuple[str, TensorProto]]:
    """Initializers, and what nodes hold in their attributes; of subgraphs and functions too."""
    yield from _of_graph(model.graph, "")
    for function in model.functions:
        yield from _of_nodes(function.node, f"{function.name}/")


def _of_graph(graph: onnx.GraphProto, prefix: str) -> Iterator[tuple[str, TensorProto]]:
    for tensor in graph.initializer:
        yield prefix + tensor.name, tensor
    for sparse in graph.sparse_initializer:
        yield from _of_sparse(prefix + sparse.values.name, sparse)
    yield from _of_nodes(graph.node, prefix)


def _of_nodes(nodes: Iterable[onnx.NodeProto], prefix: str) -> Iterator[tuple[str, TensorProto]]:
    for node in nodes:
        value = prefix + next(iter(node.output), node.name)
        for attribute in node.attribute:
            yield from _of_attribute(value if node.op_type == "Constant" else f"{value}.{attribute.name}", attribute)


def _of_attribute(name: str, attribute: onnx.AttributeProto) -> Iterator[tuple[str, TensorProto]]:
    if attribute.HasField("t"):
        yield name, attribute.t
    if attribute.HasField("sparse_tensor"):
        yield from _of_sparse(name, attribute.sparse_tensor)
    if attribute.name in ("value_float", "value_floats"):  # a Constant's; its numbers may be NaN like any others
        numbers = attribute.floats if attribute.name == "value_floats" else [attribute.f]
        yield name, helper.make_tensor(name, TensorProto.FLOAT, [len(numbers)], numbers)
    for index, tensor in enumerate(attribute.tensors):
        yield f"{name}[{index}]", tensor
    for subgraph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
        yield from _of_graph(subgraph, f"{name}/")


def _of_sparse(name: str, sparse: SparseTensorProto) -> Iterator[tuple[str, TensorProto]]:
    yield name, sparse.values
    yield f"{name}.indices", sparse.indices


def _content(name: str, tensor: TensorProto) -> Content:
    if tensor.data_location == TensorProto.EXTERNAL and not is_outside(tensor):
        return Content(name)  # onnx would look for it relative to the working directory
    size = taken = nan = infinite = 0
    try:
        kind = TensorProto.DataType.Name(tensor.data_type)
        digest = hashlib.sha256(f"{kind} {list(tensor.dims)} ".encode())
        for part in parts(tensor):
            size, taken = size + part.size, taken + part.nbytes
            if tensor.data_type in FLOATING:
                nan, infinite = nan + int(np.isnan(part).sum()), infinite + int(np.isinf(part).sum())
            digest.update(_bytes(part))
    except (TypeError, ValueError):
        return Content(name)
    return Content(name, size, taken, nan, infinite, digest.hexdigest()[:DIGITS])


def _bytes(part: Array) -> bytes | memoryview:
    if part.dtype == np.object_:  # strings
        return json.dumps([str(text) for text in part]).encode()
    return np.ascontiguousarray(part).view(np.uint8).data
