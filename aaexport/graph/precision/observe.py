"""ONNX model → the tensors whose ranges a pass wants, and models that answer with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from aaexport.graph.files import OnnxModel
from aaexport.graph.intermediate import exposing
from aaexport.graph.optimize import editable
from aaexport.graph.precision.bounds import to_be_seen
from aaexport.graph.precision.int8 import convolutions, quantizable
from aaexport.graph.precision.kinds import Kind, require_float32
from aaexport.graph.precision.placing import tensors_around, why_not
from aaexport.graph.precision.reduced import Layer, layers_of
from aaexport.graph.precision.stays import touches_float32
from aaexport.graph.serialized import Serialized


@dataclass(frozen=True)
class Observed:
    """What is to be seen of a model on images.

    Attributes:
        model: without functions, so that the passes and who runs it know its tensors by the same names.
        names: of the tensors, inputs of the model among them, in their order.
        layers: who writes each tensor that is no input, for `RangeCollector`.
        reducible: what the pass could reduce.
    """

    model: OnnxModel
    names: tuple[str, ...]
    layers: Mapping[str, Layer]
    reducible: tuple[Layer, ...]

    def answering(self, names: Iterable[str]) -> Serialized:
        """A model that answers with these of the tensors, which are none of its inputs. GraphError above 2 GiB."""
        return exposing(self.model, names)


def observe(model: onnx.ModelProto, kind: Kind) -> Observed:
    """What a pass to `kind` wants to see; no more than that, for every tensor has to be looked at on every image.

    Raises:
        GraphError: the model is not in float32, is none, or cannot become `kind`.
    """
    if kind == "int8":
        graph = quantizable(model).graph
        able = [node for node in convolutions(graph) if why_not(node) is None]
        wanted = {value.name for node in able for value in tensors_around(node)}
    else:
        require_float32(model, kind)
        graph = editable(model).graph
        able = [node for node in graph if touches_float32(node)]
        wanted = {value.name for value in to_be_seen(graph)}
    known, plain = layers_of(graph), editable(model)
    layers = {value.name or "": layer for node, layer in layers_of(plain.graph).items() for value in node.outputs}
    names = (*(value.name or "" for value in plain.graph.inputs), *layers)
    return Observed(
        ir.serde.serialize_model(plain) if model.functions else model,
        tuple(name for name in names if name in wanted),
        {name: layer for name, layer in layers.items() if name in wanted},
        tuple(known[node] for node in able),
    )
