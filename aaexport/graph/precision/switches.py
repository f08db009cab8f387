"""ONNX model → the same with a switch at every convolution: in float32, or by itself as `to_int8` would have it.

To find what each layer costs, each has to be quantized alone. A file and a session for each would take longer than
all the rest: here they are in one, and its input `switches` tells which are on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from aaexport.graph.files import OnnxModel
from aaexport.graph.names import names_of, new_name
from aaexport.graph.optimize import tidy
from aaexport.graph.outside import Room, move_out
from aaexport.graph.precision.eight_bits import EightBits, both_nodes
from aaexport.graph.precision.int8 import convolutions, quantizable
from aaexport.graph.precision.placing import Spot, spots_for, tensors_around, why_not
from aaexport.graph.precision.ranges import Ranges
from aaexport.graph.precision.reduced import Layer, layers_of
from aaexport.graph.precision.weight_types import WeightType
from aaexport.graph.rules.rule import producer


@dataclass(frozen=True)
class Switchable:
    """A model with one more input than the one it was made of.

    Attributes:
        model: the new one, whose last input is `switches`.
        switches: the name of that input, a bool for each of `layers`.
        layers: what each turns on.
    """

    model: OnnxModel
    switches: str
    layers: tuple[Layer, ...]


def switchable(
    model: onnx.ModelProto,
    ranges: Ranges,
    *,
    symmetric: bool = False,
    weights: WeightType = "uint8",
    room: Room | None = None,
) -> Switchable:
    """Every convolution that was seen as an If: what `to_int8` makes of it alone, or itself. Arguments as there.

    A convolution that is on reads and writes 8 bits; what others read of the same tensors is as it was.

    Raises:
        GraphError: as `to_int8`.
        FolderError: there is too little room.
    """
    whole = quantizable(model)
    graph = whole.graph
    layers, names = layers_of(graph), names_of(graph)
    able = [node for node in convolutions(graph) if why_not(node) is None]
    seen = [node for node in able if all(value.name in ranges for value in tensors_around(node))]
    switches = ir.Value(name=new_name("switches", names), shape=ir.Shape([len(seen)]))
    switches.dtype = ir.DataType.BOOL
    graph.inputs.append(switches)
    for place, node in enumerate(seen):
        bits = EightBits(graph, names, weights, symmetric=symmetric)  # its own: what is in one branch is in no other
        spots = spots_for([node], ranges, symmetric=symmetric)
        _put_switch(graph, node, _flag(graph, names, switches, place), _branches(graph, node, bits, spots, names))
    tidy(whole)
    move_out(whole, room)
    return Switchable(ir.serde.serialize_model(whole), switches.name or "", tuple(layers[node] for node in seen))


def _flag(graph: ir.Graph, names: set[str | None], switches: ir.Value, place: int) -> ir.Node:
    """The node that takes one of the switches."""
    index = ir.Value(name=new_name(f"{switches.name}_{place}", names), const_value=ir.Tensor(np.array(place)))
    index.shape, index.dtype = ir.Shape([]), ir.DataType.INT64
    graph.register_initializer(index)
    node = ir.node("Gather", [switches, index], {"axis": 0})
    node.outputs[0].name = new_name(f"{switches.name}_{place}_is_on", names)
    return node


def _branches(
    graph: ir.Graph, node: ir.Node, bits: EightBits, spots: Sequence[Spot], names: set[str | None]
) -> tuple[ir.Graph, ir.Graph]:
    """(in 8 bits, as it was)."""
    image, written = node.inputs[0], node.outputs[0]
    assert image is not None
    grids = {spot.value: spot.grid for spot in spots}
    behind = next(value for value in reversed(tensors_around(node)) if value in grids and value is not image)
    parameters = bits.parameters(node, grids[image])
    read = bits.rounded(image, image, grids[image])
    inputs = [parameters.get(place, value) for place, value in enumerate(node.inputs)]
    computed = _copy(node, [read, *inputs[1:]], names)
    rounded = bits.rounded(written, computed.outputs[0], grids[behind])
    constants = [producer(value) for value in parameters.values()]
    plain = _copy(node, list(node.inputs), names)
    imports = dict(graph.opset_imports)
    return (
        ir.Graph(
            [], [rounded], nodes=[*both_nodes(read), *constants, computed, *both_nodes(rounded)], name="in_8_bits",
            opset_imports=imports,
        ),
        ir.Graph([], [plain.outputs[0]], nodes=[plain], name="as_it_was", opset_imports=imports),
    )  # fmt: skip


def _copy(node: ir.Node, inputs: Sequence[ir.Value | None], names: set[str | None]) -> ir.Node:
    copy = ir.node(node.op_type, inputs, dict(node.attributes))
    (value,) = copy.outputs
    value.name = new_name(f"{node.outputs[0].name}_inside", names)
    value.shape, value.type = node.outputs[0].shape, node.outputs[0].type
    return copy


def _put_switch(graph: ir.Graph, node: ir.Node, flag: ir.Node, branches: tuple[ir.Graph, ir.Graph]) -> None:
    """An If in the place of a convolution."""
    then, other = branches
    written = node.outputs[0]
    choice = ir.node("If", [flag.outputs[0]], {"then_branch": then, "else_branch": other})
    (chosen,) = choice.outputs
    chosen.shape, chosen.type = written.shape, written.type
    graph.insert_before(node, [flag, choice])
    written.replace_all_uses_with(chosen, replace_graph_outputs=True)
    chosen.name, written.name = written.name, None
    graph.remove(node, safe=True)
