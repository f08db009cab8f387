"""ONNX model in float32 → the same with its convolutions in 8 bits, told by QuantizeLinear and DequantizeLinear.

Those are operators of ai.onnx: whoever has no kernel for a convolution in 8 bits computes it in float32, of the same
rounded numbers; who has one replaces the three together. Weights have a scale for each output channel and 0 in the
middle; activations are unsigned and have one scale and one zero point. Nothing but `Conv` with constant weights is
quantized: attention in 8 bits is neither faster nor anywhere near as accurate.

Queries, keys and values come from one convolution, whose result has one grid for all three, although the queries are
a fifth as large as the keys. With a grid for each the answers had 0.9 dB less, 0.0 dB more and 0.9 dB less (trained
`aa_cnn3` and `aa_wrn10_1` on digits, `aa_cnn3` on MNIST, held-out images); with none, which would leave the
convolution in float32 in every runtime, 1.0, 0.6 and 0.7 dB more. So the one grid stays.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx
import onnx_ir as ir

from aaexport.errors import ArgumentError, GraphError, broken_rule
from aaexport.graph.check import STANDARD_DOMAINS, declared_opset
from aaexport.graph.names import names_of, new_name
from aaexport.graph.optimize import apply_rule
from aaexport.graph.outside import Room
from aaexport.graph.precision.eight_bits import EightBits, both_nodes
from aaexport.graph.precision.placing import Spot, spots_for, tensors_around, why_not
from aaexport.graph.precision.ranges import Ranges
from aaexport.graph.precision.reduced import BY_REQUEST, Kept, Layer, Reduced, asked_to_stay, layers_of
from aaexport.graph.precision.stages import begun, ended
from aaexport.graph.precision.weight_types import WEIGHT_TYPES, WeightType
from aaexport.graph.rules.normalization_into_convolution import NormalizationIntoConvolution
from aaexport.graph.rules.rule import producer

PER_CHANNEL_OPSET = 13  # the first in which a scale may be one of many
INSIDE = "it lies in the branch of an If or the body of a loop, which is not seen on calibration images"


def to_int8(
    model: onnx.ModelProto,
    ranges: Ranges,
    *,
    keep: Collection[str] = (),
    symmetric: bool = False,
    weights: WeightType = "uint8",
    room: Room | None = None,
) -> Reduced:
    """The model with its convolutions in 8 bits; `model` stays as it is.

    Args:
        model: in float32, of an opset from 13 on.
        ranges: of its tensors on calibration images, by name (`observe`).
        keep: module paths and nodes that are to stay in float32.
        symmetric: signed activations with 0 in the middle, signed weights and biases in float32, as TensorRT wants
            them, instead of unsigned ones with a zero point and biases in 32 bits, which CPUs compute fastest.
        weights: how they are stored, where they are not signed for `symmetric` (`weight_types`): `uint8` is right on
            every CPU; `int8` is faster, and wrong in onnxruntime on x86 without VNNI; `int7` is right and fast on
            every CPU, and up to 6 dB less accurate.
        room: as of `optimize_model`, for a model that is above 2 GiB even then.

    Raises:
        ArgumentError: `keep` names what is not there; `weights` is another kind.
        GraphError: the model is not in float32, is of an older opset, or holds nothing to quantize; a weight or a
            bias is not finite.
        FolderError: there is too little room.
    """
    if weights not in WEIGHT_TYPES:
        raise ArgumentError(broken_rule("weights", f"be one of {', '.join(WEIGHT_TYPES)}", str(weights)))
    whole = quantizable(model)
    graph = whole.graph
    layers = layers_of(graph)
    stays = {node: reason for node in convolutions(graph) if (reason := why_not(node)) is not None}
    able = [node for node in convolutions(graph) if node not in stays]
    asked = asked_to_stay(keep, [layers[node] for node in able], "int8")
    for node in able:
        if layers[node] in asked:
            stays[node] = BY_REQUEST
        elif (unseen := next((v.name for v in tensors_around(node) if v.name not in ranges), None)) is not None:
            stays[node] = f"{unseen} was not seen on calibration images"
    chosen = [node for node in able if node not in stays]
    reduced = [layers[node] for node in chosen]
    kept = [*(Kept(layers[node], stays[node]) for node in graph if node in stays), *_inside(graph)]
    _Quantizing(graph, weights, symmetric=symmetric).apply(chosen, spots_for(chosen, ranges, symmetric=symmetric))
    return ended(whole, model, "int8", reduced, kept, room)


def quantizable(model: onnx.ModelProto) -> ir.Model:
    """A copy for the pass, batch normalizations inside the convolutions before them. GraphError as `to_int8`."""
    whole = begun(model, "int8")
    opset = declared_opset(model)
    if opset < PER_CHANNEL_OPSET:
        rule = f"be at least {PER_CHANNEL_OPSET} for int8 with a scale for each channel"
        raise GraphError(broken_rule("opset", rule, opset, "convert it for a later one"))
    apply_rule(NormalizationIntoConvolution("cpu"), whole)
    if not any(why_not(node) is None for node in convolutions(whole.graph)):
        rule = "hold a convolution with constant weights to become int8"
        raise GraphError(broken_rule("the model", rule, "none", "nothing else is quantized"))
    return whole


def convolutions(graph: ir.Graph) -> list[ir.Node]:
    """Those of the outermost graph."""
    return [node for node in graph if node.op_type == "Conv" and node.domain in STANDARD_DOMAINS]


def _inside(graph: ir.Graph) -> list[Kept]:
    nodes = (node for inner in graph.subgraphs() for node in convolutions(inner))
    return [Kept(Layer("", node.name or node.outputs[0].name or "", node.op_type), INSIDE) for node in nodes]


class _Quantizing:
    """A graph, and what is put into it for tensors in 8 bits."""

    def __init__(self, graph: ir.Graph, weights: WeightType, *, symmetric: bool) -> None:
        self._graph, self._names = graph, names_of(graph)
        self._bits = EightBits(graph, self._names, weights, symmetric=symmetric)

    def apply(self, nodes: Sequence[ir.Node], spots: Sequence[Spot]) -> None:
        """Changes the graph: the convolutions `nodes` compute in 8 bits, `spots` are what they read and write."""
        grids = {spot.value: spot.grid for spot in spots}
        for node in nodes:
            image = node.inputs[0]
            assert image is not None
            for place, value in self._bits.parameters(node, grids[image]).items():
                if producer(value).graph is None:
                    self._graph.insert_before(node, producer(value))
                node.replace_input_with(place, value)
        for spot in reversed(spots):  # so that what is done to inputs stands in their order
            self._tensor(spot)

    def _tensor(self, spot: Spot) -> None:
        """Quantizes and dequantizes a tensor; all who read it, and who asks the model for it, get the rounded one."""
        value, origin = spot.value, spot.source.producer()
        rounded = self._bits.rounded(value, spot.source, spot.grid)
        pair = both_nodes(rounded)
        readers = [use for use in value.uses() if use.node is not pair[0]]
        if origin is None:
            self._graph.insert_before(self._graph[0], pair)
        else:
            for node in pair:
                node.metadata_props.update(origin.metadata_props)
            self._graph.insert_after(origin, pair)
        for use in readers:
            use.node.replace_input_with(use.idx, rounded)
        if not value.is_graph_input():
            self._take_name(value, rounded)

    def _take_name(self, value: ir.Value, rounded: ir.Value) -> None:
        """`rounded` goes by the name of `value`, which nobody else reads any more, and the model answers with it."""
        name = value.name
        value.name = new_name(f"{name}_unquantized", self._names)
        rounded.name = name
        for place, output in enumerate(self._graph.outputs):
            if output is value:
                self._graph.outputs[place] = rounded
