"""ONNX model in float32 → the same in float16, but for the nodes that would lose more than digits by it.

Every tensor that a node computes in float16 is float16 from then on, and a `Cast` stands where a node that stays in
float32 reads it, or the other way round: one for each tensor and direction. Inputs and outputs of the model stay as
they are, unless `io_dtype` says otherwise.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
import onnx_ir as ir

from aaexport.device import Target
from aaexport.errors import ArgumentError, broken_rule
from aaexport.graph.names import names_of, new_name
from aaexport.graph.optimize import apply_rules
from aaexport.graph.outside import Room
from aaexport.graph.precision.bounds import magnitudes
from aaexport.graph.precision.ranges import Ranges
from aaexport.graph.precision.reduced import BY_REQUEST, Kept, Reduced, asked_to_stay, layers_of
from aaexport.graph.precision.stages import begun, ended
from aaexport.graph.precision.stays import narrow_inputs, narrow_outputs, reasons_to_stay, touches_float32
from aaexport.graph.precision.values import is_constant, is_float32
from aaexport.graph.rules import CUDA_RULES

IoType = Literal["float32", "float16"]
IO_TYPES: tuple[IoType, ...] = ("float32", "float16")
NARROW, WIDE = ir.DataType.FLOAT16, ir.DataType.FLOAT
SUFFIX = {NARROW: "float16", WIDE: "float32"}
SHAPES = ("Shape", "Size")  # they read no number of what they are given
TYPES = ("to", "dtype")  # attributes that tell the type of what is made


def to_float16(
    model: onnx.ModelProto,
    ranges: Ranges,
    *,
    keep: Collection[str] = (),
    io_dtype: IoType = "float32",
    target: Target = "cpu",
    room: Room | None = None,
) -> Reduced:
    """The model in float16; `model` stays as it is.

    Args:
        model: in float32, of an opset from 11 on.
        ranges: of its tensors on calibration inputs, by name (`observe`); a node of which one is missing stays.
        keep: module paths and nodes that are to stay in float32.
        io_dtype: of inputs and outputs.
        target: `cuda` for a file that suits the kernels there are in float16, if `model` suits those in float32.
        room: as of `optimize_model`, for a model that is above 2 GiB even then.

    Raises:
        ArgumentError: `keep` names what is not there, or `io_dtype` is another type.
        GraphError: the model is not in float32, or is none.
        FolderError: there is too little room.
    """
    if io_dtype not in IO_TYPES:
        raise ArgumentError(broken_rule("io_dtype", f"be one of {', '.join(IO_TYPES)}", str(io_dtype)))
    whole = begun(model, "float16")
    graph = whole.graph
    layers = layers_of(graph)
    known = [layer for node, layer in layers.items() if touches_float32(node)]
    asked = asked_to_stay(keep, known, "float16")
    stays = reasons_to_stay(graph, magnitudes(graph, ranges))
    stays |= {node: BY_REQUEST for node, layer in layers.items() if layer in asked and touches_float32(node)}
    narrowing = _Narrowing(graph, set(stays), io_dtype)
    reduced = [layers[node] for node in narrowing.nodes if node.op_type not in SHAPES]
    kept = [Kept(layers[node], stays[node]) for node in graph if node in stays]
    narrowing.apply()
    if target == "cuda":
        apply_rules([rule(target) for rule in CUDA_RULES], whole)
    return ended(whole, model, "float16", reduced, kept, room)


@dataclass
class _Readers:
    """Who reads a tensor in which type: nodes and the places of their inputs."""

    narrow: list[tuple[ir.Node, int]]
    wide: list[tuple[ir.Node, int]]


class _Narrowing:
    """A graph in float32, which of its nodes compute in float16, and what they read and write in it."""

    def __init__(self, graph: ir.Graph, stays: set[ir.Node], io_dtype: IoType) -> None:
        self._graph, self._io = graph, NARROW if io_dtype == "float16" else WIDE
        self._names, self._answers = names_of(graph), set(graph.outputs)
        self._narrow: set[ir.Value] = set(filter(is_float32, graph.inputs)) if self._io == NARROW else set()
        self._reads: dict[ir.Node, tuple[int, ...]] = {}
        self._writes: dict[ir.Node, tuple[int, ...]] = {}
        for node in graph:
            if node not in stays and touches_float32(node) and self._is_to_be_narrow(node):
                self._reads[node], self._writes[node] = narrow_inputs(node), narrow_outputs(node)
                self._narrow.update(node.outputs[place] for place in self._writes[node])

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """Those that compute in float16."""
        return tuple(self._reads)

    def _is_to_be_narrow(self, node: ir.Node) -> bool:
        """One that writes no float32 takes what there is: a Cast of what it reads would gain nothing."""
        if any(is_float32(value) for value in node.outputs):
            return True
        read = [node.inputs[place] for place in narrow_inputs(node)]
        return any(value in self._narrow for value in read) and all(
            value in self._narrow or is_constant(value) for value in read
        )

    def apply(self) -> None:
        """Changes the graph."""
        computed = [value for node in self._graph for value in node.outputs]
        values = [value for value in (*self._graph.inputs, *computed) if is_float32(value)]
        constants = [value for value in self._graph.initializers.values() if is_float32(value)]
        readers = {value: self._readers(value) for value in (*values, *constants)}
        for node, places in self._writes.items():
            if places:
                _retype(node)
        for value in constants:
            if not value.is_graph_input():
                self._constant(value, readers[value])
        for value in reversed(values):  # so that the casts of inputs stand in the inputs' order
            self._computed(value, readers[value])

    def _readers(self, value: ir.Value) -> _Readers:
        found = _Readers([], [])
        for node, place in value.uses():
            (found.narrow if place in self._reads.get(node, ()) else found.wide).append((node, place))
        return found

    def _constant(self, value: ir.Value, readers: _Readers) -> None:
        """In either type that somebody reads it in, or answers with."""
        is_answer = value in self._answers
        if not readers.narrow and not (is_answer and self._io == NARROW):
            return
        assert value.const_value is not None
        with np.errstate(over="ignore"):  # of one that the model answers with, in the type that was asked for
            tensor = ir.Tensor(value.const_value.numpy().astype(np.float16, order="C"))
        if not readers.wide and not (is_answer and self._io == WIDE):
            value.const_value, value.dtype = tensor, NARROW
            return
        narrow = ir.Value(shape=value.shape, const_value=tensor)
        narrow.dtype = NARROW
        self._name(narrow, value, WIDE, is_answer=is_answer and self._io == NARROW)
        self._graph.register_initializer(narrow)
        _reread(readers.narrow, narrow)

    def _computed(self, value: ir.Value, readers: _Readers) -> None:
        """In the type that it is computed in, and by one Cast in the other for who reads it in that, or answers."""
        own = NARROW if value in self._narrow else WIDE
        other, others = (WIDE, readers.wide) if own == NARROW else (NARROW, readers.narrow)
        is_answer = value in self._answers and self._io != own
        value.dtype = own
        if not others and not is_answer:
            return
        cast = ir.node("Cast", [value], {"to": other})
        made = cast.outputs[0]
        made.shape, made.dtype = value.shape, other
        self._name(made, value, own, is_answer=is_answer)
        source = value.producer()
        if source is None:
            self._graph.insert_before(self._graph[0], cast)
        else:
            cast.metadata_props.update(source.metadata_props)
            self._graph.insert_after(source, cast)
        _reread(others, made)

    def _name(self, other: ir.Value, value: ir.Value, own: ir.DataType, *, is_answer: bool) -> None:
        """Names the second type of a value; if the model answers with that, it takes the name of the first."""
        if not is_answer:
            other.name = new_name(f"{value.name}_{SUFFIX[other.dtype or own]}", self._names)
            return
        name, value.name = value.name, new_name(f"{value.name}_{SUFFIX[own]}", self._names)
        other.name = name
        for place, output in enumerate(self._graph.outputs):
            if output is value:
                self._graph.outputs[place] = other


def _reread(readers: list[tuple[ir.Node, int]], value: ir.Value) -> None:
    for node, place in readers:
        node.replace_input_with(place, value)


def _retype(node: ir.Node) -> None:
    """Tells a node that makes float32 by an attribute, or without one, to make float16."""
    if node.op_type == "ConstantOfShape":
        told = node.attributes.get("value")
        numbers = np.zeros(1, np.float32) if told is None else told.as_tensor().numpy()
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(numbers.astype(np.float16)))
    for name in TYPES:
        told = node.attributes.get(name)
        if told is not None and told.value == WIDE:
            node.attributes[name] = ir.AttrInt64(name, NARROW)
