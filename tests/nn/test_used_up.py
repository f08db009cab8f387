"""An iterator without an end is a cause only where what it gives makes answers others."""

import itertools
import random

import pytest
import torch
from torch import nn

from aaexport.nn.used_up import endless


class Asking(nn.Module):
    """Has an iterator, and may ask it, and may answer as it says."""

    def __init__(self, turns, forward):
        super().__init__()
        self.inner = nn.Identity()
        self.inner.turns, self.answer = turns, forward

    def forward(self, x):
        return self.answer(x, self.inner.turns)


CAUSES = {
    "count": (itertools.count(), lambda x, turns: x + next(turns), "inner.turns (count)"),
    "cycle": (itertools.cycle("abc"), lambda x, turns: x * ord(next(turns)), "inner.turns (cycle)"),
    "nobody asks": (itertools.count(), lambda x, turns: x + random.random(), None),
    "counted, and drawn": (itertools.count(), lambda x, turns: x + 0 * next(turns) + random.random(), None),
    "counted": (itertools.count(), lambda x, turns: x + 0 * next(turns), None),
    "repeat": (itertools.repeat(2.0), lambda x, turns: x + next(turns) * random.random(), None),
    "fails": (itertools.count(), lambda x, turns: x.view(next(turns)), None),
}


@pytest.mark.parametrize(("turns", "forward", "cause"), CAUSES.values(), ids=CAUSES)
def test_it_is_named_where_it_is_the_cause(turns, forward, cause):
    module = Asking(turns, forward)
    assert endless(module, lambda: module(torch.ones(3))) == cause
    assert module.inner.turns is turns
