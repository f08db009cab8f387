"""Worker processes × options → everything that was measured of them, in the order in which it may be measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from aaexport.device import parse_device
from aaexport.load.arrivals import mean_rate, trace
from aaexport.load.gpu import GpuState, read_gpu, why_unreadable
from aaexport.load.machine import Environment, MachineWatch
from aaexport.load.measurement import (
    AnswerCheck,
    ColdStart,
    Comparison,
    Load,
    Peak,
    Phases,
    Throughput,
    Trial,
)
from aaexport.load.peak import MOST_TRIALS, find_peak
from aaexport.load.run import QueryLog, Trouble
from aaexport.load.single_stream import BlockPlan
from aaexport.load.statistics import Milliseconds, pairwise_ratio, percentile
from aaexport.load.validity import why_invalid, why_no_ratio
from aaexport.pipeline.bench_options import BenchOptions
from aaexport.pipeline.contender import Contender, RunInterrupted, Served
from aaexport.pipeline.feeding import ANSWERS_AGREE, disagreement
from aaexport.pipeline.rivals import is_other_model, rival_label
from aaexport.pipeline.run_order import RunOrder
from aaexport.pipeline.samples import Samples
from aaexport.pipeline.worker_models import WorkerSpec

OURS = "onnxruntime"
BATCHES = (1, 8, 32)
BLOCKS = 10  # so many that a slowdown of 10 % is told from the noise between blocks (`aaexport.load.regression`)
THROUGHPUT_SHARE = 0.1  # of the duration, for each batch size and number of clients
PATIENCE = 10  # a block may last this many times longer than planned to reach its queries
LEAST_PATIENCE = 10.0  # seconds for an answer
SLOW_ANSWER = 20  # times the first query, which is slow itself
LEAST_PATIENCE_OF_A_TRIAL = 2.0  # a rate that lets queries wait so long is not the peak
BOUNDS_OF_PATIENCE = 50
SEEDS_APART = 1000
OFFLINE_MARGIN = 1.1  # how long all samples will take is a guess
TRUTH_BATCH = 8

Tick = Callable[[str, float], None]


@dataclass
class Measured:
    """Filled bit by bit, so that an interrupted session leaves what it had."""

    load: Load
    blocks: list[QueryLog] = field(default_factory=list)
    throughput: list[Throughput] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    check: AnswerCheck | None = None
    peak: Peak | None = None
    phases: Phases | None = None
    gpu_before: GpuState | None = None
    gpu_after: GpuState | None = None
    environment: Environment | None = None
    trouble: Trouble = field(default_factory=Trouble)
    aborted: str | None = None
    notes: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    complete: bool = False


class BenchSession:
    """One measurement of `ours` beside `rivals`; what is done is in `measured`, also after an interrupt."""

    def __init__(
        self,
        ours: Contender,
        rivals: Mapping[str, Contender],
        options: BenchOptions,
        samples: Samples,
        room: Path,
        tick: Tick,
    ) -> None:
        self.ours, self.rivals, self.options = ours, rivals, options
        self.contenders = {OURS: ours, **rivals}
        self.fixed, self.batched, self.count = samples.fixed_batch, samples.batched, len(samples)
        self.room, self.tick = room, tick
        self.measured = Measured(options.load(samples.fixed_batch, batched=samples.batched))
        self.rival_blocks: dict[str, list[Milliseconds]] = {name: [] for name in rivals}
        self.our_blocks: list[Milliseconds] = []  # those that were measured in turns with the rivals'
        self.cold_starts: dict[str, ColdStart] = {}
        self.agreements: dict[str, bool | None] = {}
        self.given_up: dict[str, str] = {}  # contenders that get no further turn, and why
        self._share = 0.0

    @property
    def has_measured(self) -> bool:
        """Whether anything is worth a report."""
        return bool(self.measured.blocks and len(self.measured.blocks[0]))

    @property
    def batch(self) -> int:
        """Of the closed loop whose latency is reported."""
        return self.measured.load.samples_per_query

    def start(self) -> None:
        """Cold starts; to be asked before anything else."""
        batch = self.fixed or 1
        for name, contender in self.contenders.items():
            self.tick(f"cold start of {name}", 0.0)
            self.cold_starts[name] = contender.cold_start(batch)

    def check_answers(self, truth: WorkerSpec | None) -> None:
        """Whether all contenders answer alike, and what answers are compared with from now on.

        That is what PyTorch says, if `truth` is a spec of it, or else what the file itself answers to one sample
        after the other: then queries that got each other's answers are found, a wrong file is not.
        """
        if not self.options.check:
            self.measured.notes.append("answers were not compared with PyTorch's (--no-check)")
            return
        self.tick("answers to compare with", 0.0)
        expected = self.room / "expected.npz"
        batch = self.fixed or 1
        if truth is None:
            against, finite = "the file's own, one after the other", self.ours.answers(expected, self.count, batch)
        else:
            against, finite = self._answers_of_torch(truth, expected)
        if not finite:
            self.measured.reasons.append(f"{against} must be finite, got NaN or infinity; look at `aaexport verify`")
        self.ours.expect(expected)
        self.measured.check = AnswerCheck(against, 0, 0, 0.0)
        for name, rival in self.rivals.items():
            path = self.room / "answers.npz"
            rival.answers(path, self.count, batch)
            self._note_agreement(name, disagreement(path, expected))

    def measure(self) -> None:
        """Everything that was asked for; however it ends, `measured` tells of the machine meanwhile."""
        # Only now: what others did while a compiler was at work is no excuse, and no comfort, for what comes.
        watch = MachineWatch([contender.process_id for contender in self.contenders.values()])
        self.measured.gpu_before = self._gpu()
        try:
            if self.options.is_server:
                self._server()
            elif self.options.scenario == "offline":
                self._offline()
            else:
                self._alternate(self._closed_order)
            if OURS not in self.given_up:  # after that a session may still be at work on what was asked of it
                self._throughput()
                self.measured.phases = self.ours.phases(self.fixed or 1)
            self.measured.complete = True
        finally:
            self.measured.environment = watch.environment()
            self.measured.gpu_after = self._gpu()
            self._compare(self.measured.environment)

    def _gpu(self) -> GpuState | None:
        kind, index = parse_device(self.options.device or "cpu")
        if kind == "cpu":
            return None
        state = read_gpu(index)
        reason = None if state is not None else f"the GPU's clocks and heat were not read: {why_unreadable(index)}"
        if reason and reason not in self.measured.notes:
            self.measured.notes.append(reason)
        return state

    def _answers_of_torch(self, truth: WorkerSpec, path: Path) -> tuple[str, bool]:
        """By the rival that is PyTorch, or by a process that is gone before anything is measured."""
        if self.options.device == "cpu" and "eager" in self.rivals:
            eager = self.rivals["eager"]
            return eager.label, eager.answers(path, self.count, self.fixed or TRUTH_BATCH)
        with Contender(truth) as torch:
            return torch.label, torch.answers(path, self.count, self.fixed or TRUTH_BATCH)

    def _note_agreement(self, name: str, error: float) -> None:
        """Another model may answer otherwise; the same network must not (`why_invalid`)."""
        agrees = error <= ANSWERS_AGREE
        self.agreements[name] = agrees
        if not agrees and is_other_model(name):
            self.agreements[name] = None
            self.measured.notes.append(f"{name} answers otherwise ({error:.1e} of the largest output): another model")

    def _closed_order(self, block: int) -> RunOrder:
        least = -(-self.options.least_queries // BLOCKS)
        return self._order(self.measured.load, self.options.seconds / BLOCKS, least, block)

    def _order(self, load: Load, duration: float, least: int, block: int, **given: Any) -> RunOrder:
        """Of a block that lasts so many seconds and has at least so many queries; each has a seed of its own."""
        longest = max(duration, 1.0) * PATIENCE
        patience = max(LEAST_PATIENCE, SLOW_ANSWER * self.cold_starts[OURS].first_query * load.samples_per_query)
        load = replace(load, seed=load.seed * SEEDS_APART + block)
        more: dict[str, Any] = {
            "answer_patience": patience,
            "warm_sizes": self._sizes_to_warm(load.max_batch),
            **given,
        }
        return RunOrder(load, duration, self.options.warmup, least, longest, **more)

    def _sizes_to_warm(self, most: int) -> tuple[int, ...]:
        """Batch sizes that may come: on CUDA the first run of each searches for algorithms."""
        on_cuda = parse_device(self.options.device or "cpu")[0] == "cuda"
        return tuple(range(1, most + 1)) if on_cuda and self.fixed is None else (self.fixed or most,)

    def _alternate(self, order: Callable[[int], RunOrder], *, counts: bool = True) -> None:
        """`BLOCKS` rounds of a block each; who goes later runs on a warmer machine: they take turns in that too."""
        names = list(self.contenders)
        for block in range(BLOCKS):
            for place, name in enumerate(names):
                if self.given_up.keys() & {OURS, name}:
                    continue
                self._begin((block * len(names) + place) / (BLOCKS * len(names)))
                self._run(name, order(block), counts=counts)
            names = names[1:] + names[:1]

    def _run(self, name: str, order: RunOrder, *, counts: bool = True) -> Served:
        """One block; what it leaves is kept if it `counts`, also if it was interrupted."""
        what = f"{name}, {order.load.scenario}, batch {order.load.samples_per_query}"
        self.tick(what, self._share)
        try:
            served = self.contenders[name].run(order, lambda state: self.tick(_running(what, state), self._share))
        except RunInterrupted as interrupted:
            if counts and name == OURS and len(interrupted.served.log):
                self._keep(interrupted.served)
            raise
        if served.aborted is not None:
            self.given_up[name] = served.aborted
        if name != OURS:
            self.rival_blocks[name].append(served.log.latencies)
            return served
        self.our_blocks.append(served.log.latencies)
        if counts:
            self._keep(served)
        return served

    def _keep(self, served: Served) -> None:
        """Ours, and what its answers were worth."""
        self.measured.blocks.append(served.log)
        self._keep_trouble(served)

    def _keep_trouble(self, served: Served) -> None:
        measured = self.measured
        measured.trouble = measured.trouble + served.trouble
        measured.aborted = measured.aborted or served.aborted
        if measured.check is not None:
            measured.check = AnswerCheck(
                measured.check.against,
                measured.check.checked + served.checked,
                measured.check.wrong + served.wrong,
                max(measured.check.largest_error, served.largest_error),
            )

    def _begin(self, share: float) -> None:
        """Of the counted part, which is most of the time."""
        self._share = 0.9 * share

    def _server(self) -> None:
        options, measured = self.options, self.measured
        if options.find_peak:
            self._find_peak()
        elif self.rivals:
            self._alternate(lambda block: self._server_order(measured.load, options.seconds / BLOCKS, block))
        else:
            if options.trace is not None:
                measured.load = replace(measured.load, rate=mean_rate(trace(options.trace)))
            self._run(OURS, self._server_order(measured.load, options.seconds))

    def _server_order(self, load: Load, duration: float, block: int = 0, **more: Any) -> RunOrder:
        path = None if self.options.trace is None else str(self.options.trace)
        return self._order(load, duration, self.options.least_queries, block, trace=path, shares_batches=True, **more)

    def _find_peak(self) -> None:
        """The report is that of the last valid run at the rate that was found."""
        options, measured = self.options, self.measured
        assert options.latency_bound is not None
        patience = max(LEAST_PATIENCE_OF_A_TRIAL, BOUNDS_OF_PATIENCE * options.latency_bound / 1000)
        served: list[Served] = []

        def try_rate(rate: float) -> Trial:
            load = options.load(self.fixed, rate=rate, batched=self.batched)
            self._begin(len(served) / MOST_TRIALS)
            order = self._server_order(load, options.seconds, len(served), answer_patience=patience)
            served.append(self._run(OURS, order, counts=False))
            self.given_up.clear()  # a rate that is too high is no fault of the session
            return _trial(rate, load, served[-1], options)

        measured.peak = find_peak(try_rate, options.latency_bound, start=self._rate_of_one_stream())
        rates = [trial.rate for trial in measured.peak.trials]
        if measured.peak.rate is None:
            measured.reasons.append(f"no rate kept the bound, and {min(rates):,.3g} queries/s did not either")
        best = min(rates) if measured.peak.rate is None else measured.peak.rate
        measured.load = options.load(self.fixed, rate=best, batched=self.batched)
        self._keep(served[len(rates) - 1 - rates[::-1].index(best)])

    def _rate_of_one_stream(self) -> float:
        """Queries a second, one after the other: every server holds about half of it."""
        latencies = self.ours.block(self.fixed or 1, BlockPlan(self.options.warmup, 0.5, 10, 5.0))
        return 1000 / float(np.median(latencies)) / 2

    def _offline(self) -> None:
        load, duration = self.measured.load, self.options.seconds
        plan = BlockPlan(self.options.warmup, duration * THROUGHPUT_SHARE, 3, 30.0)
        milliseconds = float(np.median(self.ours.block(load.max_batch, plan)))
        batches = np.ceil(duration * 1000 / milliseconds * load.workers)
        total = max(int(OFFLINE_MARGIN * batches) * load.max_batch, self.options.least_samples)
        self.measured.load = replace(load, samples_per_query=total)
        self._run(OURS, self._order(load, duration, 1, 0, total_samples=total, shares_batches=True))
        if self.rivals:
            stream = replace(load, scenario="single-stream", samples_per_query=load.max_batch)
            self.our_blocks.clear()
            self._alternate(lambda block: self._order(stream, duration / BLOCKS, 2, block), counts=False)

    def _throughput(self) -> None:
        """Closed loops: of other batch sizes, and of several clients whose queries share batches."""
        if self.options.is_server:
            return
        sizes = self.options.batches or BATCHES if self.batched and self.fixed is None else (self.fixed or 1,)
        if self.options.batches is not None and set(self.options.batches) != set(sizes):
            self.measured.notes.append(f"the file fixes the batch at {sizes[0]}: no other size was measured")
        for size in sizes:
            first = self.ours.first_query(size) * 1000
            self._add_throughput(size, 1, first)
        for clients in self.options.concurrency:
            self._add_throughput(self.fixed or 1, clients, None)

    def _add_throughput(self, size: int, clients: int, first_run: float | None) -> None:
        shared = clients > 1
        load = self.options.load(self.fixed, batched=self.batched, shares_batches=shared)
        load = replace(load, scenario="single-stream", samples_per_query=size)
        seconds = self.options.duration * THROUGHPUT_SHARE
        order = self._order(load, seconds, 1, 0, clients=clients, shares_batches=shared)
        self._share = 0.95
        served = self._run(OURS, order, counts=False)
        self._keep_trouble(served)
        log = served.log
        p50, p99 = percentile(log.latencies, 50), percentile(log.latencies, 99)
        self.measured.throughput.append(Throughput(size, clients, log.throughput, p50, p99, first_run))

    def _compare(self, environment: Environment) -> None:
        withheld = why_no_ratio(environment)
        for name, rival in self.rivals.items():
            blocks = [block for block in self.rival_blocks[name] if len(block)]
            why = withheld or self.given_up.get(name)
            rounds = min(len(blocks), len(self.our_blocks))  # fewer if it was interrupted
            ratio = pairwise_ratio(blocks[:rounds], self.our_blocks[:rounds]) if rounds and not why else None
            self.measured.comparisons.append(
                Comparison(
                    name=name,
                    label=rival_label(name, rival.label),
                    p50=percentile(np.concatenate(blocks), 50) if blocks else None,
                    cold_start=self.cold_starts[name].first_query,
                    ratio=ratio,
                    withheld=why if rounds or why else "it was not measured to the end",
                    blocks=tuple(blocks),
                    same_answers=self.agreements.get(name),
                )
            )


def _trial(rate: float, load: Load, served: Served, options: BenchOptions) -> Trial:
    """What that rate is worth, by the same rules as a whole measurement."""
    reasons = why_invalid(
        [served.log],
        load,
        options.duration,
        rules=options.rules,
        trouble=served.trouble,
        aborted=served.aborted,
    )
    return Trial(rate, percentile(served.log.latencies, 99), reasons[0] if reasons else None)


def _running(what: str, state: Mapping[str, Any]) -> str:
    """For the line of progress."""
    if state["is_warmup"]:
        return f"{what}: warming up"
    figures = "".join(f", {p} {state[p]:.3f} ms" for p in ("p50", "p99") if state[p] is not None)
    return f"{what}: {state['queries']:,} queries{figures}"
