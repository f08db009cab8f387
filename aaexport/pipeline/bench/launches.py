"""(worker, numbers of threads) → Launches: several processes of each, one after the other and in turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from aaexport.cores import usable_cores
from aaexport.load.launches import Launches, called, settle_threads
from aaexport.load.lengths import queries_needed
from aaexport.load.machine import MachineWatch
from aaexport.load.single_stream import BlockPlan
from aaexport.load.statistics import Milliseconds
from aaexport.load.validity import why_no_ratio
from aaexport.pipeline.bench.contender import Contender
from aaexport.pipeline.bench.worker_models import WorkerSpec

DEARER = 2  # the first queries of a file, which are not counted however long the others take
PATIENCE = 10  # a launch may last this many times longer than planned to reach its queries

Tick = Callable[[str, float], None]


def launch_in_turns(
    spec: WorkerSpec,
    threads: Sequence[int | None],
    launches: int,
    *,
    batch: int,
    warmup: float,
    duration: float,
    tick: Tick,
) -> Launches:
    """Single-stream latencies of every launch, and the setting to take.

    Args:
        spec: what every process loads, but for its threads.
        threads: the settings.
        launches: of each.
        batch: images a query.
        warmup: seconds of uncounted queries in every launch.
        duration: seconds of counted queries of each setting, over all its launches.
        tick: is told each launch, and the share that is done.

    Raises:
        AaexportError: what a worker raised, or MeasurementError if it died or answered too late.
    """
    seconds = duration / launches
    plan = BlockPlan(warmup, seconds, queries_needed(50), max(seconds, 1.0) * PATIENCE)
    measured: dict[int | None, list[Milliseconds]] = {setting: [] for setting in threads}
    watch, order = MachineWatch(), list(threads)
    for number in range(launches):
        for place, setting in enumerate(order):
            done = (number * len(order) + place) / (launches * len(order))
            tick(f"launch {number + 1} of {launches}, {called(setting)}", done)
            with Contender(replace(spec, threads=setting)) as contender:
                for _ in range(DEARER):
                    contender.first_query(batch)
                measured[setting].append(contender.block(batch, plan))
        order = order[1:] + order[:1]  # who goes later runs on a warmer machine: they take turns in that too
    return settle_threads(measured, batch, why_no_ratio(watch.environment()))


def numbers_to_try() -> tuple[int, ...]:
    """One thread, twice as many and so on, and all cores that the process may use."""
    cores = usable_cores()
    doubling = [2**power for power in range(cores.bit_length()) if 2**power < cores]
    return (*doubling, cores)
