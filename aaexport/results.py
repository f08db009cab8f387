"""What the verbs return, where no room of its own defines it (as `parity`, `load` and `training` do)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aaexport.errors import first_few
from aaexport.outcome import Outcome, presenter
from aaexport.parts import Part

if TYPE_CHECKING:  # heavy libraries stand behind most of these, and not every result has all of them
    import numpy as np
    import numpy.typing as npt

    from aaexport.deployment.artefact import Check
    from aaexport.device import Target
    from aaexport.folder import Dtype
    from aaexport.graph.files import GraphSummary
    from aaexport.graph.on_cuda import OnCuda
    from aaexport.graph.optimize import RuleReport
    from aaexport.graph.precision.reduced import Kept, Layer
    from aaexport.load.launches import Launches
    from aaexport.load.machine import Environment
    from aaexport.load.statistics import Milliseconds, Ratio
    from aaexport.nn.choice import AttentionSizes, Choice
    from aaexport.parity import ParityReport
    from aaexport.recipe import Batch, Cost, Module, Recipe

NAMED_LAYERS = 3


@dataclass(frozen=True)
class KeptLayer:
    """A node that stays in float32 in a file of fewer bits, and why.

    Attributes:
        path: of the PyTorch module that it came from; "" where the file does not tell.
        node, operator: its name and type.
        reason: why it stays.
        alone_db: the SQNR of the answers where it alone was reduced; None where nothing was ranked.
        sqnr_db: that of the answers once it was kept as well as those before it; None likewise.
    """

    path: str
    node: str
    operator: str
    reason: str
    alone_db: float | None = None
    sqnr_db: float | None = None


@dataclass(frozen=True, repr=False)
class ConvertResult(Outcome):
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
    replaced: dict[str, str] = field(default_factory=dict)  # somebody's layers that were written as ours: path → kind
    kept: dict[str, str] = field(default_factory=dict)  # those that looked like it and were left → why
    data_file: Path | None = None  # of the large tensors, beside the file, where protobuf has no room for them
    dtype: Dtype = "float32"
    calibration: str | None = None  # of a file in fewer bits: what it was calibrated on, in words
    reduced: int = 0  # how many of its nodes compute in fewer bits than float32
    kept_layers: tuple[KeptLayer, ...] = ()  # those that could have and do not
    on_cuda: OnCuda | None = None  # what onnxruntime's CUDA provider will make of it, where it is the target

    @property
    def headline(self) -> str:
        """The file, what it is made of, and the verdict."""
        verdict = "not verified" if self.parity is None else self.parity.verdict
        size = f"{sum(self.operators.values())} operators, {self.bytes / 1e6:.2f} MB"
        size += " with its data" if self.data_file is not None else ""
        return f"of {self.path}: opset {self.opset}, {size}, {verdict}"


@dataclass(frozen=True, repr=False)
class OptimizeResult(Outcome):
    """What `optimize` wrote: operators before and after, and what each rule did. `parity` is against the old file."""

    path: Path
    target: Target
    before: dict[str, int]
    after: dict[str, int]
    rules: tuple[RuleReport, ...]
    parity: ParityReport | None
    data_file: Path | None = None  # as of ConvertResult
    notes: tuple[str, ...] = ()  # what a user should know of data files that lie beside it
    dtype: str = "float32"
    reduced: tuple[Layer, ...] = ()  # nodes in float16, where that was asked for
    kept: tuple[Kept, ...] = ()  # nodes that stay in float32 in such a file, and why
    on_cuda: OnCuda | None = None  # as of ConvertResult
    source: Path | None = None  # the file that it was made of
    parts: tuple[Part, ...] = ()  # module by module, for the page

    def to_html(self) -> str:
        """The page that `aaexport optimize --page FILE` writes, for a file in UTF-8; it needs nothing else."""
        return presenter().page(self)

    @property
    def headline(self) -> str:
        """The file, how many operators were and are, and the verdict."""
        verdict = "not verified" if self.parity is None else self.parity.verdict
        return f"of {self.path}: {sum(self.before.values())} → {sum(self.after.values())} operators, {verdict}"


@dataclass(frozen=True, repr=False)
class InspectResult(Outcome):
    """What `aaexport inspect` found. `cost` and `recipe` are None for a file, `graph` without a model.onnx.

    `module` is what a folder was made of that has no network of ours, and so neither recipe nor cost.
    """

    path: Path
    recipe: Recipe | None
    cost: Cost | None
    has_weights: bool
    graph: GraphSummary | None
    module: Module | None = None

    @property
    def name(self) -> str:
        """Of the folder or file, also where it was given as `.`."""
        return self.path.resolve().name if self.path.name in ("", "..") else self.path.name

    @property
    def headline(self) -> str:
        """How large the network is, and its file."""
        graph = self.graph
        parts = [] if self.cost is None else [f"{self.cost.parameters:,} parameters, {self.cost.macs:,} MACs"]
        parts.append("no model.onnx" if graph is None else f"ONNX of {sum(graph.operators.values())} operators")
        return f"of {self.path}: {', '.join(parts)}"


@dataclass(frozen=True, repr=False)
class DeployResult(Outcome):
    """What `deploy` wrote, or `check_deployment` looked at.

    Attributes:
        path: the folder.
        target: what serves it.
        model: under which name; `onnx_sha256` is its file's digest.
        settings: how it runs, by the names of `DeployOptions`.
        files: bytes of each file, by its path in the folder.
        checks: all that was looked at.
        replaced: files that somebody had changed, and that were replaced because that was asked for.
        notes: what a user should know of the settings.
    """

    path: Path
    target: str
    model: str
    onnx_sha256: str
    settings: dict[str, Any]
    files: dict[str, int]
    checks: tuple[Check, ...]
    replaced: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every check did."""
        return all(check.passed for check in self.checks)

    @property
    def headline(self) -> str:
        """The folder, what it is for, and the verdict."""
        failed = [check.name for check in self.checks if not check.passed]
        verdict = f"FAIL: {', '.join(failed)}" if failed else f"PASS: {len(self.checks)} checks"
        return f"of {self.model} for {self.target} in {self.path}: {verdict}"


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


@dataclass(frozen=True)
class Prediction:
    """What a classifier takes an image for: the number of the class, its name, and its share of the softmax."""

    number: int
    name: str
    probability: float


@dataclass(frozen=True, eq=False, repr=False)
class AttentionPicture(Outcome):
    """What `draw_attention` wrote: the picture of an `image` file in the eyes of a model of that `name`.

    `predicted` is None where the network is no classifier.
    """

    path: Path
    image: Path
    name: str
    layers: tuple[LayerAttention, ...]
    notes: tuple[str, ...] = ()
    predicted: Prediction | None = None

    @property
    def headline(self) -> str:
        """The picture, and what is on it."""
        layers = ", ".join(layer.layer for layer in self.layers)
        return f"{self.path}: {self.image} as {self.name} attends to it in {layers}"


@dataclass(frozen=True)
class Candidate:
    """One way to write out the attention of a layer, and what was measured of it.

    Attributes:
        choice: the way.
        first_look: latencies of its first block, alone in the machine; None if it could not even run.
        rounds: latencies of its blocks in turns with the others; empty if the first look was enough to drop it.
        peak_memory: bytes that the first query took at its peak; None where the system does not tell.
        max_abs_error: against float64; None if it could not be computed.
        failure: why it must not be chosen: it left the parity bound, or did not run to the end.
    """

    choice: Choice
    first_look: Milliseconds | None = None
    rounds: tuple[Milliseconds, ...] = ()
    peak_memory: int | None = None
    max_abs_error: float | None = None
    failure: str | None = None

    @property
    def milliseconds(self) -> float | None:
        """The median of the rounds' medians, or of the first look where there was no more; None without both."""
        from aaexport.load.statistics import typical

        blocks = self.rounds or (() if self.first_look is None else (self.first_look,))
        return typical(blocks) if blocks else None

    @property
    def spread(self) -> tuple[float, float] | None:
        """The smallest and the largest median of a round, in milliseconds; None without rounds."""
        from aaexport.load.statistics import typical

        medians = [typical([block]) for block in self.rounds]
        return (min(medians), max(medians)) if medians else None


@dataclass(frozen=True)
class TunedLayer:
    """All layers of a network whose attention has the same sizes.

    `by_cost_model` is what `auto` takes without tuning; `ratio` is its time ÷ that of `rival`, the fastest other one.
    """

    sizes: AttentionSizes
    paths: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    chosen: Choice
    by_cost_model: Choice
    rival: Choice | None
    ratio: Ratio | None


@dataclass(frozen=True)
class PrecisionCandidate:
    """A file of the folder's in one precision, and what was measured of it.

    Attributes:
        dtype: of the file.
        bytes: of it; None if there is none.
        p50: in milliseconds; None where it was not measured, or too few queries were.
        ratio: its latency ÷ that of the float32 file, pair by pair; None of that file, and where it is withheld.
        sqnr_db: the least that its guard found; None of the float32 file, or where nothing was lost.
        accuracy: the share of held-out images that it classifies rightly; None without labels.
        lost: how much less that is than of the float32 file; None likewise, and of that file.
        failure: why it must not be taken; None if it may.
        note: why no ratio is told; None if one is.
        kept: its layers that stay in float32.
    """

    dtype: Dtype
    bytes: int | None = None
    p50: float | None = None
    ratio: Ratio | None = None
    sqnr_db: float | None = None
    accuracy: float | None = None
    lost: float | None = None
    failure: str | None = None
    note: str | None = None
    kept: tuple[KeptLayer, ...] = ()


@dataclass(frozen=True)
class TunedPrecision:
    """The precisions that were tried, float32 first, and which of them to take.

    Attributes:
        chosen: the fastest that its guard passes and that loses at most `max_loss`; another than float32 only if it
            is faster beyond doubt.
        candidates: all that were tried.
        max_loss: the share of held-out images; None where the guard alone decided.
        images: held-out ones behind every accuracy; None without labels.
    """

    chosen: Dtype
    candidates: tuple[PrecisionCandidate, ...]
    max_loss: float | None
    images: int | None


@dataclass(frozen=True, repr=False)
class TuneResult(Outcome):
    """What `tune` measured, and wrote to `path`, unless `not_kept` says why that failed.

    `label` and `provider` are the runtime and the execution provider that really ran, `opset` what the choices are
    for, `timed_opset` that of the files that were timed, None for the same, `batch` the images a query, `threads` of
    a session, None for the runtime's default, `launches` what they were chosen by, None if they were not measured,
    `duration` the seconds of a candidate that took all turns, `precision` the whole network's in several precisions,
    None unless that was asked for.
    """

    path: Path
    label: str
    provider: str
    opset: int
    batch: int
    threads: int | None
    duration: float
    seed: int
    layers: tuple[TunedLayer, ...]
    environment: Environment
    tools: dict[str, str]
    seconds: float
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    not_kept: str | None = None
    launches: Launches | None = None
    precision: TunedPrecision | None = None
    timed_opset: int | None = None

    @property
    def headline(self) -> str:
        """The file, where it was measured, and the choices."""
        chosen = first_few([f"{layer.sizes}: {layer.chosen}" for layer in self.layers], NAMED_LAYERS)
        return f"{self.path}: {self.label}, batch {self.batch}; {chosen}"
