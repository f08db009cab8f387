"""Orders of a worker with a made-up runner: what stays on the device, and what lies between two queries."""

from contextlib import contextmanager

import numpy as np
import pytest

from aaexport.pipeline.bench.worker import _Worker
from aaexport.runners import cuda_runtime

PLAN = {"warmup": 0.0, "duration": 0.0, "min_queries": 3, "max_duration": 10.0}


class Runner:
    """Notes what it is asked."""

    stays = True

    def __init__(self):
        self.asked = []

    def infer(self, feeds):
        raise AssertionError("a query of what stays there is no whole one")

    def query(self, feeds):
        self.asked.append(feeds)

    def phases(self, feeds, count, between=None):
        between()


class Feeder:
    """Four samples."""

    def __len__(self):
        return 4

    def of_query(self, number, batch):
        return (number,)

    def feeds(self, samples):
        return {"x": np.asarray(samples)}


@pytest.fixture
def flushes(monkeypatch):
    """Where each writing over the cache is noted."""
    noted = []

    class Runtime:
        def __init__(self, index):
            pass

        @contextmanager
        def flusher(self):
            yield lambda: noted.append("flush")

    monkeypatch.setattr(cuda_runtime, "CudaRuntime", Runtime)
    return noted


@pytest.fixture
def worker():
    made = _Worker.__new__(_Worker)
    made.runner, made.feeder, made.flushes, made.index = Runner(), Feeder(), False, 0
    return made


def test_queries_of_a_block_are_what_they_are_under_load(worker):
    assert len(worker.block(1, **PLAN)["nanoseconds"]) == 3
    assert len(worker.runner.asked) == 4  # one to warm up
    assert all(feeds is worker.runner.asked[0] for feeds in worker.runner.asked)


def test_the_cache_is_written_over_between_queries_of_a_block_and_of_the_phases(worker, flushes):
    worker.flushes = True
    worker.block(1, **PLAN)
    assert len(flushes) == 4
    worker.phases(1)
    assert len(flushes) == 5
