"""Answers that are kept where the next one will be; and the time of queries that something lies between."""

import numpy as np
import pytest

from aaexport.load.engine import LoadGenerator
from aaexport.load.plan import Plan
from aaexport.load.run import QueryLog
from aaexport.load.system import Synchronous


class Place:
    """Where each answer overwrites the one before."""

    def __init__(self):
        self.number = 0

    def copied(self):
        return self.number


def test_an_answer_that_the_next_would_overwrite_is_copied_before_it():
    place = Place()

    def answer(samples):
        place.number += 1
        return place

    plan = Plan(duration=0.0, min_queries=20, keep=20, patience=10.0)
    kept = LoadGenerator(Synchronous(answer), 4, plan).single_stream().kept
    assert [answer for _, answer in kept] == list(range(1, 21))


def test_what_lies_between_two_queries_is_no_time_of_theirs():
    sent = np.arange(4, dtype=np.int64) * 100_000_000
    log = QueryLog(sent, sent, sent + 10_000_000, np.full(4, 2, np.int32), apart=True)
    assert log.lasted == pytest.approx(0.31)
    assert log.seconds == pytest.approx(0.04)
    assert log.throughput == pytest.approx(200)
