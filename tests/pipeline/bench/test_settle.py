"""When a contender stands still: by medians and clocks that are made up."""

import itertools

import numpy as np
import pytest

from aaexport.load.gpu_watch import GpuSample, GpuWatch
from aaexport.pipeline.bench.settle import Settled, settle, stands_still


@pytest.mark.parametrize(
    ("values", "still"),
    [([], False), ([1, 1], False), ([1, 1, 1], True), ([9, 1, 1.01, 1.02], True), ([1, 1, 1.05], False)],
)
def test_three_alike_in_a_row_stand_still(values, still):
    assert stands_still(values) is still


def contender(medians):
    """Blocks of those medians, a second each by its own clock."""
    now = itertools.count()
    found = iter(medians)
    return lambda plan: np.full(5, next(found)), lambda: float(next(now))


def test_it_ends_as_soon_as_medians_stand_still():
    run, clock = contender([5.0, 3.0, 2.0, 2.0, 2.0, 1.0])
    assert settle(run, GpuWatch(None), 100, clock) == Settled(True, 6.0)


def test_it_ends_in_time_where_they_never_do():
    run, clock = contender(itertools.cycle([1.0, 2.0]))
    found = settle(run, GpuWatch(None), 10, clock)
    assert (found.still, found.seconds) == (False, 10)


def test_medians_that_stand_still_wait_for_the_clock_of_the_gpu():
    clocks = iter([1000.0, 1500.0, 1980.0, 1980.0, 1980.0])
    watch = GpuWatch(lambda: GpuSample(0.0))
    watch.load = lambda periods: type("Load", (), {"sm_clock": next(clocks)})
    run, clock = contender(itertools.repeat(2.0))
    assert settle(run, watch, 100, clock).still
    assert next(clocks, None) is None
