"""What the verbs return, where no room of its own defines it (as `parity`, `load` and `training` do)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from aaexport.graph.files import GraphSummary
from aaexport.nn.build import Cost
from aaexport.parity import ParityReport
from aaexport.program import Batch
from aaexport.recipe import Recipe

if TYPE_CHECKING:  # the rewriter takes a second to import
    from aaexport.graph.optimize import RuleReport
    from aaexport.graph.rules import Target


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
    rules: dict[str, int] = field(default_factory=dict)  # the graph rules that were applied, and how often


@dataclass(frozen=True)
class OptimizeResult:
    """What `optimize` wrote: operators before and after, and what each rule did. `parity` is against the old file."""

    path: Path
    target: Target
    before: dict[str, int]
    after: dict[str, int]
    rules: tuple[RuleReport, ...]
    parity: ParityReport | None


@dataclass(frozen=True)
class InspectResult:
    """What `aaexport inspect` found. `cost` and `recipe` are None for a file, `graph` without a model.onnx."""

    path: Path
    recipe: Recipe | None
    cost: Cost | None
    has_weights: bool
    graph: GraphSummary | None
