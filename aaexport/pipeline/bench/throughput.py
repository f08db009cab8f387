"""Closed loops at other batch sizes and of several clients → images a second, and what a batch takes of a GPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from aaexport.errors import AaexportError, MeasurementError, out_of_memory
from aaexport.load.measurement import Throughput
from aaexport.load.statistics import percentile
from aaexport.pipeline.bench.contender import Served
from aaexport.pipeline.bench.measured import Measured
from aaexport.recipe import MAX_BATCH

GAIN = 1.05  # times the images a second, for twice the images a query: less is flat
FLAT = 2  # such steps in a row: one may be a batch that the kernels do not like


@dataclass(frozen=True)
class Loop:
    """What one closed loop left; `memory` in bytes and `power` in W are of a GPU, where its driver tells."""

    served: Served
    memory: int | None = None
    power: float | None = None


class Loops(Protocol):
    """What may be asked of the session that is measured."""

    measured: Measured

    def first_run(self, size: int) -> float:
        """Seconds of the first query of so many images. RunnerError if it cannot be run."""

    def closed_loop(self, size: int, clients: int, first_run: float | None) -> Loop:
        """So many clients, each with one query of so many images under way."""


def measure_sizes(loops: Loops, sizes: Sequence[int]) -> None:
    """A row of one client for each size; a note in place of one that cannot be run."""
    for size in sizes:
        try:
            _add(loops, size, 1, loops.first_run(size))
        except MeasurementError:
            raise  # whoever answers is gone
        except AaexportError as error:
            loops.measured.notes.append(f"batches of {size:,} were not measured: {error}")


def measure_clients(loops: Loops, concurrency: Sequence[int], size: int) -> None:
    """A row for each number of clients, whose queries share batches."""
    for clients in concurrency:
        _add(loops, size, clients, None)


def sweep_sizes(loops: Loops, built_for: int | None = None) -> None:
    """Rows of 1, 2, 4 … images, until twice as many are not answered faster or cannot be run; a note says which.

    More than engines were `built_for` are not asked for.
    """
    best, flat = 0.0, 0
    for size in _doubling():
        if built_for is not None and size > built_for:
            end = f"TensorRT's engines were built for at most {built_for:,}"
            loops.measured.notes.append(f"the sweep of batches ended before {size:,}: {end}")
            return
        try:
            first_run = loops.first_run(size)
            row = _add(loops, size, 1, first_run)
        except AaexportError as error:
            is_gone = isinstance(error, MeasurementError) and out_of_memory(error) is None
            if is_gone or not loops.measured.throughput:
                raise
            loops.measured.notes.append(f"the sweep of batches ended before {size:,}: {error}")
            return
        if row is None:
            return  # it was given up, which is told
        flat = flat + 1 if row.images_per_second < GAIN * best else 0
        best = max(best, row.images_per_second)
        if flat == FLAT:
            loops.measured.notes.append(f"the sweep of batches ended at {size:,}: no more images a second came of it")
            return
    loops.measured.notes.append(f"the sweep of batches ended at {MAX_BATCH:,}, the most images of a query")


def _doubling() -> Iterator[int]:
    size = 1
    while size <= MAX_BATCH:
        yield size
        size *= 2


def _add(loops: Loops, size: int, clients: int, first_run: float | None) -> Throughput | None:
    """The row; None of a loop that was given up."""
    loop = loops.closed_loop(size, clients, first_run)
    log = loop.served.log
    loops.measured.add_trouble(loop.served)
    row = Throughput(
        size,
        clients,
        log.throughput,
        percentile(log.latencies, 50),
        percentile(log.latencies, 99),
        None if first_run is None else first_run * 1000,
        loop.memory,
        loop.power / log.throughput if loop.power is not None and log.throughput else None,
    )
    loops.measured.throughput.append(row)
    return row if loop.served.aborted is None else None
