"""A program of torch.export as something to compare a graph with: PyTorch's own tensors, by the exporter's names."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from torch.export import ExportedProgram

from aaexport.capture.program import output_nodes, tensors_inside
from aaexport.graph.intermediate import NodeFacts
from aaexport.parity import Array, Case


@dataclass(frozen=True)
class TracedSide:
    """The program that torch's exporter translated, node by node.

    Attributes:
        program: with the exporter's own decompositions: the tensors of its graph have the names of the file's.
        outputs: what its outputs are called in the file.
        name: what it is called in the report.
    """

    program: ExportedProgram
    outputs: tuple[str, ...]
    name: str

    @property
    def nodes(self) -> tuple[NodeFacts, ...]:
        """A node for every tensor, and for every output one more of the name that the file gives it."""
        inside = (node.name for node in self.program.graph.nodes if node.op == "call_function")
        return tuple(NodeFacts(name, "", (), (name,), None) for name in (*inside, *self.outputs))

    @property
    def output_names(self) -> tuple[str, ...]:
        """As the file has them."""
        return self.outputs

    def run(self, names: Iterable[str], case: Case) -> dict[str, Array]:
        """The tensors `names` for the images of `case`, by PyTorch. RunnerError if it refuses."""
        own = dict(zip(self.outputs, output_nodes(self.program), strict=True))
        asked = {name: own.get(name, name) for name in names}
        inside = tensors_inside(self.program, case.batch, set(asked.values()))
        return {name: inside[node] for name, node in asked.items()}

    def sizes(self, batch: int) -> dict[str, int]:
        """Bytes of tensors: not known."""
        return {}

    def constants(self, shapes: Collection[tuple[int, ...]]) -> dict[str, Array]:
        """Initializers by name: none."""
        return {}
