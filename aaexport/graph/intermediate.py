"""ONNX model → its nodes in order, and models that answer with chosen tensors from its inside."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import EncodeError
from onnx import TensorProto, helper, shape_inference

from aaexport.errors import broken_rule
from aaexport.graph.check import STANDARD_DOMAINS, all_nodes
from aaexport.graph.files import model_inputs
from aaexport.graph.light import light_at_batch
from aaexport.graph.metadata import MODULE_PATH, module_path
from aaexport.graph.outside import is_outside, numbers, parts, serialized
from aaexport.graph.serialized import Serialized

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
WIDEST = 8  # bytes of a number whose type is not known
POINTWISE = ("Add", "Sub", "Mul", "Div", "Neg", "Identity", "Cast")  # what images are normalised with
GUESS = 64 * 2**20  # bytes of a tensor, where the size of none is known


@dataclass(frozen=True)
class NodeFacts:
    """A node of the outermost graph.

    Attributes:
        name: its own, or that of its first output if it has none.
        operator: with its domain, where that is not ai.onnx.
        inputs, outputs: names of tensors; what its subgraphs read from outside is an input too.
        module: path of the innermost PyTorch module that it, or else what it reads, came from; None for the whole.
    """

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    module: str | None


def read_nodes(model: onnx.ModelProto) -> tuple[NodeFacts, ...]:
    """The nodes of the outermost graph in their order, which ONNX wants to be topological."""
    modules: dict[str, str | None] = {}
    facts = []
    for node in model.graph.node:
        reads, writes = read_by(node), tuple(name for name in node.output if name)
        module = _module_path(node)
        if module is None:
            module = next((modules[name] for name in reads if modules.get(name) is not None), None)
        modules.update(dict.fromkeys(writes, module))
        operator = node.op_type if node.domain in STANDARD_DOMAINS else f"{node.domain}.{node.op_type}"
        facts.append(NodeFacts(node.name or ", ".join(writes[:1]), operator, reads, writes, module or None))
    return tuple(facts)


def input_names(model: onnx.ModelProto) -> tuple[str, ...]:
    """What the model must be fed, in order."""
    return tuple(tensor.name for tensor in model_inputs(model))


def output_names(model: onnx.ModelProto) -> tuple[str, ...]:
    """What the model answers with, in order."""
    return tuple(value.name for value in model.graph.output)


def namesakes(nodes: Sequence[NodeFacts], others: Sequence[NodeFacts]) -> dict[str, str]:
    """Tensor of `nodes` → the tensor of `others` that should be equal.

    It has the same name; or else it comes from a node of the same name and operator: who puts a node behind another
    may give the old name to the new tensor, and a new one to the old.
    """
    written = {name for other in others for name in other.outputs}
    by_node = {(other.name, other.operator): other.outputs for other in others}
    found = {}
    for node in nodes:
        counterparts = by_node.get((node.name, node.operator), ())
        for position, name in enumerate(node.outputs):
            if name in written:
                found[name] = name
            elif position < len(counterparts):
                found[name] = counterparts[position]
    return found


def exposing(model: onnx.ModelProto, names: Iterable[str]) -> Serialized:
    """A model that answers with the tensors `names` and holds no more than what they need.

    Raises:
        GraphError: it is above protobuf's 2 GiB without what lies outside.
    """
    wanted = tuple(names)
    needed, nodes = set(wanted), []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(read_by(node))
    graph = onnx.GraphProto(name=model.graph.name, node=reversed(nodes))
    graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in needed)
    graph.sparse_initializer.extend(model.graph.sparse_initializer)
    dropped = {tensor.name for tensor in model.graph.initializer} - needed
    graph.input.extend(value for value in model.graph.input if value.name not in dropped)
    # The runtime infers the types of outputs; what the file says of inner tensors may be the fault that is sought.
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    exposed = onnx.ModelProto(ir_version=model.ir_version, graph=graph)
    exposed.opset_import.extend(model.opset_import)
    exposed.functions.extend(model.functions)
    return serialized(exposed)


def plan_chunks(names: Sequence[str], sizes: Mapping[str, int], budget: int) -> list[tuple[str, ...]]:
    """`names` in their order, in groups of at most `budget` bytes; a tensor above it has a group of its own.

    One whose size is not known is taken to be as large as the largest that is.
    """
    unknown = max(sizes.values(), default=GUESS)
    chunks: list[list[str]] = []
    left = 0
    for name in names:
        size = sizes.get(name, unknown)
        if not chunks or size > left:
            chunks.append([])
            left = budget
        chunks[-1].append(name)
        left -= size
    return [tuple(chunk) for chunk in chunks]


def tensor_bytes(model: onnx.ModelProto, batch: int) -> dict[str, int]:
    """The size of every tensor that nodes write and whose shape can be inferred, for inputs of `batch` images."""
    sizes = {}
    for value in _inferred(model, batch):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(size.HasField("dim_value") for size in tensor.shape.dim):
            width = _bytes_per_number(tensor.elem_type)
            sizes[value.name] = math.prod(size.dim_value for size in tensor.shape.dim) * width
    return sizes


def no_tensors(model: onnx.ModelProto) -> set[str]:
    """What nodes write that is known to be something else: a sequence, an optional value."""
    types = {value.name: value.type for value in _inferred(model, 1)}
    return {name for name, kind in types.items() if kind.WhichOneof("value") not in (None, "tensor_type")}


def pointwise_of_input(model: onnx.ModelProto) -> set[str]:
    """The first input, and all that operators of `POINTWISE` alone make of it and of constants."""
    constants = set(_initializers(model))
    near = set(input_names(model)[:1])
    for node in model.graph.node:
        reads = set(node.input)
        if node.op_type == "Constant":
            constants.update(node.output)
        elif node.op_type in POINTWISE and near.intersection(reads) and reads <= near | constants:
            near.update(node.output)
    return near


def changed_nodes(suspect: onnx.ModelProto, trusted: onnx.ModelProto) -> dict[str, tuple[str, ...]]:
    """Name of every node of `suspect` that `trusted` has otherwise, or not at all → what is different, by lines.

    A node that differs in nothing but the numbers of its initializers has no lines.
    """
    names = [node.name for node in read_nodes(suspect)]
    others = {facts.name: node for facts, node in zip(read_nodes(trusted), trusted.graph.node, strict=True)}
    writers = {name: node for node in trusted.graph.node for name in node.output if name}
    wrong = changed_constants(suspect, trusted)
    changed: dict[str, tuple[str, ...]] = {}
    for name, node in zip(names, suspect.graph.node, strict=True):
        other = _counterpart(node, others.get(name), writers)
        if other is None:
            changed[name] = ("no such node was exported",)
            continue
        lines = tuple(_other_definition(node, other))
        if lines or wrong.intersection(node.input):
            changed[name] = lines
    return changed


def changed_constants(suspect: onnx.ModelProto, trusted: onnx.ModelProto) -> set[str]:
    """Names of the initializers that both have, with other numbers."""
    constants, expected = _initializers(suspect), _initializers(trusted)
    return {name for name in constants.keys() & expected.keys() if not _equal(constants[name], expected[name])}


def constants_of(model: onnx.ModelProto, node: NodeFacts) -> dict[str, Array]:
    """The initializers that the node reads, by name."""
    held = _initializers(model)
    return {name: numbers(held[name]) for name in node.inputs if name in held}


def all_constants(model: onnx.ModelProto, shapes: Iterable[Shape]) -> dict[str, Array]:
    """The initializers of one of `shapes`, by name."""
    wanted = set(shapes)
    return {t.name: numbers(t) for t in model.graph.initializer if tuple(t.dims) in wanted}


def constant_shapes(model: onnx.ModelProto, nodes: Iterable[NodeFacts]) -> set[Shape]:
    """Of the initializers that `nodes` read."""
    held = _initializers(model)
    return {tuple(held[name].dims) for node in nodes for name in node.inputs if name in held}


def read_by(node: onnx.NodeProto) -> tuple[str, ...]:
    """The tensors that a node reads, its subgraphs from outside included, each once."""
    inner = [each.g for each in node.attribute if each.HasField("g")]
    inner += [graph for each in node.attribute for graph in each.graphs]
    names = [*node.input]
    for graph in inner:
        written = {name for each in all_nodes(graph) for name in each.output}
        written |= {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        read = [name for each in all_nodes(graph) for name in each.input] + [value.name for value in graph.output]
        names += [name for name in read if name not in written]
    return tuple(dict.fromkeys(name for name in names if name))


def _module_path(node: onnx.NodeProto) -> str | None:
    return module_path(next((entry.value for entry in node.metadata_props if entry.key == MODULE_PATH), ""))


def _inferred(model: onnx.ModelProto, batch: int) -> list[onnx.ValueInfoProto]:
    """Types of what nodes write, for inputs of `batch` images; none where they contradict each other."""
    try:
        graph = shape_inference.infer_shapes(light_at_batch(model, batch), data_prop=True).graph
    except (shape_inference.InferenceError, ValueError, EncodeError):
        return []
    return [*graph.value_info, *graph.output]


def _bytes_per_number(data_type: int) -> int:
    known = data_type in TensorProto.DataType.values() and data_type != TensorProto.UNDEFINED
    return max(1, np.dtype(helper.tensor_dtype_to_np_dtype(data_type)).itemsize) if known else WIDEST


def _initializers(model: onnx.ModelProto) -> dict[str, TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def _other_definition(node: onnx.NodeProto, other: onnx.NodeProto) -> list[str]:
    """What of operator, attributes and inputs is different."""
    if (node.domain, node.op_type) != (other.domain, other.op_type):
        return [broken_rule("the operator", f"be {other.op_type}", node.op_type)]
    attributes, expected = ({each.name: each for each in one.attribute} for one in (node, other))
    lines = [
        broken_rule(f"attribute {name}", f"be {_shown(expected.get(name))}", _shown(attributes.get(name)))
        for name in sorted(attributes.keys() | expected.keys())
        if attributes.get(name) != expected.get(name)
    ]
    if list(node.input) != list(other.input):
        lines.append(f"inputs must be {', '.join(other.input)}, got {', '.join(node.input)}")
    return lines


def _counterpart(
    node: onnx.NodeProto, namesake: onnx.NodeProto | None, writers: Mapping[str, onnx.NodeProto]
) -> onnx.NodeProto | None:
    """The node that was exported as `node`: one of the same operator that writes the same tensor, or the namesake.

    Names of nodes mean nothing to ONNX, and tools give new ones.
    """
    written = (writers[name] for name in node.output if name in writers)
    return next((each for each in written if each.op_type == node.op_type), namesake)


def _shown(attribute: onnx.AttributeProto | None) -> Any:
    """The value of a short attribute, as it stands in a message."""
    if attribute is None:
        return "its default"
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, int | float) else list(value) if attribute.ints else "another one"


def _equal(one: TensorProto, other: TensorProto) -> bool:
    if one.data_type != other.data_type or one.dims != other.dims:
        return False
    if not is_outside(one) and not is_outside(other) and one.raw_data and other.raw_data:
        return one.raw_data == other.raw_data
    return all(mine.tobytes() == its.tobytes() for mine, its in zip(parts(one), parts(other), strict=True))
