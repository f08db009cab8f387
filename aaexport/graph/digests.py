"""What a file remembers of itself, so that a later change of one number is seen however small it is.

Its metadata hold a digest of the graph without its numbers, and one of the numbers of every tensor. A tool that
rewrites the file changes the first; then the others mean nothing, because numbers may have moved. While the first
holds, every number must be the one that was converted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import helper

from aaexport.graph.check import STANDARD_DOMAINS
from aaexport.graph.metadata import PREFIX, read_object
from aaexport.graph.tensors import Content, contents

GRAPH_KEY = PREFIX + "graph_digest"
TENSORS_KEY = PREFIX + "initializers"


@dataclass(frozen=True)
class Digests:
    """SHA-256 of the graph, and the first digits of the SHA-256 of each tensor by its name."""

    graph: str
    tensors: Mapping[str, str]

    def changed_since(self, before: Digests) -> tuple[str, ...]:
        """The tensors that do not hold the same any more, in the file's order; in the same graph, new ones too."""
        same = before.graph == self.graph
        return tuple(
            name
            for name, digest in self.tensors.items()
            if before.tensors.get(name, None if same else digest) != digest
        )


def digests_of(model: onnx.ModelProto, held: Iterable[Content] | None = None) -> Digests:
    """Of the model as it is; `held` is what `contents` found in it, where that is known already."""
    found = contents(model) if held is None else held
    return Digests(graph_digest(model), {each.name: each.digest for each in found if each.digest is not None})


def read_digests(model: onnx.ModelProto) -> Digests | None:
    """What the file remembers; None where it does not."""
    properties = {entry.key: entry.value for entry in model.metadata_props}
    tensors = {k: v for k, v in read_object(properties.get(TENSORS_KEY, "")).items() if isinstance(v, str)}
    graph = properties.get(GRAPH_KEY)
    return None if graph is None or TENSORS_KEY not in properties else Digests(graph, tensors)


def record_digests(model: onnx.ModelProto) -> None:
    """Writes the digests into the metadata: the last change of a model before it is a file."""
    digests = digests_of(model)
    for entry in [entry for entry in model.metadata_props if entry.key in (GRAPH_KEY, TENSORS_KEY)]:
        model.metadata_props.remove(entry)
    model.metadata_props.add(key=GRAPH_KEY, value=digests.graph)
    model.metadata_props.add(key=TENSORS_KEY, value=json.dumps(dict(digests.tensors)))


def renew_digests(model: onnx.ModelProto, source: onnx.ModelProto) -> None:
    """Records those of a `model` rewritten from `source`, if source had some that held.

    Otherwise the old ones stay: what was changed before is not made good by rewriting it.
    """
    recorded = read_digests(source)
    if recorded is None:
        return
    now = digests_of(source)
    if now.graph == recorded.graph and not now.changed_since(recorded):
        record_digests(model)


def graph_digest(model: onnx.ModelProto) -> str:
    """SHA-256 of what is computed: operators, attributes, names of values, signature and opsets.

    The contents of tensors, documentation, metadata and the names of nodes do not count.
    """
    described = {
        "opsets": sorted([_domain(entry.domain), entry.version] for entry in model.opset_import),
        "graph": _graph(model.graph),
        "functions": [_function(function) for function in model.functions],
    }
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _graph(graph: onnx.GraphProto) -> dict[str, Any]:
    return {
        "inputs": [_value(value) for value in graph.input],
        "outputs": [_value(value) for value in graph.output],
        "nodes": [_node(node) for node in graph.node],
    }


def _function(function: onnx.FunctionProto) -> list[Any]:
    nodes = [_node(node) for node in function.node]
    return [function.domain, function.name, list(function.input), list(function.output), nodes]


def _value(value: onnx.ValueInfoProto) -> list[Any]:
    tensor = value.type.tensor_type
    sizes = [size.dim_value if size.HasField("dim_value") else size.dim_param for size in tensor.shape.dim]
    return [value.name, value.type.WhichOneof("value"), tensor.elem_type, sizes]


def _node(node: onnx.NodeProto) -> list[Any]:
    attributes = sorted((_attribute(attribute) for attribute in node.attribute), key=lambda each: str(each[0]))
    return [_domain(node.domain), node.op_type, list(node.input), list(node.output), attributes]


def _attribute(attribute: onnx.AttributeProto) -> list[Any]:
    if attribute.ref_attr_name:
        return [attribute.name, attribute.type, attribute.ref_attr_name]
    return [attribute.name, attribute.type, _plain(helper.get_attribute_value(attribute))]


def _plain(value: Any) -> Any:
    """An attribute's value as JSON can write it; a tensor's numbers have a digest of their own."""
    if isinstance(value, onnx.GraphProto):
        return _graph(value)
    if isinstance(value, onnx.TensorProto | onnx.SparseTensorProto):
        return "tensor"
    if isinstance(value, onnx.TypeProto):
        return value.SerializeToString(deterministic=True).hex()
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value if isinstance(value, int | float | str) else [_plain(each) for each in value]


def _domain(domain: str) -> str:
    return "" if domain in STANDARD_DOMAINS else domain
