"""Looking into an ONNX graph and changing it in place: what the mutants are made with."""

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper


def find(graph: GraphProto, op_type: str, index: int = 0) -> NodeProto:
    """The node of that type, counted from 0 in the graph's order."""
    return [node for node in graph.node if node.op_type == op_type][index]


def convolution(graph: GraphProto, layer: str) -> NodeProto:
    """The one with the weight of the layer at that path, whatever the graph rules made of the weight."""
    return next(n for n in graph.node if n.op_type == "Conv" and n.input[1].startswith(f"{layer}.weight"))


def producer(graph: GraphProto, value: str) -> NodeProto:
    """The node that computes `value`."""
    return next(node for node in graph.node if value in node.output)


def readers(graph: GraphProto, value: str) -> list[NodeProto]:
    """The nodes that read `value`."""
    return [node for node in graph.node if value in node.input]


def initializer(graph: GraphProto, name: str) -> TensorProto:
    """The initializer of that name."""
    return next(tensor for tensor in graph.initializer if tensor.name == name)


def numbers(graph: GraphProto, name: str) -> np.ndarray:
    """A copy of what an initializer holds."""
    return numpy_helper.to_array(initializer(graph, name)).copy()


def put(graph: GraphProto, name: str, array: np.ndarray) -> None:
    """Gives an initializer other numbers."""
    initializer(graph, name).CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))


def constant(graph: GraphProto, array: object, dtype: type = np.float32) -> str:
    """The name of a new initializer."""
    name = f"mutant_constant_{len(graph.initializer)}"
    graph.initializer.append(numpy_helper.from_array(np.asarray(array, dtype), name))
    return name


def attribute(node: NodeProto, name: str, value: object) -> None:
    """Sets an attribute, or removes it with None."""
    kept = [entry for entry in node.attribute if entry.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)
    if value is not None:
        node.attribute.append(helper.make_attribute(name, value))


def replace_input(node: NodeProto, old: str, new: str) -> None:
    """Makes the node read `new` in the place of `old`."""
    node.input[:] = [new if name == old else name for name in node.input]


def forget_type(graph: GraphProto, *names: str) -> None:
    """Takes away what the file notes of those tensors, where another shape would contradict it."""
    kept = [value for value in graph.value_info if value.name not in names]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def drop(graph: GraphProto, node: NodeProto) -> None:
    """Takes a node out: who read its output reads its first input."""
    for reader in readers(graph, node.output[0]):
        replace_input(reader, node.output[0], node.input[0])
    graph.node.remove(node)


def insert_before(graph: GraphProto, node: NodeProto, index: int, op_type: str, *extra: str, **attributes):
    """One more operator on the way to an input of a node, with the initializers `extra` as its further inputs."""
    new = _put(graph, list(graph.node).index(node), _make(graph, op_type, [node.input[index], *extra], **attributes))
    node.input[index] = new.output[0]
    return new


def insert_after(graph: GraphProto, value: str, op_type: str, *extra: str, **attributes):
    """One more operator on the way from `value` to all who read it, the graph's outputs too."""
    if value in {entry.name for entry in graph.input}:
        new, position, targets = _make(graph, op_type, [value, *extra], **attributes), 0, readers(graph, value)
        for reader in targets:
            replace_input(reader, value, new.output[0])
    else:
        source = producer(graph, value)
        position = list(graph.node).index(source) + 1
        before = f"{value}_before_mutant_{len(graph.node)}"
        source.output[:] = [before if name == value else name for name in source.output]
        new = _make(graph, op_type, [before, *extra], **attributes)
        new.output[0] = value
    return _put(graph, position, new)


def _put(graph: GraphProto, position: int, node: NodeProto) -> NodeProto:
    """The node in the graph, which is a copy of the one that was given."""
    graph.node.insert(position, node)
    return graph.node[position]


def _make(graph: GraphProto, op_type: str, inputs: list[str], **attributes) -> NodeProto:
    name = f"mutant_{op_type}_{len(graph.node)}"
    return helper.make_node(op_type, inputs, [f"{name}_output"], name, **attributes)


def touched(good: onnx.ModelProto, bad: onnx.ModelProto) -> tuple[set[str], set[str]]:
    """Names of the nodes of `bad` that are not in `good` as they are, and of those that read what they compute.

    A node is another one if its operator, its attributes, the names around it or the initializers that it reads
    differ.
    """
    before, after = _described(good.graph), _described(bad.graph)
    changed = {name for name, described in after.items() if before.get(name) != described}
    outputs = {output for node in bad.graph.node if node.name in changed for output in node.output}
    consumers = {node.name for node in bad.graph.node if outputs & set(node.input)}
    return changed, consumers - changed


def _described(graph: GraphProto) -> dict[str, tuple[object, ...]]:
    """Every node by its name, with all that decides what it computes of its inputs."""
    held = {tensor.name: tensor.SerializeToString(deterministic=True) for tensor in graph.initializer}
    return {
        node.name: (
            node.domain,
            node.op_type,
            tuple(node.input),
            tuple(node.output),
            sorted(entry.SerializeToString(deterministic=True) for entry in node.attribute),
            tuple(held.get(name) for name in node.input),
        )
        for node in graph.node
    }
