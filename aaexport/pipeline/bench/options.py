"""What is asked of serve-bench, and which of it contradicts the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from aaexport.cores import default_threads, usable_cores
from aaexport.device import parse_device
from aaexport.folder import Dtype
from aaexport.load.lengths import MIN_SECONDS, OFFLINE_SAMPLES, RULES, RuleSet, queries_needed
from aaexport.serving.address import TIMEOUT

if TYPE_CHECKING:
    from aaexport.load.measurement import Load

MULTI_STREAM_SAMPLES = 8  # as in MLPerf Inference
OFFLINE_BATCH = 32
SERVER_BATCH = 32
ALLOWED_REGRESSION = 0.05
SETTLING = 10.0  # seconds
LAUNCHES, FEWEST, MOST_LAUNCHES = 5, 2, 100  # a spread takes two
ONE_SESSION = ("single-stream", "multi-stream")
QUERIES_OVER = 1  # the bound, that a sample must be large enough for
SWEEP: Literal["sweep"] = "sweep"
UNDER_WAY = 32  # queries to a live service, where nobody asked for another number


@dataclass(frozen=True)
class BenchOptions:
    """As the arguments of `aaexport serve-bench`; times in seconds, but for those that are compared to latencies.

    Attributes:
        scenario: `single-stream`, `multi-stream`, `offline` or `server`.
        device: `cpu`, `cuda` or `cuda:N`, the same for onnxruntime and PyTorch; None: `cuda` where its provider ran
            a session, and the report says which provider it was.
        duration: seconds of counted queries, of each contender; of each rate in the server scenario.
        warmup: seconds of uncounted queries before every block.
        settle: seconds for which a contender may be asked before its first block, until its medians and the GPU's
            clock stand still; None for 10 on CUDA and none on the CPU.
        flush_l2: whether a GPU's L2 cache is written over between two queries, so that each finds its weights in
            memory, as one does that comes after other work.
        batches: batch sizes of the throughput part; None for 1, 8 and 32, `sweep` for 1, 2, 4 … until no more images
            a second come of it or the memory is full. A file that fixes its batch runs at that.
        concurrency: numbers of clients of the throughput part, each with one query under way at any time.
        threads: intra-op threads of every session; several numbers are launched in turns, and the rest of the report
            is of the one that is fast and steady. None takes what the folder's tuning.json stores for this machine,
            else leaves the default, or shares the cores between `workers`.
        workers: sessions that answer at the same time.
        samples_per_query: images of a query; None for 8 in multi-stream, else 1.
        rate: queries a second of the server scenario.
        arrivals: `poisson`, `constant` or `trace`; None for `trace` with a trace, else `poisson`.
        trace: a file of times to replay.
        latency_bound: milliseconds that the 99th percentile must keep.
        find_peak: whether to search the highest rate that stays valid.
        max_batch: most images that a session takes at once, of several queries; None for 32, or what the file fixes.
        max_delay: milliseconds that a query waits for others to share its batch.
        compare: what is measured in alternation (`rivals` in this wing); None in closed loops of a model folder for
            `eager`, beside a file in float16 or int8 for `float32`, and for nothing in the server scenario.
        check: whether answers are compared with PyTorch's while measuring.
        allow_fallback: whether nodes may run on the CPU where another provider was asked for.
        rules: `quick`, or `mlperf` for the least durations and numbers of queries of MLPerf Inference.
        baseline: an older bench.json to compare with.
        max_regression: how much slower than it p50 may be, as a share; None for 5 %.
        dims: sizes of dimensions that the file leaves open, by name.
        session: fields of `aaexport.runners.ort.SessionSettings` that differ from its defaults.
        seed: of arrivals, samples, and random inputs.
        module: `FILE.py:NAME` and the like, of a folder that was converted from it: it is imported, compared with and
            checks the answers. Without it the folder's golden vectors are what is asked and what must be answered.
        url: a live service that is measured in the file's place; several of one, which are asked in turn.
        served_as: the model's name there, or NAME:VERSION; the folder's or file's name by default.
        timeout: seconds for one answer of a service.
        ca: a file of the authorities whose certificates count; None for those that the system trusts.
        client_processes: that ask a service, and share its load.
        dtype: which of the folder's files: model.onnx is `float32`, and `float16` and `int8` are those beside it.
        launches: processes of each number of threads, for the spread between them; None for 5 with several numbers,
            else 1, which is no part of its own.
    """

    scenario: str = "single-stream"
    device: str | None = None
    duration: float = 6.0
    warmup: float = 0.3
    settle: float | None = None
    flush_l2: bool = False
    batches: Sequence[int] | Literal["sweep"] | None = None
    concurrency: Sequence[int] = ()
    threads: int | Sequence[int] | None = None
    workers: int = 1
    samples_per_query: int | None = None
    rate: float | None = None
    arrivals: str | None = None
    trace: str | Path | None = None
    latency_bound: float | None = None
    find_peak: bool = False
    max_batch: int | None = None
    max_delay: float | None = None
    compare: Sequence[str] | None = None
    check: bool = True
    allow_fallback: bool = False
    rules: RuleSet = "quick"
    baseline: str | Path | None = None
    max_regression: float | None = None
    dims: Mapping[str, int] = field(default_factory=dict)
    session: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    module: str | None = None
    launches: int | None = None
    url: Sequence[str] = ()
    served_as: str | None = None
    timeout: float = TIMEOUT
    ca: str | Path | None = None
    client_processes: int = 1
    dtype: Dtype = "float32"

    @property
    def is_server(self) -> bool:
        """Whether queries come when they come, not when the last is answered."""
        return self.scenario == "server"

    @property
    def shares_batches(self) -> bool:
        """Whether queries go through the dynamic batching."""
        return self.is_server or self.scenario == "offline" or bool(self.concurrency)

    @property
    def settles_for(self) -> float:
        """Seconds at the most; 0 where a fixed warm-up will do."""
        if self.settle is not None:
            return self.settle
        return SETTLING if parse_device(self.device or "cpu")[0] == "cuda" and not self.url else 0.0

    @property
    def sweeps_batches(self) -> bool:
        """Whether batch sizes are tried as long as it pays."""
        return self.batches == SWEEP

    @property
    def sizes(self) -> Sequence[int] | None:
        """The batch sizes that were asked for by number; None if none were."""
        return None if self.batches is None or isinstance(self.batches, str) else self.batches

    @property
    def sweeps(self) -> bool:
        """Whether several numbers of threads are to be compared."""
        return self.threads is not None and not isinstance(self.threads, int)

    @property
    def thread_settings(self) -> tuple[int | None, ...]:
        """The numbers of threads to launch; None is the runtime's default."""
        if self.threads is not None and not isinstance(self.threads, int):
            return tuple(self.threads)
        return (self.threads_each(),)

    @property
    def launches_each(self) -> int:
        """Of every setting."""
        return self.launches or (LAUNCHES if self.sweeps else 1)

    def threads_each(self) -> int | None:
        """Of one session: several of them share the cores, else each would have threads for all of them.

        Of several numbers that are compared it is the first, until one is settled.
        """
        if self.threads is not None:
            return self.threads if isinstance(self.threads, int) else self.threads[0]
        return max(1, usable_cores() // self.workers) if self.workers > 1 else default_threads()

    @property
    def seconds(self) -> float:
        """Of counted queries: MLPerf's rules ask for ten minutes at the least."""
        return self.duration if self.rules == "quick" else max(self.duration, MIN_SECONDS)

    @property
    def least_queries(self) -> int:
        """That must be counted."""
        if self.rules == "mlperf":
            return RULES[self.scenario].min_queries
        if self.latency_bound is not None:
            from aaexport.load.mlperf import queries_required

            return queries_required(QUERIES_OVER, 99)
        return 1 if self.is_server or self.scenario == "offline" else queries_needed(90)

    def load(
        self,
        fixed_batch: int | None,
        *,
        rate: float | None = None,
        batched: bool = True,
        shares_batches: bool = False,
    ) -> Load:
        """What the system under test has to bear, at `rate` if that is not the one asked for."""
        shares_batches = shares_batches or self.is_server or self.scenario == "offline"
        default = MULTI_STREAM_SAMPLES if self.scenario == "multi-stream" else 1
        samples = self.samples_per_query or (default if batched else 1)
        from aaexport.load.measurement import Load

        most = fixed_batch or (self.max_batch or (OFFLINE_BATCH if self.scenario == "offline" else SERVER_BATCH))
        if self.url and self.scenario != "offline":
            most = samples  # a query goes as it is: what is gathered of several is the service's business
        return Load(
            scenario=self.scenario,
            samples_per_query=samples if shares_batches else fixed_batch or samples,
            arrivals=(self.arrivals or ("trace" if self.trace else "poisson")) if self.is_server else None,
            rate=rate or self.rate,
            latency_bound=self.latency_bound,
            workers=self.under_way if shares_batches else 1,
            max_batch=most if shares_batches and batched else 1,
            max_delay=(self.max_delay or 0.0) if shares_batches else 0.0,
            seed=self.seed,
        )

    @property
    def under_way(self) -> int:
        """Sessions at work; of a live service queries that may be under way at a time."""
        return UNDER_WAY if self.url and self.workers == 1 and not self.concurrency else self.workers

    @property
    def least_samples(self) -> int:
        """Of an offline query."""
        return OFFLINE_SAMPLES if self.rules == "mlperf" else 1


class BenchOverrides(TypedDict, total=False):
    """The fields of `BenchOptions` as keywords."""

    scenario: str
    device: str | None
    duration: float
    warmup: float
    settle: float | None
    flush_l2: bool
    batches: Sequence[int] | Literal["sweep"] | None
    concurrency: Sequence[int]
    threads: int | Sequence[int] | None
    workers: int
    samples_per_query: int | None
    rate: float | None
    arrivals: str | None
    trace: str | Path | None
    latency_bound: float | None
    find_peak: bool
    max_batch: int | None
    max_delay: float | None
    compare: Sequence[str] | None
    check: bool
    allow_fallback: bool
    rules: RuleSet
    baseline: str | Path | None
    max_regression: float | None
    dims: Mapping[str, int]
    session: Mapping[str, Any]
    seed: int
    module: str | None
    launches: int | None
    url: Sequence[str]
    served_as: str | None
    timeout: float
    ca: str | Path | None
    client_processes: int
    dtype: Dtype
