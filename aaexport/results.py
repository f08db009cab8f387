"""What the verbs return, where no room of its own defines it (as `parity`, `load` and `training` do)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

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
    notes: tuple[str, ...] = ()  # what a user should know of the weights and of what was asked for
    attention_outputs: tuple[str, ...] = ()
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


@dataclass(frozen=True, eq=False)
class LayerAttention:
    """What the chosen heads of a layer attend to from the chosen queries.

    Attributes:
        layer: its path.
        heads: their numbers.
        pixels: (row, column) of each query in the network's input.
        positions: the same in the layer's map.
        weights: (queries, heads, H, W) over the layer's map; each head's sum to 1.
    """

    layer: str
    heads: tuple[int, ...]
    pixels: tuple[tuple[int, int], ...]
    positions: tuple[tuple[int, int], ...]
    weights: npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class AttentionPicture:
    """What `draw_attention` wrote: the picture of an `image` file in the eyes of a model of that `name`."""

    path: Path
    image: Path
    name: str
    layers: tuple[LayerAttention, ...]
    notes: tuple[str, ...] = ()
