"""What a verification found: a matrix of computations and inputs, the file's own faults, and where it went wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from aaexport.errors import first_few
from aaexport.outcome import Outcome, presenter
from aaexport.parity.guard import GuardReport
from aaexport.parity.thresholds import shown
from aaexport.parity.tolerance import Tolerance

# The way from the definition to an answer. Every computation adds one stage to those before it.
Stage = Literal[
    "decomposition", "exporter", "graph rules", "file", "kernels", "optimizer", "device", "TF32", "service"
]
STAGES: dict[Stage, str] = {
    "decomposition": "PyTorch computes something else by this decomposition than by the definition",
    "exporter": "torch's exporter wrote something else than PyTorch computes",
    "graph rules": "aaexport's graph rules changed the function",
    "file": "the file holds another function than the model",
    "kernels": "the runtime computes something else than the file says",
    "optimizer": "onnxruntime's graph optimizer changed the function",
    "device": "the device computes something else than the CPU",
    "TF32": "TF32 is too coarse for this model: serve with use_tf32=0, or accept it with --atol and --rtol",
    "service": "the live service answers something else than the file that it is to serve",
}


SUFFIX = "ExecutionProvider"  # of the names that onnxruntime gives its providers
NAMED_NODES = 5
BEFORE_THE_FILE: tuple[Stage, ...] = ("decomposition", "exporter")  # passing these says nothing of the file


@dataclass(frozen=True)
class OutputParity:
    """One output of one case by one computation. Errors are against float64.

    The numbers are None where the arrays cannot be subtracted (another shape or type, or NaN); they are kept on
    success as well as on failure.

    Attributes:
        case: what was fed.
        output: its name.
        failure: what is wrong, or None.
        extreme: whether the inputs are of a kind that no model is made for, and the bound was that of PyTorch's own
            error alone.
        warning: what is to be looked at although it is no failure, or None.
        max_abs_error, mean_abs_error: over all numbers of the output.
        max_rel_error, mean_rel_error: each number's error ÷ its expected size, or ÷ float32's unit in the last place
            of the largest where it is smaller than that.
        baseline_max_abs_error: PyTorch's own largest error in float32.
        error_ratio: the largest error ÷ PyTorch's own; None where that is zero.
        max_abs_expected: the size of the largest number.
        cosine: of the angle between what was expected and what was given; None if one of them is zero.
        sqnr_db: signal to noise, 10 · log10(Σ expected² / Σ error²) in dB; None without noise or without signal.
        top1_agreement, top5_agreement: the share of rows of (batch, classes) with the same largest entry, and the
            mean share of the five largest that are the same; None for other outputs, or fewer than five classes.
        compared: whether there was a number to compare; none is where all that should come out is NaN or infinite.
    """

    case: str
    output: str
    failure: str | None
    extreme: bool = False
    warning: str | None = None
    max_abs_error: float | None = None
    mean_abs_error: float | None = None
    max_rel_error: float | None = None
    mean_rel_error: float | None = None
    baseline_max_abs_error: float | None = None
    error_ratio: float | None = None
    max_abs_expected: float | None = None
    cosine: float | None = None
    sqnr_db: float | None = None
    top1_agreement: float | None = None
    top5_agreement: float | None = None
    compared: bool = True

    @property
    def passed(self) -> bool:
        """Whether the output is within the tolerance."""
        return self.failure is None


@dataclass(frozen=True)
class Computation:
    """A row of the matrix: who computed, what that adds to the rows above it, and how each case came out.

    Attributes:
        name: for people: `onnxruntime CPU, unoptimized`.
        stage: what goes wrong if this row is the first that fails.
        tolerance: the row of the tolerance table by which it was judged.
        outputs: one entry a case and output; not every computation is given every case.
        failure: why there are none, where it could not even begin.
    """

    name: str
    stage: Stage
    tolerance: Tolerance
    outputs: tuple[OutputParity, ...] = ()
    failure: str | None = None

    @property
    def passed(self) -> bool:
        """Whether something was compared and nothing was wrong."""
        return self.failure is None and bool(self.outputs) and all(output.passed for output in self.outputs)

    @property
    def failures(self) -> tuple[str, ...]:
        """Everything that is wrong in it, a line each."""
        own = () if self.failure is None else (f"{self.name}: {self.failure}",)
        return (*own, *(f"{self.name}: {o.output} of {o.case}: {o.failure}" for o in self.outputs if o.failure))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is to be looked at in it, a line each."""
        return tuple(f"{self.name}: {o.output} of {o.case}: {o.warning}" for o in self.outputs if o.warning)


@dataclass(frozen=True)
class TensorFacts:
    """A tensor in numbers; the four are None where no number of it is finite."""

    dtype: str
    shape: tuple[int, ...]
    smallest: float | None
    largest: float | None
    mean: float | None
    std: float | None
    not_finite: int


@dataclass(frozen=True)
class ErrorStep:
    """A tensor before the divergence: its node, and its largest error ÷ its largest number."""

    node: str
    operator: str
    module: str | None
    relative_error: float


@dataclass(frozen=True)
class Divergence:
    """The first node whose output differs although its inputs agree.

    Attributes:
        node, operator, output: its name, its type and the name of the tensor that differs.
        module: the path of the PyTorch module that it came from, as far as the exporter noted it.
        case: the inputs for which it was found.
        compared_with: what the tensors were compared with.
        expected, actual: the tensor, as it must be and as it is.
        relative_error: the largest error ÷ the largest expected number; None if they cannot be subtracted.
        growth: the errors of the tensors on the way to it, from the input on.
        hints: typical causes that fit.
    """

    node: str
    operator: str
    output: str
    module: str | None
    case: str
    compared_with: str
    expected: TensorFacts
    actual: TensorFacts
    relative_error: float | None
    growth: tuple[ErrorStep, ...] = ()
    hints: tuple[str, ...] = ()


@dataclass(frozen=True)
class Accuracy:
    """The share of `images` labelled images classified rightly, by PyTorch in float32 and by the runner."""

    images: int
    torch: float
    runner: float


@dataclass(frozen=True)
class Placement:
    """How many nodes of a loaded file run where; `on_cpu` names those that an accelerator's session left behind."""

    provider: str
    nodes: dict[str, int]
    on_cpu: tuple[str, ...] = ()

    @classmethod
    def of(cls, nodes: Mapping[str, tuple[str, ...]] | None, provider: str) -> Placement | None:
        """Of a session that was opened for an execution provider, and its nodes by provider; None if not known."""
        if not nodes:
            return None
        counts = {name.removesuffix(SUFFIX): len(names) for name, names in nodes.items()}
        wanted = provider.removesuffix(SUFFIX)
        return cls(wanted, counts, nodes.get(f"CPU{SUFFIX}", ()) if wanted != "CPU" else ())

    @property
    def fallen_back(self) -> str | None:
        """What was left to the CPU, for people; None if nothing was."""
        if not self.on_cpu:
            return None
        run = "1 node runs" if len(self.on_cpu) == 1 else f"{len(self.on_cpu)} nodes run"
        return f"{run} on the CPU instead of {self.provider}: {first_few(self.on_cpu, NAMED_NODES)}"


@dataclass(frozen=True)
class KeptNode:
    """A node of a file in float16 or int8 that stayed in float32, by what the file says of itself.

    Attributes:
        path: of the PyTorch module that it came from; "" where the file does not tell.
        node, operator: its name and type.
        reason: why it stays.
    """

    path: str
    node: str
    operator: str
    reason: str


@dataclass(frozen=True, repr=False)
class ParityReport(Outcome):
    """The verdict on one ONNX file, with every statistic it rests on.

    Attributes:
        onnx: the file, as it was named.
        onnx_sha256: of the file; None where numbers outside its folder forbid to run it.
        computations: the rows of the matrix, in the order of the way from the definition to the answer.
        structure: failures of the file itself: a stale digest, a wrong signature.
        warnings: what does not make the file wrong, and should be looked at; failures with `strict`.
        notes: what could not be checked, and why.
        accuracy: None without labelled images.
        placement: where the nodes ran, on the device that was asked for.
        divergence: the first node that went wrong, where one was looked for and found.
        baseline: whose error in the model's own precision the file's is compared with.
        seed: of the inputs.
        strict: whether warnings are failures.
        kind: what the file computes in: `float32`, `float16`, `bfloat16` or `int8`.
        guard: of a file in float16 or int8, which is judged by what it lost and not by the matrix.
        kept: the nodes of such a file that stayed in float32.
    """

    onnx: str
    computations: tuple[Computation, ...] = ()
    structure: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    accuracy: Accuracy | None = None
    placement: Placement | None = None
    divergence: Divergence | None = None
    baseline: str = "PyTorch"
    seed: int = 0
    strict: bool = False
    onnx_sha256: str | None = None
    kind: str = "float32"
    guard: GuardReport | None = None
    kept: tuple[KeptNode, ...] = ()

    @property
    def outputs(self) -> tuple[OutputParity, ...]:
        """Of every computation."""
        return tuple(output for computation in self.computations for output in computation.outputs)

    def _ordinary(self) -> Iterator[OutputParity]:
        for computation in self.computations:
            if computation.stage != "TF32":
                yield from (output for output in computation.outputs if not output.extreme)

    @property
    def failures(self) -> tuple[str, ...]:
        """Everything that is wrong, a line each."""
        wrong = tuple(line for computation in self.computations for line in computation.failures)
        lost = () if self.guard is None else self.guard.failures
        return (*self.structure, *wrong, *lost, *(self.warnings if self.strict else ()))

    @property
    def passed(self) -> bool:
        """True if numbers of the file were compared, be it of one output, and nothing is wrong."""
        of_file = (done for done in self.computations if done.stage not in BEFORE_THE_FILE)
        compared = any(o.compared for done in of_file for o in done.outputs)
        return (compared or (self.guard is not None and self.guard.passed)) and not self.failures

    @property
    def verdict(self) -> str:
        """In a few words, with the figure it rests on."""
        if not self.passed:
            return f"FAIL, {self.complaint}"
        if self.guard is not None:
            return f"PASS, {self.kind} with an SQNR of {shown('SQNR', self.guard.sqnr_db)}"
        figures = [] if self.max_abs_error is None else [f"largest error {self.max_abs_error:.1e}"]
        if self.max_error_ratio is not None:
            figures.append(f"{self.max_error_ratio:.1f} × {self.baseline}'s own")
        return ", ".join(["PASS", *figures])

    @property
    def headline(self) -> str:
        """The file and the verdict."""
        return f"of {self.onnx}: {self.verdict}"

    def to_markdown(self) -> str:
        """What `aaexport verify --markdown` prints."""
        return presenter().markdown(self)

    def to_junit(self) -> str:
        """The XML that `aaexport verify --junit FILE` writes, for a file in UTF-8."""
        return presenter().junit(self)

    @property
    def complaint(self) -> str:
        """What is wrong in one line: the first failure, and the node, if it was found."""
        line = next(iter(self.failures), "nothing was compared")
        if self.divergence is None:
            return line
        where = f" of {self.divergence.module}" if self.divergence.module else ""
        return f"{line}; the first wrong node is {self.divergence.node} ({self.divergence.operator}){where}"

    @property
    def broken_stage(self) -> Stage | None:
        """The first stage whose computation fails although those before it pass; None if none fails."""
        return next((c.stage for c in self.computations if c.failures), None)

    @property
    def max_abs_error(self) -> float | None:
        """The largest of all, TF32's and those for extreme inputs aside; None if one could not be computed."""
        errors = [o.max_abs_error for o in self._ordinary()]
        return None if not errors or None in errors else max(e for e in errors if e is not None)

    @property
    def max_error_ratio(self) -> float | None:
        """The largest ratio to PyTorch's own error of the same ones that could be computed; None if none could."""
        return max((o.error_ratio for o in self._ordinary() if o.error_ratio is not None), default=None)
