"""Blocks measured now × blocks of an older measurement → slower than is allowed, not so, or nobody can tell.

Two measurements at different times have no pairs of neighbours, so every new block is divided by every old one: half
of these ratios lie on either side of the slowdown (Hodges and Lehmann), and how far from the middle it can be follows
from how often two alike sets of blocks would interleave so (Mann and Whitney). No noise is presumed to be normal, and
a single disturbed block moves a few ratios from one end to the other. What the blocks of one measurement share, such
as the machine's mood of that day, no statistics can see: `allowed` is there for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from aaexport.errors import broken_rule
from aaexport.load.lengths import queries_needed
from aaexport.load.measurement import Regression
from aaexport.load.statistics import COVERAGE, Milliseconds, Ratio, windows

MIN_BLOCKS = 4  # of 3 on either side even the clearest order comes about by chance once in twenty times
WINDOWS = 12
TELL_APART = "measure both longer, with --duration, on a quiet machine, or allow more with --max-regression"


def compare_with_baseline(
    old: Sequence[Milliseconds], new: Sequence[Milliseconds], allowed: float, baseline: str
) -> Regression:
    """New ÷ old in the median, with its interval.

    Args:
        old, new: raw latencies block by block; a block may be its median alone. One block alone, as an open loop
            leaves it, is cut into windows.
        allowed: the slowdown that may pass: 0.05 is 5 %.
        baseline: the name of the old measurement.

    Returns:
        `is_real` if a slowdown of no more than `allowed` would show itself like this at most 5 times in 100. It is no
        regression if a larger one would at most 5 times in 100. Where neither holds, `unclear` says so: what spans no
        change and a large one is no good news. With too few blocks the ratio has no bounds, and `unclear` is what
        `why_no_verdict` says.
    """
    unclear = why_no_verdict(old, new)
    old, new = windows(old, WINDOWS), windows(new, WINDOWS)
    ratios = np.sort(np.divide.outer(_medians(new), _medians(old)).ravel())
    ratio = Ratio(float(np.median(ratios)), float(ratios[0]), float(ratios[-1]), len(ratios))
    if unclear is not None:
        return Regression(baseline, ratio, allowed, False, unclear)
    outside = _ratios_outside(len(old), len(new), (1 - COVERAGE) / 2)
    ratio = replace(ratio, low=float(ratios[outside - 1]), high=float(ratios[-outside]))
    one_side = _ratios_outside(len(old), len(new), 1 - COVERAGE)
    least, most = ratios[one_side - 1], ratios[-one_side]  # each beyond the true one at most 5 times in 100
    if least <= 1 + allowed < most:
        unclear = _on_both_sides(ratio, allowed)
    return Regression(baseline, ratio, allowed, bool(least > 1 + allowed), unclear)


def without_verdict(regression: Regression, reason: str) -> Regression:
    """The same where something else than the two models decided the times: then there are no bounds either."""
    ratio = replace(regression.ratio, low=None, high=None)
    return replace(regression, ratio=ratio, is_real=False, unclear=reason)


def why_no_verdict(old: Sequence[Milliseconds], new: Sequence[Milliseconds]) -> str | None:
    """Which of the two has too few blocks to say anything of a slowdown; None if neither."""
    for name, blocks in (("the baseline", windows(old, WINDOWS)), ("this measurement", windows(new, WINDOWS))):
        if len(blocks) < MIN_BLOCKS:
            rule = f"have at least {MIN_BLOCKS} blocks, or {MIN_BLOCKS * queries_needed(50)} queries in one"
            return broken_rule(name, rule, len(blocks), "measure it again for longer")
    return None


def why_regressed(regression: Regression) -> str | None:
    """The complaint about a real slowdown; None if there is none."""
    ratio = regression.ratio
    if not regression.is_real or ratio.low is None or ratio.high is None:
        return None
    rule = f"be at most {regression.allowed:.1%} above that of {regression.baseline}"
    got = f"{ratio.median - 1:+.1%} (95% interval {ratio.low - 1:+.1%} to {ratio.high - 1:+.1%})"
    return f"p50 must {rule}, got {got}"


def _on_both_sides(ratio: Ratio, allowed: float) -> str:
    assert ratio.low is not None
    assert ratio.high is not None
    rule = f"lie on one side of the {allowed:+.1%} that is allowed"
    got = f"{ratio.low - 1:+.1%} to {ratio.high - 1:+.1%}"
    return f"the 95% interval of p50's change must {rule}, got {got}; {TELL_APART}"


def _medians(blocks: Sequence[Milliseconds]) -> npt.NDArray[np.float64]:
    return np.asarray([float(np.median(block)) for block in blocks])


def _ratios_outside(old: int, new: int, chance: float) -> int:
    """How many of the sorted ratios, from either end, the true one is beyond with at most this `chance`."""
    likely = np.cumsum(_interleavings(old, new)) / math.comb(old + new, old)
    return int(np.count_nonzero(likely <= chance))


def _interleavings(old: int, new: int) -> npt.NDArray[np.float64]:
    """In how many orders of old and new blocks u pairs of them have the old one behind the new, for u = 0, 1, …

    The last of an order is an old one, behind all new ones, or a new one, behind which nothing is.
    """
    orders = [np.ones(1)] * (new + 1)
    for olds in range(1, old + 1):
        row = [np.ones(1)]
        for news in range(1, new + 1):
            total = np.zeros(olds * news + 1)
            total[news:] = orders[news]
            total[: len(row[-1])] += row[-1]
            row.append(total)
        orders = row
    return orders[new]
