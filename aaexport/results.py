"""What the verbs return, where no room of its own defines it (as `parity`, `load` and `training` do)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aaexport.graph.files import GraphSummary
from aaexport.nn.build import Cost
from aaexport.parity import ParityReport
from aaexport.program import Batch
from aaexport.recipe import Recipe


@dataclass(frozen=True)
class ConvertResult:
    """What `convert` wrote. `parity` is None if it was told not to verify."""

    path: Path
    opset: int
    decomposition: str
    batch: Batch
    operators: dict[str, int]
    bytes: int
    seconds: float
    parity: ParityReport | None
    notes: tuple[str, ...] = ()  # what a user should know of the weights


@dataclass(frozen=True)
class InspectResult:
    """What `aaexport inspect` found. `cost` and `recipe` are None for a file, `graph` without a model.onnx."""

    path: Path
    recipe: Recipe | None
    cost: Cost | None
    has_weights: bool
    graph: GraphSummary | None
