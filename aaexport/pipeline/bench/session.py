"""Worker processes × options → everything that was measured of them, in the order in which it may be measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from aaexport.errors import AaexportError, MeasurementError, out_of_memory
from aaexport.load.arrivals import mean_rate, trace
from aaexport.load.gpu_watch import GpuWatch
from aaexport.load.machine import Environment, MachineWatch
from aaexport.load.measurement import AnswerCheck, ColdStart, Load, Peak
from aaexport.load.peak import MOST_TRIALS
from aaexport.load.run import QueryLog
from aaexport.load.single_stream import BlockPlan
from aaexport.load.statistics import Milliseconds
from aaexport.load.validity import why_no_ratio
from aaexport.pipeline.bench.answer_check import Agreement, Asked, Terms, checked_answers
from aaexport.pipeline.bench.compared import compared
from aaexport.pipeline.bench.contender import OURS, Contender, RunInterrupted, Served, blaming
from aaexport.pipeline.bench.device_memory import DeviceMemory
from aaexport.pipeline.bench.graph_sizes import most_built_for
from aaexport.pipeline.bench.measured import Measured
from aaexport.pipeline.bench.options import BenchOptions
from aaexport.pipeline.bench.orders import BLOCKS, LEAST_IN_A_BLOCK, PATIENCE, SLOW_ANSWER, Orders, warm_up_apart
from aaexport.pipeline.bench.peak_search import PeakSearch
from aaexport.pipeline.bench.run_order import RunOrder
from aaexport.pipeline.bench.samples import Samples
from aaexport.pipeline.bench.service import LiveService
from aaexport.pipeline.bench.settle import settle
from aaexport.pipeline.bench.throughput import Loop, measure_clients, measure_sizes, sweep_sizes
from aaexport.pipeline.bench.worker_models import WorkerSpec
from aaexport.serving.protocol import ModelStatistics

BATCHES = (1, 8, 32)
THROUGHPUT_SHARE = 0.1  # of the duration, for each batch size and number of clients
PILOTS, PILOT_BATCHES, PILOT_SECONDS = 5, 4, 0.3
MOST_OFFLINE_SAMPLES = 1_000_000  # each of them is held until all are answered
NULL_SECONDS = 1.0  # of queries to a server that computes nothing
OFFLINE_MARGIN = 1.1  # how long all samples will take is a guess

Tick = Callable[[str, float], None]


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
        service: LiveService | None = None,
        null: Contender | None = None,
        terms: Terms | None = None,
        watch: GpuWatch | None = None,
        memory: DeviceMemory | None = None,
    ) -> None:
        self.terms = Terms() if terms is None else terms
        self.watch = GpuWatch(None) if watch is None else watch
        self.memory = memory
        self.ours, self.rivals, self.options = ours, dict(rivals), options
        self.service, self.null = service, null
        self.contenders = {OURS: ours, **rivals}
        self.fixed, self.batched, self.count = samples.fixed_batch, samples.batched, len(samples)
        self.room, self.tick = room, tick
        self.measured = Measured(options.load(samples.fixed_batch, batched=samples.batched))
        self.rival_blocks: dict[str, list[Milliseconds]] = {name: [] for name in rivals}
        self.our_blocks: list[Milliseconds] = []  # those that were measured in turns with the rivals'
        self.cold_starts: dict[str, ColdStart] = {}
        self.agreements: dict[str, Agreement] = {}
        self.first_runs: dict[int, float] = {}
        self.orders = Orders(options, self.fixed, lambda: self.cold_starts[OURS].first_query)
        self.given_up: dict[str, str] = {}  # contenders that get no further turn, and why
        self._share = 0.0

    @property
    def has_measured(self) -> bool:
        """Whether anything is worth a report."""
        return any(len(block) for block in self.measured.blocks)

    def start(self) -> None:
        """Cold starts and first runs of every shape; to be asked before anything else."""
        batch = self.fixed or 1
        for name, contender in list(self.contenders.items()):
            self.tick(f"cold start of {name}", 0.0)
            try:
                with blaming(name):
                    self.cold_starts[name] = contender.cold_start(batch)
            except AaexportError as error:
                if name == OURS or self.options.compare is not None:
                    raise
                self.rivals.pop(name)
                self.contenders.pop(name)
                self.measured.notes.append(left_out(error))
        self.first_runs[batch] = self.cold_starts[OURS].first_query
        for size in self._sizes():
            self._warm(size)
        self.measured.gpu_before = self.measured.gpu(self.options.device or "cpu")
        if self.options.trace is not None:
            self.measured.load = replace(self.measured.load, rate=mean_rate(trace(self.options.trace)))

    def check_answers(self, float32: WorkerSpec | None, own: WorkerSpec | None = None) -> None:
        """Whether all contenders answer alike, and what answers are compared with from now on.

        Of a file in float16 or int8 that is what it answers itself, in small batches, and those answers may have lost
        of float32 what the guard allows.

        Args:
            float32: what would be loaded to answer in float32, PyTorch where it can be; None where nobody can.
            own: the same for the file's own answers; None to ask the contender itself.
        """
        if not self.options.check:
            self.measured.notes.append("answers were not compared with PyTorch's (--no-check)")
            return
        self.tick("answers to compare with", 0.0)
        asked = Asked(self.ours, self.rivals, self.terms, self.count, self.fixed, self.room)
        found = checked_answers(asked, float32, own, by_rival=self.options.device == "cpu")
        self.measured.notes += found.notes
        self.measured.reasons += found.reasons
        self.measured.loss, self.agreements = found.loss, found.agreements
        if found.expected is not None:
            self.ours.expect(found.expected.path)
            self.measured.check = AnswerCheck(found.expected.against, 0, 0, 0.0)

    def measure(self) -> None:
        """Everything that was asked for; however it ends, `measured` tells of the machine meanwhile."""
        # Only now: what others did while a compiler was at work is no excuse, and no comfort, for what comes.
        watch = MachineWatch(self._processes())
        try:
            self._settle()
            self._run_scenario()
            for name, part in self._parts_after().items():
                try:
                    part()
                except MeasurementError:
                    raise
                except AaexportError as error:  # what the report is of is measured
                    self.measured.notes.append(f"{name}: {error}")
            self.measured.complete = True
        except AaexportError as error:
            if not self.has_measured:
                raise
            self.measured.aborted = str(error)  # what was measured before is not lost
            self.measured.complete = True
        finally:
            self.measured.environment = watch.environment()
            self.measured.gpu_after = self.measured.gpu(self.options.device or "cpu")
            self._look_at_gpu()
            self._compare(self.measured.environment)

    def _look_at_gpu(self) -> None:
        """What the GPU did while queries counted; a note where its readings are of a GPU at rest alone."""
        self.measured.gpu_load = self.watch.load()
        if self.measured.gpu_after is not None and self.measured.gpu_load is None and self.has_measured:
            self.measured.notes.append("the GPU was read before and after queries, when it rested, and not meanwhile")

    def _parts_after(self) -> dict[str, Callable[[], None]]:
        """What is measured besides the scenario, by what a note says if it cannot be."""
        if OURS in self.given_up:  # a session may still be at work on what was asked of it
            return {}
        return {
            "throughput was not measured to its end": self._throughput,
            "phases were not measured": self._phases,
            "a server that computes nothing was not measured": self._measure_null,
        }

    def _warm(self, size: int) -> None:
        """A first run of that size; what does not fit the memory is left out when its turn comes, and told then."""
        try:
            self.first_run(size)
        except AaexportError as error:
            if size == self.measured.load.samples_per_query or out_of_memory(error) is None:
                raise

    def _settle(self) -> None:
        """Every contender is asked until its medians, and the clocks, stand still."""
        for name, contender in self.contenders.items() if self.options.settles_for else ():
            self.tick(f"{name}, until it stands still", 0.0)
            try:
                with blaming(name):
                    found = settle(partial(contender.block, self.fixed or 1), self.watch, self.options.settles_for)
            except AaexportError as error:
                if name == OURS:
                    raise
                self.given_up[name] = str(error)  # the others go on
                continue
            if not found.still:
                self.measured.notes.append(f"{name} did not stand still within {found.seconds:.0f} s (--settle)")

    def _phases(self) -> None:
        """Where the time of a query goes, with what the device itself took, or a note why not."""
        self.measured.phases = self.ours.phases(self.fixed or 1)
        if self.measured.phases is not None and self.options.session.get("resident"):
            self.measured.notes.append("a query copies nothing (--resident): its phases tell what copies would take")
        if self.measured.phases is not None and self.ours.untimed is not None:
            self.measured.notes.append(f"the GPU's own time was not measured: {self.ours.untimed}")

    def _processes(self) -> list[int]:
        """Those that take part: the contenders', and what of a live service is on this machine."""
        contenders = [*self.contenders.values(), *([self.null] if self.null else [])]
        own = [process for contender in contenders for process in contender.process_ids]
        return own if self.service is None else [*own, *self.service.processes()]

    def _measure_null(self) -> None:
        """What client, protocol and loopback take by themselves, under the same load: of no model at all."""
        load = self.measured.load
        if self.null is None or load.scenario == "offline":
            return
        self.tick("a server that computes nothing", 0.97)
        seconds = min(NULL_SECONDS, self.options.duration)
        if load.rate is not None:
            latencies = self.null.run(self.orders.server(load, seconds, LEAST_IN_A_BLOCK)).log.latencies
        else:
            plan = BlockPlan(self.options.warmup, seconds, LEAST_IN_A_BLOCK, PATIENCE * seconds)
            latencies = self.null.block(load.samples_per_query, plan)
        self.measured.null = latencies

    def _run_scenario(self) -> None:
        """Each scenario by its own way, so that a new one is not measured as one of the others."""
        runs = {
            "single-stream": self._closed_loop,
            "multi-stream": self._closed_loop,
            "offline": self._offline,
            "server": self._server,
        }
        runs[self.options.scenario]()

    def _closed_loop(self) -> None:
        self._alternate(lambda block: self.orders.closed_loop(self.measured.load, block))

    def _sizes(self) -> tuple[int, ...]:
        """Batch sizes of the throughput part."""
        if self.options.is_server:
            return ()
        if self.batched and self.fixed is None:
            if self.options.sweeps_batches:
                return ()  # they come one after the other, as long as it pays
            sizes = tuple(self.options.sizes or BATCHES)
            most = self.ours.max_batch
            return sizes if most is None else tuple(size for size in sizes if size <= most) or (most,)
        return (self.fixed or 1,)

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
        """One block; what it leaves is kept if it `counts`, or if it was interrupted before anything was kept."""
        called = "the service" if name == OURS and self.service is not None else name
        what = f"{called}, {order.load.scenario}, batch {order.load.samples_per_query:,}"
        self.tick(what, self._share)
        if self.service is not None and name == OURS:
            ahead, order = warm_up_apart(order)  # a service counts whatever it is asked
            self.ours.run(ahead)
        before = self._counted(name)
        try:
            with blaming(name), self.watch.period(counts=False):
                served = self.contenders[name].run(order, lambda state: self.tick(_running(what, state), self._share))
            if before is not None and (after := self._counted(name)) is not None:
                served = replace(served, statistics=after - before)
        except RunInterrupted as interrupted:
            if name == OURS and len(interrupted.served.log) and (counts or not self.has_measured):
                self.measured.add(interrupted.served)
                self.watch.count(interrupted.served.counted or self.watch.last_period)
            raise
        except AaexportError as error:
            if name == OURS:
                raise
            self.given_up[name] = str(error)  # the others go on
            return Served(QueryLog.empty())
        if served.aborted is not None:
            self.given_up[name] = served.aborted
        if name != OURS:
            self.rival_blocks[name].append(served.log.latencies)
            return served
        self.our_blocks.append(served.log.latencies)
        if counts:
            self.measured.add(served)
            self.watch.count(served.counted or self.watch.last_period)
        return served

    def _counted(self, name: str) -> ModelStatistics | None:
        """What a live service has counted so far; None of all others, and where it does not tell."""
        return self.service.statistics() if self.service is not None and name == OURS else None

    def _begin(self, share: float) -> None:
        """Of the counted part, which is most of the time."""
        self._share = 0.9 * share

    def _server(self) -> None:
        load, seconds = self.measured.load, self.options.seconds
        if self.options.find_peak:
            self._find_peak()
            return
        self._run(OURS, self.orders.server(load, seconds, self.options.least_queries))
        if self.rivals:
            self._beside(lambda block: self.orders.server(load, seconds / BLOCKS, LEAST_IN_A_BLOCK, block))

    def _beside(self, order: Callable[[int], RunOrder]) -> None:
        """Blocks for the comparisons alone, after the run that the report is of."""
        self.our_blocks.clear()
        self._alternate(order, counts=False)

    def _find_peak(self) -> None:
        bound = self.options.latency_bound
        assert bound is not None
        alone = self._latency_alone()
        # Every server holds about half of what one stream does. If one query alone is too slow, no rate helps.
        most = MOST_TRIALS if alone < bound else 1
        PeakSearch(self, self.options, bound).run(start=500 / alone, most_trials=most)

    def load_at(self, rate: float) -> Load:
        """The server's load with that rate."""
        return self.options.load(self.fixed, rate=rate, batched=self.batched)

    def serve(self, load: Load, number: int, patience: float, share: float) -> Served:
        """A trial of a search; it does not count, and a rate that is too high is no fault of the session."""
        self._begin(share)
        options = self.options
        order = self.orders.server(load, options.seconds, options.least_queries, number, answer_patience=patience)
        served = self._run(OURS, order, counts=False)
        self.given_up.clear()
        return served

    def settle_on(self, load: Load, served: Served, peak: Peak) -> None:
        """Takes a trial for the measurement that the report is of."""
        self.measured.blocks.clear()  # of a trial that was interrupted
        self.measured.statistics = None
        self.measured.load, self.measured.peak = load, peak
        self.measured.add(served)
        if served.counted is not None:
            self.watch.count(served.counted, alone=True)

    def _latency_alone(self) -> float:
        """Of one query after the other, in milliseconds."""
        return float(np.median(self.ours.block(self.fixed or 1, BlockPlan(self.options.warmup, 0.5, 10, 5.0))))

    def _offline(self) -> None:
        load, seconds = self.measured.load, self.options.seconds
        if self.ours.max_batch is not None:
            load = replace(load, max_batch=min(load.max_batch, self.ours.max_batch))
        total, rate = load.max_batch * PILOT_BATCHES, 0.0
        for _ in range(PILOTS):  # how long it takes is known only from the same way of serving
            order = self.orders.of(load, seconds, 1, 0, total_samples=total, shares_batches=True)
            pilot = self._run(OURS, order, counts=False)
            rate = pilot.log.throughput
            if pilot.aborted is not None or pilot.log.seconds >= PILOT_SECONDS:
                break
            total = max(total, int(rate * PILOT_SECONDS * 2))
        total = min(max(int(OFFLINE_MARGIN * rate * seconds), self.options.least_samples, 1), MOST_OFFLINE_SAMPLES)
        self.measured.load = replace(load, samples_per_query=total)
        self._run(OURS, self.orders.of(load, seconds, 1, 0, total_samples=total, shares_batches=True))
        if self.rivals:
            stream = replace(load, scenario="single-stream", samples_per_query=load.max_batch)
            self._beside(lambda block: self.orders.of(stream, seconds / BLOCKS, 2, block))

    def _throughput(self) -> None:
        """Closed loops: of other batch sizes, and of several clients whose queries share batches."""
        options, sizes, notes = self.options, self._sizes(), self.measured.notes
        most = self.ours.max_batch
        if options.sweeps_batches and self.batched and self.fixed is None:
            sweep_sizes(self, most_built_for(options.session))
        elif sizes and most is not None and max(options.sizes or BATCHES) > most:
            notes.append(f"the service takes {most} images a query: larger batches were not measured")
        elif sizes and options.batches is not None and set(options.sizes or ()) != set(sizes):
            notes.append(f"the file fixes the batch at {sizes[0]}: no other size was measured")
        measure_sizes(self, sizes)
        measure_clients(self, options.concurrency, self.fixed or 1)

    def first_run(self, size: int) -> float:
        """Seconds of the first query of so many images, which is asked now if it was not before."""
        if size not in self.first_runs:
            self.first_runs[size] = self.ours.first_query(size)
        return self.first_runs[size]

    def closed_loop(self, size: int, clients: int, first_run: float | None) -> Loop:
        """So many clients, each with one query of so many images under way, for a share of the duration."""
        shared = clients > 1
        load = self.options.load(self.fixed, batched=self.batched, shares_batches=shared)
        load = replace(load, scenario="single-stream", samples_per_query=size)
        seconds = self.options.duration * THROUGHPUT_SHARE
        order = self.orders.of(load, seconds, 1, 0, clients=clients, shares_batches=shared)
        patience = max(order.answer_patience, SLOW_ANSWER * (first_run or 0.0))
        self._share = 0.95
        served = self._run(OURS, replace(order, answer_patience=patience), counts=False)
        # What lies between two queries takes energy too, which is none of theirs.
        power = None if served.log.apart else self.watch.mean_power(served.counted or self.watch.last_period)
        return Loop(served, None if shared else self._memory(size), power)

    def _memory(self, size: int) -> int | None:
        """What so many images take of the GPU; None where nobody tells, or with a note if it cannot be measured."""
        if self.memory is None:
            return None
        try:
            return self.memory.of(size)
        except AaexportError as error:
            self.measured.notes.append(f"the GPU memory of batches of {size:,} was not measured: {error}")
            return None

    def _unlike(self, rival: Contender) -> str | None:
        """Why its queries are others than ours; None if they are alike."""
        if self.options.session.get("resident") and not rival.stays:
            return "its queries copy inputs and answers, ours do not (--resident)"
        return None

    def _compare(self, environment: Environment) -> None:
        withheld = why_no_ratio(environment)
        for name, rival in self.rivals.items():
            self.measured.comparisons.append(
                compared(
                    name,
                    rival,
                    self.rival_blocks[name],
                    self.our_blocks,
                    cold_start=self.cold_starts[name],
                    agreement=self.agreements.get(name, Agreement(None)),
                    withheld=self.given_up.get(name) or self._unlike(rival) or withheld,
                )
            )


def left_out(error: AaexportError) -> str:
    """That a rival which nobody asked for by name is not measured, as it does not work here."""
    return f"left out of the comparison, as it does not work here: {error}"


def _running(what: str, state: Mapping[str, Any]) -> str:
    """For the line of progress."""
    if state["is_warmup"]:
        return f"{what}: warming up"
    figures = "".join(f", {p} {state[p]:.3f} ms" for p in ("p50", "p99") if state[p] is not None)
    return f"{what}: {state['queries']:,} queries{figures}"
