"""ONNX files → models, and what is told of them: what is read is checked first."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto
from onnx.external_data_helper import load_external_data_for_tensor

from aaexport.errors import GraphError, first_line
from aaexport.folder import sha256
from aaexport.graph.beside import is_inside
from aaexport.graph.check import STANDARD_DOMAINS, all_nodes, declared_opset
from aaexport.graph.cost import count_macs
from aaexport.graph.metadata import provenance_of
from aaexport.graph.outside import INSIDE, is_outside, is_too_large, may_lie_outside, point_at
from aaexport.graph.serialized import Serialized
from aaexport.graph.tensors import named_tensors

OnnxModel = onnx.ModelProto  # for those who pass it on without looking inside
Dimension = int | str | None


@dataclass(frozen=True)
class TensorInfo:
    """One input or output; a dimension is a number, the name of a dynamic one, or None if it is unknown."""

    name: str
    dtype: str
    shape: tuple[Dimension, ...]


@dataclass(frozen=True)
class GraphSummary:
    """What `aaexport inspect` tells of any ONNX file; `macs` of one image, None where a shape is not known.

    `bytes` are those of the file and of its `data_files`, which lie beside it and have numbers of its tensors.
    """

    path: Path
    bytes: int
    opset: int
    producer: str
    operators: dict[str, int]
    parameters: int
    macs: int | None
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    metadata: dict[str, str]
    narrows: bool = False  # whether it casts numbers to a type of fewer bits than float32
    data_files: tuple[Path, ...] = ()


def read_onnx(path: Path) -> onnx.ModelProto:
    """Reads an ONNX file with its external data; of a model above protobuf's 2 GiB large tensors stay outside.

    Raises:
        GraphError: missing, truncated, of another format, or with external data outside its own folder.
    """
    return _with_external_data(parse_onnx(path), path)


def _with_external_data(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    for fault in external_data_faults(model, path):
        raise GraphError(fault)
    load_external_data(model, path)
    return model


def parse_serialized(source: Serialized) -> onnx.ModelProto:
    """What was serialized for a runtime, with its numbers loaded or outside, as those of a file."""
    model = onnx.load_model_from_string(source.model)
    if source.folder is not None:
        load_external_data(model, source.folder / "model")
    return model


def parse_onnx(path: Path) -> onnx.ModelProto:
    """Reads an ONNX file and nothing beside it: its external data stays where it is.

    Raises:
        GraphError: missing, truncated or of another format.
    """
    model = _load(path)
    if not model.graph.node and not model.graph.output:
        raise GraphError(f"{path} must be a whole ONNX file, but: it holds no graph")
    if not model.opset_import:
        raise GraphError(f"{path} must be a whole ONNX file, but: it declares no opset")
    if any(isinstance(name, bytes) for name in _names(model)):  # protobuf gives what is no text as bytes
        raise GraphError(f"{path} must be a whole ONNX file, but: it holds names that are not UTF-8")
    return model


def external_data_faults(model: onnx.ModelProto, path: Path) -> Iterator[str]:
    """Each place outside the folder of `path` where the model would have its numbers read, as a line."""
    external = [tensor for _, tensor in named_tensors(model) if tensor.data_location == TensorProto.EXTERNAL]
    locations = [location for tensor in external for location in _locations(tensor)]
    for location in dict.fromkeys(locations):
        if not is_inside(location, path.parent):
            yield f"external data must lie in the folder of {path.name}, got {location!r}"


def load_external_data(model: onnx.ModelProto, path: Path) -> None:
    """Loads the external data into `model`; only without `external_data_faults`.

    Where there is too much of it for protobuf, the large initializers stay in their files (`outside`).

    Raises:
        GraphError: it is not there, or not all of it.
    """
    try:
        if not is_too_large(tensor for _, tensor in named_tensors(model)):
            onnx.load_external_data_for_model(model, str(path.parent))
            return
        for tensor in model.graph.initializer:
            if tensor.data_location == TensorProto.EXTERNAL and may_lie_outside(tensor):
                point_at(tensor, path.parent)
        inside = [tensor for _, tensor in named_tensors(model) if not is_outside(tensor)]
        rest = [tensor for tensor in inside if tensor.data_location == TensorProto.EXTERNAL]
        if rest and is_too_large(inside):
            rule = "be above 2 GiB for the sake of large initializers alone"
            raise GraphError(f"{path} must {rule}, got as much in {INSIDE}")
        for tensor in rest:
            load_external_data_for_tensor(tensor, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        cause = first_line(error)
        raise GraphError(f"{path} must have its external data beside it, but: {cause}") from error


def data_files(model: onnx.ModelProto, path: Path) -> tuple[Path, ...]:
    """The files in the folder of `path` with numbers of the model, which was parsed and not loaded; there or not."""
    external = [tensor for _, tensor in named_tensors(model) if tensor.data_location == TensorProto.EXTERNAL]
    locations = {location for tensor in external for location in _locations(tensor)}
    return tuple(path.parent / location for location in sorted(locations) if is_inside(location, path.parent))


def read_data_files(path: Path) -> tuple[Path, ...]:
    """As `data_files`, of a file. GraphError if it is no whole ONNX file."""
    return data_files(_load(path), path)


def file_digest(path: Path, beside: Sequence[Path]) -> str:
    """SHA-256 of an ONNX file; with data files `beside` it that of the SHA-256 of all, a line each.

    The file comes first, and then its data files by their names in it: a changed byte of any gives another digest.
    `sha256sum FILE DATA… | cut -d' ' -f1 | sha256sum` tells the same.

    Raises:
        GraphError: one of them is not there any more.
    """
    try:
        if not beside:
            return sha256(path)
        lines = [f"{sha256(file)}\n" for file in (path, *beside)]
    except OSError as error:
        raise GraphError(f"{path} must stay as it is while it is read, but: {first_line(error)}") from error
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def converted_size(path: Path) -> tuple[int, int] | None:
    """(H, W) of the images that aaexport converted the file for, where it was not the recipe's.

    Raises:
        GraphError: missing, truncated or of another format.
    """
    provenance = provenance_of(_load(path))
    return None if provenance is None else provenance.size


def converted_batch(path: Path) -> int | None:
    """The batch that aaexport converted the file for, if it is there and fixed. GraphError as `converted_size`."""
    if not path.is_file():
        return None
    provenance = provenance_of(_load(path))
    return provenance.batch if provenance is not None and isinstance(provenance.batch, int) else None


def summarize(path: Path) -> GraphSummary:
    """Reads an ONNX file and counts what is in it. GraphError as `read_onnx`."""
    model = parse_onnx(path)
    beside = data_files(model, path)
    return summarize_model(_with_external_data(model, path), path, beside)


def summarize_model(model: onnx.ModelProto, path: Path, beside: tuple[Path, ...] = ()) -> GraphSummary:
    """As `summarize`, of a model that was read from `path` and the data files `beside` it already."""
    operators = Counter(qualified(node) for node in all_nodes(model.graph))
    return GraphSummary(
        path=path,
        bytes=path.stat().st_size + sum(file.stat().st_size for file in beside),
        opset=declared_opset(model),
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        operators=dict(operators.most_common()),
        parameters=sum(size_of(t) for t in model.graph.initializer if t.data_type in FLOATING),
        macs=count_macs(model),
        inputs=model_inputs(model),
        outputs=tuple(tensor_info(v) for v in model.graph.output),
        metadata={entry.key: entry.value for entry in model.metadata_props},
        narrows=any(_narrows(node) for node in all_nodes(model.graph)),
        data_files=beside,
    )


def _narrows(node: onnx.NodeProto) -> bool:
    """Whether it casts to a floating type of fewer bits than float32, or to one that only another tensor tells."""
    wide = (TensorProto.FLOAT, TensorProto.DOUBLE)
    to = next((attribute.i for attribute in node.attribute if attribute.name == "to"), None)
    floating = to is None or (to in FLOATING and to not in wide)
    return node.op_type in ("Cast", "CastLike") and floating


def coarsest_type(model: onnx.ModelProto) -> Literal["float32", "float16", "bfloat16"]:
    """The floating-point type of fewest digits that the model computes in: `bfloat16`, `float16`, or `float32`."""
    held = {tensor.data_type for _, tensor in named_tensors(model)}
    held |= {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    casts = (node for node in all_nodes(model.graph) if node.op_type == "Cast")
    held |= {attribute.i for node in casts for attribute in node.attribute if attribute.name == "to"}
    if TensorProto.BFLOAT16 in held:
        return "bfloat16"
    return "float16" if TensorProto.FLOAT16 in held else "float32"


FLOATING = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def _load(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load(path, format="protobuf", load_external_data=False)
    except (OSError, DecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "its bytes are not an ONNX model"
        raise GraphError(f"{path} must be a whole ONNX file, but: {cause}") from error


def _names(model: onnx.ModelProto) -> Iterator[str | bytes]:
    graph = model.graph
    yield from (each.name for each in (*graph.input, *graph.output, *graph.initializer))
    for node in all_nodes(graph):
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)


def _locations(tensor: TensorProto) -> list[str]:
    """Of its external data; there should be one, but readers differ in which of several they take."""
    return [entry.value for entry in tensor.external_data if entry.key == "location"] or [""]


def qualified(node: onnx.NodeProto) -> str:
    """Its operator, with the domain where that is not ai.onnx."""
    return f"{node.domain}.{node.op_type}" if node.domain not in STANDARD_DOMAINS else str(node.op_type)


def size_of(tensor: TensorProto) -> int:
    """How many numbers it has."""
    count = 1
    for dimension in tensor.dims:
        count *= dimension
    return count


def model_inputs(model: onnx.ModelProto) -> tuple[TensorInfo, ...]:
    """What must be fed: older files list their initializers among the inputs too."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return tuple(tensor_info(value) for value in model.graph.input if value.name not in constants)


def tensor_info(value: onnx.ValueInfoProto) -> TensorInfo:
    """Name, type and shape of an input or output."""
    tensor = value.type.tensor_type
    shape = tuple(d.dim_param or None if not d.HasField("dim_value") else int(d.dim_value) for d in tensor.shape.dim)
    known = tensor.elem_type in TensorProto.DataType.values()
    dtype = TensorProto.DataType.Name(tensor.elem_type).lower() if known else f"type {tensor.elem_type}"
    return TensorInfo(value.name, dtype, shape)
