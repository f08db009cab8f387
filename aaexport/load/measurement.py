"""What a measurement found: raw times with everything needed to judge them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aaexport.load.gpu import GpuState
from aaexport.load.gpu_watch import GpuLoad
from aaexport.load.launches import Launches
from aaexport.load.machine import Environment
from aaexport.load.run import QueryLog
from aaexport.load.statistics import Milliseconds, Percentile, Ratio, percentiles
from aaexport.outcome import Outcome, presenter
from aaexport.parity.by_layer import LayerLoss
from aaexport.parity.report import Placement

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)
HEADLINES = (50.0, 99.0)


@dataclass(frozen=True)
class Load:
    """What was asked of the system under test.

    Attributes:
        scenario: `single-stream`, `multi-stream`, `offline` or `server` (MLPerf's names).
        samples_per_query: images a query, and the batch that a closed loop runs.
        arrivals: `poisson`, `constant` or `trace`; None in a closed loop.
        rate: queries a second of the schedule; None in a closed loop.
        latency_bound: milliseconds that the 99th percentile must keep; None without a bound.
        workers: sessions that answer at the same time.
        max_batch: most images that a session takes at once, gathered from several queries.
        max_delay: milliseconds that a query may wait for others to share its batch.
        seed: of arrivals and samples.
    """

    scenario: str
    samples_per_query: int = 1
    arrivals: str | None = None
    rate: float | None = None
    latency_bound: float | None = None
    workers: int = 1
    max_batch: int = 1
    max_delay: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class ColdStart:
    """Seconds until a first answer. `process`: from the start of a new process; `load`: to load the model alone;
    `first_query`: the first query after loading, which compiles where there is something to compile. `build` is what
    TensorRT's engines took, which are built once and kept; it is in none of the others, and None without TensorRT."""

    process: float
    load: float
    first_query: float
    build: float | None = None


@dataclass(frozen=True)
class Throughput:
    """Closed loops at one batch size and number of clients.

    `first_run` is the first query of that shape in milliseconds, apart from the steady state; `p50` and `p99` are in
    milliseconds, None if withheld. `memory` are the bytes of a GPU that a session holds for such queries alone,
    without what CUDA takes by itself, and `energy` the J of the whole GPU for an image; None where no driver tells.
    """

    batch: int
    concurrency: int
    images_per_second: float
    p50: float | None
    p99: float | None
    first_run: float | None = None
    memory: int | None = None
    energy: float | None = None


@dataclass(frozen=True)
class Phases:
    """Where the time of a query on CUDA goes: medians in milliseconds.

    `to_device` and `to_host` are the copies, `compute` the run until the device is done, of which the host takes
    `submit` to enqueue the work. `gpu` is what the device itself took for the run, between two events in its stream;
    None where that could not be measured.
    """

    to_device: float
    submit: float
    compute: float
    to_host: float
    gpu: float | None = None


@dataclass(frozen=True)
class AnswerCheck:
    """Answers that were compared while measuring. `against` names whose they had to equal."""

    against: str
    checked: int
    wrong: int
    largest_error: float  # ÷ the largest expected number


@dataclass(frozen=True)
class Trial:
    """One rate that was tried in the search for the highest; `reason` is why it is not valid, None if it is."""

    rate: float
    p99: float | None
    reason: str | None


@dataclass(frozen=True)
class Peak:
    """The highest rate, in queries a second, that stayed valid; None if none did."""

    rate: float | None
    latency_bound: float
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class Loss:
    """What a contender's answers to the samples lost of those of float32, by the guard's measures.

    Attributes:
        kind: what it computes in: `float32`, `float16`, `bfloat16`, `int8`, or `quantized` by another tool.
        against: whose answers stand for float32.
        images: samples that were compared.
        sqnr_db: signal to noise in dB, of the worst output; None where no number differs, minus infinity where one is
            finite in float32 alone.
        same_class: the share of images with the same likeliest class, ties aside; None where no output has scores.
        within: whether that is no more than the guard allows of its kind; None where it is not judged.
        accuracy: the share of labelled images that the guard saw it classify rightly; None where no record of this
            very file tells.
        accuracy_images: of how many.
    """

    kind: str
    against: str
    images: int
    sqnr_db: float | None
    same_class: float | None
    within: bool | None = None
    accuracy: float | None = None
    accuracy_images: int | None = None


@dataclass(frozen=True)
class Comparison:
    """Another way to run the same network, or another model, measured in the same run.

    Attributes:
        name: as it was asked for: `eager`, `compile`, `skew`, `float32`, `float16`, `int8`, `onnx:FILE` or
            `folder:PATH`.
        label: the same for people, with device and precision.
        p50: in milliseconds; None if withheld.
        cold_start: seconds of the first query after loading, which compiles where there is something to compile.
        ratio: its latency divided by that of model.onnx, pair by pair between blocks of one round.
        withheld: why `ratio` is None: something else than the two models decided it.
        blocks: raw latencies, block by block.
        same_answers: whether it answers as model.onnx does, one in float16 or int8 as far as the guard asks of it;
            None where it need not, being another model, or where that could not be judged.
        loss: what its answers lost of float32; None where they could not be compared.
    """

    name: str
    label: str
    p50: float | None
    cold_start: float
    ratio: Ratio | None
    withheld: str | None
    blocks: tuple[Milliseconds, ...]
    same_answers: bool | None = True
    loss: Loss | None = None


@dataclass(frozen=True)
class Regression:
    """This measurement against an older one.

    `ratio` is new p50 ÷ old p50 with its 95 % interval, or without one where there was too little to say even that;
    `is_real` whether it is beyond `allowed` beyond doubt. `unclear` says why nobody can tell that; None where they
    can, and then what is not real is within `allowed` beyond doubt.
    """

    baseline: str
    ratio: Ratio
    allowed: float
    is_real: bool
    unclear: str | None = None

    @property
    def verdict(self) -> str:
        """One of three: `regression`, `no regression`, `cannot tell`."""
        if self.unclear is not None:
            return "cannot tell"
        return "regression" if self.is_real else "no regression"


@dataclass(frozen=True)
class ServiceTimes:
    """A live service, and where the time of a query to it goes: means in milliseconds.

    Attributes:
        urls: where it is.
        server: its own name and version.
        model, versions: what it serves, as it calls it.
        max_batch: images of a query at the most; None if it names no bound.
        client_processes: that asked it.
        client_p50, client_p99: latencies, by the same client, protocol and load, of a server on this machine that
            computes nothing, which is written in Python; None where none was measured.
        query: what the client saw, from when a query was due.
        network: of that, what the service does not account for: client, protocol and wire.
        server_time: of that, from when the service had the query until it had sent the answer.
        queue, compute_input, compute_infer, compute_output: of that, in the service's queue, and in its model.
        images_per_run: how many the service computed at a time. These, and all from `network` on, are None where the
            service keeps no account; if others ask it meanwhile, their queries are in it.
    """

    urls: tuple[str, ...]
    server: str
    model: str
    versions: tuple[str, ...]
    max_batch: int | None
    client_processes: int
    client_p50: float | None
    client_p99: float | None
    query: float | None
    network: float | None = None
    server_time: float | None = None
    queue: float | None = None
    compute_input: float | None = None
    compute_infer: float | None = None
    compute_output: float | None = None
    images_per_run: float | None = None


@dataclass(frozen=True)
class ParityRecord:
    """What a model folder keeps of the last verification of its model.onnx.

    Attributes:
        passed: its verdict.
        max_abs_error: the largest error against float64; None if it could not be computed.
        date: when it began, in ISO 8601 and UTC; None where the record does not tell.
        same_file: whether it is of the very file that was measured.
    """

    passed: bool
    max_abs_error: float | None
    date: str | None
    same_file: bool


@dataclass(frozen=True)
class GuardRecord:
    """What a model folder keeps of the guard's verdict on its file in float16 or int8.

    Attributes:
        kind: as which it was judged.
        data: what it was shown, in words.
        sqnr_db: the least of all outputs and runtimes; None where nothing was lost.
        images: with labels, of `float32` and `reduced`; None without.
        float32, reduced: how many of them each file classifies rightly.
        layers: what each layer's rounding loses by itself, in the file's order.
    """

    kind: str
    data: str
    sqnr_db: float | None
    images: int | None = None
    float32: int | None = None
    reduced: int | None = None
    layers: tuple[LayerLoss, ...] = ()


@dataclass(frozen=True)
class KeptPart:
    """What stayed in float32, by the module's path or else the node's name, and why."""

    layer: str
    reason: str


@dataclass(frozen=True)
class ModelCard:
    """What the measured file is.

    Attributes:
        operators: how many of each type.
        opset: of ai.onnx.
        bytes: of the file.
        parameters: floating-point numbers in it.
        macs: multiply-accumulates of one image; None where a shape is not known.
        parity: None where the file was never verified, or has no folder that would keep it.
        kind: what it computes in.
        guard: of a file in float16 or int8; None where there is no verdict on this very file.
        kept: what of such a file stayed in float32.
    """

    operators: Mapping[str, int]
    opset: int
    bytes: int
    parameters: int
    macs: int | None
    parity: ParityRecord | None
    kind: str = "float32"
    guard: GuardRecord | None = None
    kept: tuple[KeptPart, ...] = ()


@dataclass(frozen=True, repr=False)
class BenchReport(Outcome):
    """One measurement. Latencies are in milliseconds; a percentile is withheld where the sample is too small for it.

    Attributes:
        model: the folder's or file's name.
        onnx_sha256: of the file that was measured.
        load: what was asked of it.
        label, provider: the runtime and the execution provider that really ran.
        settings: options of the sessions that differ from the runtime's defaults, by name.
        threads: intra-op threads; None is each runtime's default.
        inputs: what was fed, and why if it is not held-out images.
        blocks: the queries, block by block; an offline query and an open loop are one block.
        cold_start: what a first answer takes.
        launches: of several processes, for each number of threads; None if it is of one process.
        throughput: by batch size and number of clients.
        comparisons: what was measured beside it.
        check: of the answers; None if none were checked.
        peak: the highest valid rate; None if it was not searched.
        regression: None without a baseline.
        placement: where the nodes ran; None where the runtime cannot tell.
        phases: on CUDA.
        gpu_before, gpu_after: on CUDA, where the driver tells; at rest.
        gpu_load: what the GPU did while queries were counted.
        environment: the machine, and how much of it was stolen.
        tools: versions.
        notes: what was left out or is other than one might expect.
        warnings: what to think of before believing the numbers, each with its remedy.
        reasons: why the measurement is invalid; empty if it is valid.
        complete: False if it was interrupted.
        card: what the file is; None if nobody looked into it.
        service: the live service that was measured in the file's place; None if it was the file.
        loss: what the answers lost of float32; None where they were compared with nobody's but float32's.
    """

    model: str
    onnx_sha256: str
    load: Load
    label: str
    provider: str
    threads: int | None
    inputs: str
    blocks: tuple[QueryLog, ...]
    cold_start: ColdStart
    environment: Environment
    tools: Mapping[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    launches: Launches | None = None
    throughput: tuple[Throughput, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    check: AnswerCheck | None = None
    peak: Peak | None = None
    regression: Regression | None = None
    placement: Placement | None = None
    phases: Phases | None = None
    gpu_before: GpuState | None = None
    gpu_after: GpuState | None = None
    gpu_load: GpuLoad | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    complete: bool = True
    card: ModelCard | None = None
    service: ServiceTimes | None = None
    loss: Loss | None = None

    @property
    def valid(self) -> bool:
        """Whether the numbers may be quoted."""
        return self.complete and not self.reasons

    @property
    def latencies(self) -> Milliseconds:
        """Of all counted queries that were answered."""
        return np.concatenate([block.latencies for block in self.blocks]) if self.blocks else np.empty(0)

    @property
    def percentiles(self) -> tuple[Percentile, ...]:
        """p50, p90, p95, p99 and p99.9 over all blocks."""
        return percentiles(self.latencies, PERCENTILES)

    @property
    def headline(self) -> str:
        """The model, whether to believe it, and the two figures that most come for."""
        verdict = "VALID" if self.valid else "INVALID" if self.complete else "INCOMPLETE"
        found = [entry for entry in self.percentiles if entry.p in HEADLINES]
        times = (f"p{entry.p:g} {'withheld' if entry.value is None else f'{entry.value:.3g} ms'}" for entry in found)
        return f"of {self.model}: {verdict}, {', '.join(times)}, {self.load.scenario} on {self.label}"

    def to_dict(self, *, raw: bool = False) -> dict[str, Any]:
        """What the command prints with --json; with `raw` the times of every query too, as `bench.json` has them."""
        return presenter().raw_values(self) if raw else super().to_dict()

    def to_html(self) -> str:
        """The page that `aaexport serve-bench --report FILE` writes, for a file in UTF-8; it needs nothing else."""
        return presenter().page(self)
