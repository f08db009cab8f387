"""(RunOrder, loaded runners) → Run: the system under test is put together, and put under load."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from typing import Any

from aaexport.errors import MeasurementError, RunnerError, broken_rule
from aaexport.load import arrivals
from aaexport.load.batching import BatchingServer
from aaexport.load.clock import RealClock
from aaexport.load.engine import LoadGenerator
from aaexport.load.plan import Plan, Progress
from aaexport.load.run import Nanoseconds, Run
from aaexport.load.system import Flushed, Synchronous, SystemUnderTest
from aaexport.load.threads import RunnerThread
from aaexport.pipeline.bench.feeding import Answer, Feeder
from aaexport.pipeline.bench.run_order import RunOrder
from aaexport.runners.base import Array, Runner

WARM_SECONDS = 240.0  # for all sizes of all sessions
OFFLINE_KEEPS_EVERY = 1000  # samples, of the one query that has them all


def run_order(
    order: RunOrder,
    runners: Sequence[Runner],
    threads: Sequence[RunnerThread],
    feeder: Feeder,
    abort: threading.Event,
    tell: Callable[[dict[str, Any]], None] | None,
    kept: int = 0,
    flush: Callable[[], None] | None = None,
) -> Run:
    """The run that was ordered, with the answers to `kept` samples; each runner is at work in its own thread.

    `flush` is called between two queries of a closed loop.

    ArgumentError for a trace that is none.
    """
    load = order.load
    is_offline = load.scenario == "offline"  # one query has all samples: a few of its answers are kept
    plan = Plan(
        duration=order.duration,
        min_queries=order.min_queries,
        max_duration=order.max_duration,
        warmup=order.warmup,
        patience=order.answer_patience,
        keep=min(kept, max(1, kept // load.samples_per_query)),
        seed=load.seed,
    )

    def progress(state: Progress) -> None:
        assert tell is not None
        tell(asdict(state))

    with ExitStack() as stack:
        system: SystemUnderTest = Synchronous(answerer(runners[0], feeder))
        clock = RealClock(threads[0].start)  # whoever sends is answered where he sends
        if order.shares_batches:
            spared = OFFLINE_KEEPS_EVERY if is_offline else 1
            workers = [worker(runner, feeder, spared) for runner in runners]
            pads = runners[0].inputs[0].shape[:1] not in ((), (None,)) and feeder.batched
            delay = load.max_delay / 1000
            starts = [thread.start for thread in threads]
            system = stack.enter_context(BatchingServer(workers, load.max_batch, delay, pad=pads, threads=starts))
            clock = RealClock()
        if flush is not None:
            system = Flushed(system, flush)
        told = progress if tell else None
        # What stays on the device is the input of one query, which all ask then.
        count = load.samples_per_query if getattr(runners[0], "stays", False) else len(feeder)
        generator = LoadGenerator(system, count, plan, clock=clock, abort=abort, progress=told)
        if is_offline:
            return generator.offline(order.total_samples, warmup_samples=load.max_batch)
        if load.scenario == "server":
            return generator.server(_schedule(order), load.samples_per_query, warmup_concurrency=len(runners))
        return generator.closed_loop(load.samples_per_query, order.clients)
    raise AssertionError("an ExitStack that swallows nothing")


def warm_shapes(
    runners: Sequence[Runner],
    threads: Sequence[RunnerThread],
    feeder: Feeder,
    sizes: Sequence[int],
    *,
    patience: float = WARM_SECONDS,
) -> None:
    """Runs every session once at every batch size: the first run of a shape is slow where algorithms are searched.

    One after the other, each in its own thread: there CUDA graphs are recorded, while no other session is at work.
    MeasurementError if that takes more than so many seconds.
    """
    deadline = time.monotonic() + patience
    for done, size in enumerate(sizes):
        if time.monotonic() > deadline:
            rule = f"have run once within {patience:g} s before the clock starts"
            remedy = "take a smaller --max-batch, fewer --graph-sizes, or --cudnn-search HEURISTIC"
            raise MeasurementError(broken_rule(f"{len(sizes)} batch sizes", rule, f"{done} of them", remedy))
        feeds = feeder.feeds(feeder.of_query(0, size))
        for runner, thread in zip(runners, threads, strict=True):
            thread.run(partial(runner.infer, feeds))


def worker(runner: Runner, feeder: Feeder, keep_every: int = 1) -> Callable[[list[int]], list[Answer | None]]:
    """The runner as a function from the samples of a batch to an answer for each, or for one in `keep_every`."""
    counted = itertools.count()
    alone = answerer(runner, feeder)

    def answers(samples: list[int]) -> list[Answer | None]:
        outputs = alone((samples[0],)) if len(samples) == 1 else runner.infer(feeder.feeds(samples))
        if not feeder.batched:
            return [outputs]
        for name, output in outputs.items():
            if output.shape[:1] != (len(samples),):
                rule = f"have an entry for each of {len(samples)} samples if queries are to share a batch"
                raise RunnerError(broken_rule(f"output {name}", rule, f"shape {output.shape}", "set --max-batch 1"))
        return [
            {name: output[place] for name, output in outputs.items()} if next(counted) % keep_every == 0 else None
            for place in range(len(samples))
        ]

    return answers


def answerer(runner: Runner, feeder: Feeder) -> Callable[[tuple[int, ...]], Answer]:
    """The runner as a function of samples, whose inputs were cut beforehand where they are neighbours.

    A server gets its input as an array, it does not gather it from a data set: only batches that were put together
    of several queries are copied, as a server would have to.
    """
    cut: dict[tuple[int, ...], dict[str, Array]] = {}
    infer = getattr(runner, "query", runner.infer)

    def answer(samples: tuple[int, ...]) -> Answer:
        feeds = cut.get(samples)
        if feeds is None:
            feeds = cut[samples] = feeder.feeds(samples)
        return infer(feeds)

    return answer


def _schedule(order: RunOrder) -> Nanoseconds:
    load = order.load
    if order.trace is not None:
        return arrivals.trace(order.trace)
    assert load.rate is not None
    if load.arrivals == "constant":
        return arrivals.constant(load.rate, order.duration, order.min_queries)
    return arrivals.poisson(load.rate, order.duration, order.min_queries, load.seed)
