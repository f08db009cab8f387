"""(RunOrder, loaded runners) → Run: the system under test is put together, and put under load."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from aaexport.errors import RunnerError, broken_rule
from aaexport.load import arrivals
from aaexport.load.batching import BatchingServer
from aaexport.load.engine import LoadGenerator
from aaexport.load.plan import Plan, Progress
from aaexport.load.run import Nanoseconds, Run
from aaexport.load.system import Synchronous, SystemUnderTest
from aaexport.pipeline.bench.feeding import Answer, Feeder
from aaexport.pipeline.bench.run_order import RunOrder
from aaexport.runners.base import Array, Runner

OFFLINE_KEEPS_EVERY = 1000  # samples, of the one query that has them all


def run_order(
    order: RunOrder,
    runners: Sequence[Runner],
    feeder: Feeder,
    abort: threading.Event,
    tell: Callable[[dict[str, Any]], None] | None,
    kept: int = 0,
) -> Run:
    """The run that was ordered, with the answers to `kept` samples. ArgumentError for a trace that is none."""
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
        if order.shares_batches:
            spared = OFFLINE_KEEPS_EVERY if is_offline else 1
            workers = [worker(runner, feeder, spared) for runner in runners]
            pads = runners[0].inputs[0].shape[:1] not in ((), (None,)) and feeder.batched
            delay = load.max_delay / 1000
            system = stack.enter_context(BatchingServer(workers, load.max_batch, delay, pad=pads))
        generator = LoadGenerator(system, len(feeder), plan, abort=abort, progress=progress if tell else None)
        if is_offline:
            return generator.offline(order.total_samples, warmup_samples=load.max_batch)
        if load.scenario == "server":
            return generator.server(_schedule(order), load.samples_per_query, warmup_concurrency=len(runners))
        return generator.closed_loop(load.samples_per_query, order.clients)
    raise AssertionError("an ExitStack that swallows nothing")


def warm_shapes(runners: Sequence[Runner], feeder: Feeder, sizes: Sequence[int]) -> None:
    """Runs every session once at every batch size: the first run of a shape is slow where algorithms are searched."""
    for runner in runners:
        for size in sizes:
            runner.infer(feeder.feeds(feeder.of_query(0, size)))


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
    infer = runner.infer

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
