"""Rounds of several contenders → the one to take: another than the incumbent only if it is faster beyond doubt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from aaexport.load.statistics import Milliseconds, Ratio, pairwise_ratio, typical

Name = TypeVar("Name")
MARGIN = 1.05  # a gain that nobody would notice is not worth a choice that differs from run to run
LOST_ROUNDS = 1  # that a winner may have: a neighbour on the machine took its time


@dataclass(frozen=True)
class Verdict(Generic[Name]):
    """Who is taken, and the incumbent's time ÷ that of `rival`, the fastest of the others; None without both."""

    winner: Name
    rival: Name | None = None
    ratio: Ratio | None = None


def settle(rounds: Mapping[Name, Sequence[Milliseconds]], incumbent: Name) -> Verdict[Name]:
    """The rival, if faster by 5 % in the median round and faster in all rounds but one; else the incumbent.

    Every contender has as many rounds, and its n-th was near in time to the others' n-th. An incumbent without
    rounds is not there to be taken: the fastest is.
    """
    others = sorted((name for name in rounds if name != incumbent), key=lambda name: typical(rounds[name]))
    if incumbent not in rounds or not others:
        return Verdict(others[0] if others else incumbent)
    rival = others[0]
    ratio = pairwise_ratio(rounds[incumbent], rounds[rival])
    doubtless = _beyond_doubt(rounds[incumbent], rounds[rival], ratio)
    return Verdict(rival if doubtless else incumbent, rival, ratio)


def _beyond_doubt(slower: Sequence[Milliseconds], faster: Sequence[Milliseconds], ratio: Ratio) -> bool:
    won = sum(np.median(a) > np.median(b) for a, b in zip(slower, faster, strict=True))
    return bool(ratio.median >= MARGIN and won >= ratio.pairs - LOST_ROUNDS)
