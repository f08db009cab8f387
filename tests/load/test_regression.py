"""Old blocks against new ones: simulated measurements whose slowdown is known, and small ones by hand."""

import itertools
import math

import numpy as np
import pytest

from aaexport.load.regression import (
    MIN_BLOCKS,
    WINDOWS,
    compare_with_baseline,
    why_no_verdict,
    why_regressed,
    without_verdict,
)

PAIRS = 200
ALLOWED = 0.05


def measured(rng, slowdown=0.0, blocks=10, between=0.015, drift=0.01, disturbed=0.03):
    """Blocks of 50 latencies around 10 ms, as a small shared machine gives them.

    Latencies differ by 5 %, blocks by `between`, whole measurements by `drift` (standard deviations of their
    logarithms), and a share of the blocks is `disturbed`: 10 % to twice slower.
    """
    level = 10 * (1 + slowdown) * np.exp(rng.normal(0, drift))
    levels = level * np.exp(rng.normal(0, between, blocks))
    levels *= np.where(rng.random(blocks) < disturbed, rng.uniform(1.1, 2, blocks), 1)
    return [one * np.exp(rng.normal(0, 0.05, 50)) for one in levels]


def alarms(pairs):
    return sum(compare_with_baseline(old, new, ALLOWED, "before").is_real for old, new in pairs) / len(pairs)


def test_no_change_raises_at_most_5_false_alarms_in_100(rng):
    assert alarms([(measured(rng), measured(rng)) for _ in range(PAIRS)]) <= 0.05


def test_of_slowdowns_by_10_percent_at_least_95_in_100_are_found(rng):
    assert alarms([(measured(rng), measured(rng, slowdown=0.1)) for _ in range(PAIRS)]) >= 0.95


def test_a_slowdown_that_is_just_allowed_is_called_too_much_5_times_in_100(rng):
    """Without drift, which no single pair of measurements can show: the bound is neither loose nor idle."""
    pairs = [(measured(rng, drift=0), measured(rng, slowdown=ALLOWED, drift=0)) for _ in range(1000)]
    assert 0.02 <= alarms(pairs) <= 0.06


def verdicts(pairs):
    """How often each was said, as shares."""
    said = [compare_with_baseline(old, new, ALLOWED, "before").verdict for old, new in pairs]
    return {verdict: said.count(verdict) / len(said) for verdict in ("regression", "no regression", "cannot tell")}


def test_a_slowdown_that_is_just_too_much_passes_5_times_in_100(rng):
    pairs = [(measured(rng, drift=0), measured(rng, slowdown=ALLOWED, drift=0)) for _ in range(1000)]
    assert 0.02 <= verdicts(pairs)["no regression"] <= 0.06


def test_on_a_machine_of_usual_noise_no_change_is_told_as_such(rng):
    assert verdicts([(measured(rng), measured(rng)) for _ in range(PAIRS)])["no regression"] >= 0.95


def test_of_slowdowns_by_20_percent_none_passes_on_a_machine_however_unsteady(rng):
    pairs = [(measured(rng, between=0.1), measured(rng, slowdown=0.2, between=0.1)) for _ in range(PAIRS)]
    found = verdicts(pairs)
    assert found["no regression"] <= 0.02
    assert found["cannot tell"] > 0.1  # such noise hides it at times, and then that is what is said


def test_an_interval_of_no_change_and_a_large_one_cannot_tell_and_says_what_would():
    """Blocks in two modes, as two virtual processors have them for minutes at a time."""
    old = [np.full(9, 0.180 + 0.0001 * number) for number in range(10)]
    new = [np.full(9, level) for level in [0.182] * 3 + [0.335, 0.336, 0.337] + [0.338] * 4]
    found = compare_with_baseline(old, new, ALLOWED, "old.json")
    assert (found.verdict, found.is_real) == ("cannot tell", False)
    assert found.ratio.low < 1.05 < found.ratio.median < found.ratio.high
    assert found.unclear == (
        f"the 95% interval of p50's change must lie on one side of the +5.0% that is allowed, got "
        f"{found.ratio.low - 1:+.1%} to {found.ratio.high - 1:+.1%}; measure both longer, with --duration, on a "
        "quiet machine, or allow more with --max-regression"
    )
    assert why_regressed(found) is None


@pytest.mark.parametrize(
    ("slowdown", "verdict"), [(0.0, "no regression"), (0.03, "no regression"), (0.1, "regression")]
)
def test_steady_blocks_are_told_apart(slowdown, verdict):
    old = [np.full(9, 10 + 0.01 * number) for number in range(8)]
    found = compare_with_baseline(old, [block * (1 + slowdown) for block in old], ALLOWED, "old.json")
    assert (found.verdict, found.unclear) == (verdict, None)


def test_where_something_else_decided_the_times_there_is_neither_verdict_nor_interval():
    old, new = [np.full(9, 10.0)] * 8, [np.full(9, 11.0)] * 8
    found = without_verdict(compare_with_baseline(old, new, ALLOWED, "old.json"), "others had the CPU")
    assert (found.verdict, found.is_real, found.unclear) == ("cannot tell", False, "others had the CPU")
    assert (found.ratio.low, found.ratio.high) == (None, None)
    assert found.ratio.median == pytest.approx(1.1)


def test_the_interval_holds_the_true_ratio_in_95_percent_of_pairs(rng):
    ratios = [
        compare_with_baseline(measured(rng, drift=0), measured(rng, 0.2, drift=0), ALLOWED, "before").ratio
        for _ in range(1000)
    ]
    assert 0.93 <= sum(one.low <= 1.2 <= one.high for one in ratios) / len(ratios) <= 0.97


@pytest.mark.parametrize("factor", [0.5, 30.0])
def test_one_disturbed_block_on_either_side_changes_no_verdict(factor):
    steady = [np.full(9, 10 + 0.01 * number) for number in range(8)]
    spoilt = [steady[0] * factor, *steady[1:]]
    slower = [block * 1.1 for block in steady]
    assert not compare_with_baseline(steady, spoilt, ALLOWED, "before").is_real
    assert not compare_with_baseline(spoilt, steady, ALLOWED, "before").is_real
    assert compare_with_baseline(spoilt, slower, ALLOWED, "before").is_real
    assert compare_with_baseline(steady, [slower[0] * factor, *slower[1:]], ALLOWED, "before").is_real


@pytest.mark.parametrize(("old", "new"), [(4, 4), (5, 7)])
def test_the_interval_leaves_out_as_many_ratios_as_alike_blocks_rarely_do(old, new):
    """Against every order of old and new blocks, counted one by one."""
    orders = itertools.combinations(range(old + new), old)
    behind = np.array([sum(place - rank for rank, place in enumerate(order)) for order in orders])
    outside = sum(np.mean(behind <= u) <= 0.025 for u in range(old * new))
    found = compare_with_baseline(
        [np.array([1.0])] * old, [np.array([1.0 + 2.0**n]) for n in range(new)], ALLOWED, "before"
    ).ratio
    ratios = np.sort(np.repeat(1 + 2.0 ** np.arange(new), old))
    assert (found.low, found.high) == (ratios[outside - 1], ratios[-outside])


def test_a_ratio_has_its_median_range_and_pairs():
    ratio = compare_with_baseline([np.array([1.0]), np.array([2.0])], [np.array([2.0])] * 2, ALLOWED, "before").ratio
    assert (ratio.median, ratio.lowest, ratio.highest, ratio.pairs) == (1.5, 1, 2, 4)


def test_too_few_blocks_say_nothing_and_how_many_are_needed():
    old, new = [np.ones(50)] * (MIN_BLOCKS - 1), [np.full(50, 3.0)] * 10
    found = compare_with_baseline(old, new, ALLOWED, "before")
    assert (found.is_real, found.ratio.low, found.ratio.high) == (False, None, None)
    assert (
        found.unclear
        == why_no_verdict(old, new)
        == ("the baseline must have at least 4 blocks, or 28 queries in one, got 3; measure it again for longer")
    )
    assert why_no_verdict(new, old).startswith("this measurement must have at least 4 blocks")
    assert compare_with_baseline(new, new, ALLOWED, "before").unclear is why_no_verdict(new, new) is None


def test_the_one_block_of_an_open_loop_is_compared_window_by_window():
    old, new = [np.full(1000, 10.0)], [np.full(1000, 11.0)]
    found = compare_with_baseline(old, new, ALLOWED, "before")
    assert (found.is_real, found.ratio.pairs) == (True, WINDOWS**2)
    assert why_no_verdict([old[0][:27]], new).endswith("got 3; measure it again for longer")
    assert why_no_verdict([old[0][:28]], new) is None


def test_a_real_regression_is_complained_about_in_one_line():
    old, new = [np.full(9, 10.0)] * 8, [np.full(9, 11.0)] * 8
    assert why_regressed(compare_with_baseline(old, new, ALLOWED, "old.json")) == (
        "p50 must be at most 5.0% above that of old.json, got +10.0% (95% interval +10.0% to +10.0%)"
    )
    assert why_regressed(compare_with_baseline(old, new, 0.2, "old.json")) is None
    assert math.isclose(compare_with_baseline(new, old, ALLOWED, "old.json").ratio.median, 10 / 11)
