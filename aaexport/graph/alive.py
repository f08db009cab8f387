"""ONNX model → how many bytes of its tensors are alive at a time, where each is freed once it was read last."""

from __future__ import annotations

from collections import Counter

import onnx

from aaexport.graph.intermediate import input_names, output_names, read_nodes, tensor_bytes

# They give a tensor that they were given, in other words of its shape.
SAME_BYTES = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"})


def bytes_alive(model: onnx.ModelProto, batch: int) -> int | None:
    """The most there are at a time for `batch` images, in the order of the nodes; None if a size is not known.

    Initializers do not count, nor what a kernel takes for a moment.
    """
    nodes, sizes = read_nodes(model), tensor_bytes(model, batch)
    held = {tensor.name for tensor in model.graph.initializer} | set(input_names(model))
    origin: dict[str, str] = {}
    for node in nodes:
        if node.operator not in SAME_BYTES or not node.inputs or not node.outputs:  # as a wrong file may have it
            continue
        if node.inputs[0] not in held:
            origin[node.outputs[0]] = origin.get(node.inputs[0], node.inputs[0])
    if any(name not in sizes for node in nodes for name in node.outputs if name not in origin):
        return None
    waiting = Counter(origin.get(name, name) for node in nodes for name in node.inputs)
    waiting.update(origin.get(name, name) for name in output_names(model))
    now = most = 0
    for node in nodes:
        now += sum(sizes[name] for name in node.outputs if name not in origin)
        most = max(most, now)
        read = Counter(origin.get(name, name) for name in node.inputs)
        waiting.subtract(read)
        done = {name for name in read if not waiting[name]}
        done |= {name for name in node.outputs if not waiting[origin.get(name, name)] and name not in origin}
        now -= sum(sizes.get(name, 0) for name in done if name not in held)  # of a file that is wrong, no size
    return most
