"""Which columns of one product meet is found out without many tensors of all logits."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest

from aaexport.graph.rules import tables_in_one
from aaexport.graph.rules.rule import Refusal
from aaexport.graph.rules.tables_in_one import NOT_TWO, _who_meet

COLUMNS = 12
LOGITS = 2**19
PRODUCT = SimpleNamespace(shape=(1, 1, COLUMNS), numbering=np.arange(COLUMNS, dtype=np.int32), value=None)


def meet(monkeypatch, one, other, times=0.37):
    """Who meets where the columns `one` and `other`, by logit, come to it."""

    def carried(logits, value, numbers, *, sums):
        found = numbers[one]
        for first in range(0, len(found), 2**12):
            found[first : first + 2**12] += numbers[other[first : first + 2**12]]
        found *= times
        return found

    monkeypatch.setattr(tables_in_one, "carry", carried)
    return _who_meet(None, PRODUCT)


@pytest.fixture
def columns(monkeypatch):
    """Of either table, by logit, in many parts."""
    monkeypatch.setattr(tables_in_one, "PART", 2**12)
    place = np.arange(LOGITS, dtype=np.int32)
    return place % 5, 5 + place // 7 % 7


def test_it_takes_hardly_more_than_one_of_them_at_a_time(monkeypatch, columns):
    tracemalloc.start()
    try:
        found = meet(monkeypatch, *columns)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * 8 * LOGITS
    expected = np.zeros((COLUMNS, COLUMNS), bool)
    expected[:5, 5:] = expected[5:, :5] = True
    assert (found == expected).all()


def test_a_third_column_in_a_late_part_is_refused(monkeypatch, columns):
    one, other = columns
    monkeypatch.setattr(tables_in_one, "_two", lambda *given: pytest.fail("sums are no whole numbers"))

    def carried(logits, value, numbers, *, sums):
        found = numbers[one] + numbers[other]
        found[-1] += numbers[1] / 2 * (numbers[1] != numbers[0])
        return found

    monkeypatch.setattr(tables_in_one, "carry", carried)
    with pytest.raises(Refusal, match=NOT_TWO):
        _who_meet(None, PRODUCT)
