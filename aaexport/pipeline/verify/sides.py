"""Two models to compare → what each says of itself, and the tensors inside it for the same images."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Protocol

from aaexport.graph.files import OnnxModel
from aaexport.graph.intermediate import (
    NodeFacts,
    all_constants,
    exposing,
    input_names,
    no_tensors,
    output_names,
    pointwise_of_input,
    read_nodes,
    tensor_bytes,
)
from aaexport.graph.serialized import Serialized
from aaexport.parity import Array, Case
from aaexport.runners.base import Runner

Start = Callable[[Serialized], Runner]


@dataclass(frozen=True)
class Side:
    """A model, what runs it (`start` loads it without a file), and what it is called in the report."""

    model: OnnxModel
    start: Start
    name: str

    @property
    def nodes(self) -> tuple[NodeFacts, ...]:
        """In order."""
        return read_nodes(self.model)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Of the model."""
        return output_names(self.model)

    def sizes(self, batch: int) -> dict[str, int]:
        """Bytes of its tensors, of those that are known."""
        return tensor_bytes(self.model, batch)

    def constants(self, shapes: Collection[tuple[int, ...]]) -> dict[str, Array]:
        """Its initializers of these shapes, by name."""
        return all_constants(self.model, set(shapes))

    @property
    def tensors(self) -> list[str]:
        """What its nodes write and can be asked for, in order."""
        hidden = no_tensors(self.model)
        return [name for node in self.nodes for name in node.outputs if name not in hidden]

    @property
    def near_input(self) -> set[str]:
        """The images, and what is made of them number by number."""
        return pointwise_of_input(self.model)

    def fed(self, case: Case) -> list[Array]:
        """What the network is fed for `case`: the images, unless it is something that is near the input."""
        near = self.near_input
        network = (node for node in self.nodes if not near.intersection(node.outputs))
        names = each_once(name for node in network for name in node.inputs if name in near)
        made = [name for name in names if name not in input_names(self.model)]
        arrays = self.run(made, case) if made else {}
        return [arrays.get(name, case.batch) for name in names]

    def run(self, names: Iterable[str], case: Case) -> dict[str, Array]:
        """The tensors `names` of the model for the images of `case`. RunnerError if the runtime refuses."""
        with self.start(exposing(self.model, names)) as runner:
            return runner.infer({port.name: case.batch.astype(port.dtype) for port in runner.inputs[:1]})


class Trusted(Protocol):
    """What a suspect is compared with; a Side, or whatever knows its tensors by the same names."""

    @property
    def name(self) -> str:
        """What it is called in the report."""

    @property
    def nodes(self) -> tuple[NodeFacts, ...]:
        """In order."""

    @property
    def output_names(self) -> tuple[str, ...]:
        """Of the whole."""

    def sizes(self, batch: int) -> dict[str, int]:
        """Bytes of its tensors for `batch` images, of those that are known."""

    def constants(self, shapes: Collection[tuple[int, ...]]) -> dict[str, Array]:
        """Its initializers of these shapes, by name."""

    def run(self, names: Iterable[str], case: Case) -> dict[str, Array]:
        """The tensors `names`. RunnerError if it cannot be run."""


def each_once(names: Iterable[str]) -> tuple[str, ...]:
    """In the order in which they come first."""
    return tuple(dict.fromkeys(names))
