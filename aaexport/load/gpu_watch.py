"""A GPU at work → what its management library tells meanwhile: clocks, what holds them down, heat, power and memory.

A GPU at rest is neither hot nor held back, so it is read while queries run, some ten times a second by a thread of
its own, and only what was read in periods that count is told.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np

from aaexport.load.gpu import (
    CLOCK,
    POWER,
    TEMPERATURE,
    THROTTLED,
    Handles,
    UnreadableError,
    handles,
    management,
    throttle_reasons,
    told,
)

PAUSE = 0.1  # seconds between two readings
Period = tuple[float, float]


@dataclass(frozen=True)
class GpuSample:
    """One reading at a moment in seconds; None where the driver does not tell.

    `energy` is in J since the driver was loaded, `memory` the bytes of the whole GPU that are in use.
    """

    moment: float
    sm_clock: int | None = None
    temperature: int | None = None
    power: float | None = None
    throttled: int = 0  # bits
    energy: float | None = None
    memory: int | None = None


@dataclass(frozen=True)
class GpuLoad:
    """What a GPU did while it was measured; None where the driver does not tell.

    Attributes:
        samples: how many readings it is of.
        sm_clock, sm_clock_lowest: the median and the least, in MHz.
        sm_clock_first, sm_clock_last: the medians of the first and the last fifth of the readings.
        temperature: the highest, in °C.
        power: the mean, in W.
        throttled: the share of the readings in which the driver held the clocks down, by its reason.
        memory: the most bytes of the whole GPU that were in use.
    """

    samples: int
    sm_clock: float | None
    sm_clock_lowest: float | None
    sm_clock_first: float | None
    sm_clock_last: float | None
    temperature: int | None
    power: float | None
    throttled: dict[str, float]
    memory: int | None


class GpuWatch:
    """Reads while its block lasts; nothing where `read` is None: where there is no GPU, or nobody tells of it.

    `gpu_reader` makes that function of CUDA's number of a GPU.

    Attributes:
        last_period: when the last one began and ended.
    """

    last_period: Period = (0.0, 0.0)

    def __init__(self, read: Callable[[], GpuSample] | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._read, self._clock = read, clock
        self._samples: list[GpuSample] = []
        self._periods: list[Period] = []
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> GpuWatch:
        if self._read is not None:
            self._thread = threading.Thread(target=self._keep_reading, name="aaexport-gpu", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    @contextmanager
    def period(self, *, counts: bool = True) -> Iterator[None]:
        """One in which something is at work, and whether it counts; what it took is read at both its ends."""
        self._add()
        began = self._clock()
        try:
            yield
        finally:
            self.last_period = (began, self._clock())
            if counts:
                self._periods.append(self.last_period)
            self._add()

    def count(self, period: Period, *, alone: bool = False) -> None:
        """Has a period that is known only afterwards count, beside the others or `alone`; moments are the clock's."""
        if alone:
            self._periods.clear()
        self._periods.append(period)

    def memory(self) -> int | None:
        """Bytes of the whole GPU that are in use now."""
        return None if self._read is None else self._read().memory

    def load(self, periods: Sequence[Period] | None = None) -> GpuLoad | None:
        """Of all periods that counted, or of some; None if nothing was read in them."""
        wanted = self._periods if periods is None else periods
        found = [one for one in self._samples if any(began < one.moment < end for began, end in wanted)]
        return summary(found) if found else None

    def mean_power(self, period: Period) -> float | None:
        """W over a period, by the driver's account of energy, or by its readings of power where it keeps none.

        The account is read some ten times a second, and taken to grow evenly in between.
        """
        moments = [one.moment for one in self._samples if one.energy is not None]
        energies = [one.energy for one in self._samples if one.energy is not None]
        began, ended = period
        if moments and moments[0] <= began < ended <= moments[-1]:
            first, last = np.interp([began, ended], moments, energies)
            return float((last - first) / (ended - began))
        found = self.load([period])
        return None if found is None else found.power

    def _add(self) -> None:
        if self._read is not None:
            self._samples.append(self._read())

    def _keep_reading(self) -> None:
        while not self._ended.wait(PAUSE):
            self._add()


def summary(samples: Sequence[GpuSample]) -> GpuLoad:
    """Of one or more readings, in their order."""
    clocks = [one.sm_clock for one in samples if one.sm_clock is not None]
    fifth = -(-len(clocks) // 5)
    names = [throttle_reasons(one.throttled) for one in samples]
    return GpuLoad(
        samples=len(samples),
        sm_clock=_median(clocks),
        sm_clock_lowest=min(clocks, default=None),
        sm_clock_first=_median(clocks[:fifth]),
        sm_clock_last=_median(clocks[len(clocks) - fifth :]),
        temperature=max((one.temperature for one in samples if one.temperature is not None), default=None),
        power=_mean([one.power for one in samples if one.power is not None]),
        throttled={
            name: sum(name in each for each in names) / len(names)
            for name in dict.fromkeys(name for each in names for name in each)
        },
        memory=max((one.memory for one in samples if one.memory is not None), default=None),
    )


@contextmanager
def gpu_reader(index: int) -> Iterator[Callable[[], GpuSample] | None]:
    """What reads the GPU that CUDA counts as `index`, as long as the block lasts; None if it cannot be read."""
    with ExitStack() as stack:
        read = None
        try:
            with ExitStack() as opening:  # what `handles` meets must reach `management`, which has the words for it
                nvml = opening.enter_context(management())
                found = handles(nvml, index)
                stack.enter_context(opening.pop_all())
                read = partial(_sample, nvml, found)
        except UnreadableError:
            pass  # `why_unreadable` tells it
        yield read


def _sample(nvml: Any, of: Handles) -> GpuSample:
    power = told(nvml, POWER, of.gpu)
    energy = told(nvml, "nvmlDeviceGetTotalEnergyConsumption", of.gpu)  # in mJ
    try:
        memory = int(nvml.nvmlDeviceGetMemoryInfo(of.part).used)
    except nvml.NVMLError:
        memory = None
    return GpuSample(
        moment=time.monotonic(),
        sm_clock=told(nvml, CLOCK, of.gpu, nvml.NVML_CLOCK_SM),
        temperature=told(nvml, TEMPERATURE, of.gpu, nvml.NVML_TEMPERATURE_GPU),
        power=None if power is None else power / 1000,
        throttled=told(nvml, THROTTLED, of.gpu) or 0,
        energy=None if energy is None else energy / 1000,
        memory=memory,
    )


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
