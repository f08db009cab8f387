"""Percentiles with their intervals on simulated runs of known truth, ratios and spreads by hand."""

import math

import numpy as np
import pytest

from aaexport.binomial import binomial_cdf
from aaexport.load.lengths import queries_needed
from aaexport.load.statistics import (
    Percentile,
    Ratio,
    independent_queries,
    pairwise_ratio,
    percentile,
    percentiles,
    spread,
    windows,
)

RUNS = 1000
# Quantile functions: latencies are drawn by putting uniform numbers into them, so every true percentile is known.
DISTRIBUTIONS = {
    "exponential": lambda u: -np.log1p(-u),
    "long-tailed": lambda u: (1 - u) ** -0.5,
    "stalls": lambda u: np.where(u < 0.97, 10 + u, 200 + 50 * u),  # 3 % of the queries hit one
}


@pytest.mark.parametrize(("p", "queries"), [(50, 7), (90, 44), (99, 459)])
def test_a_percentile_needs_as_many_queries_as_reach_beyond_it_with_99_percent_confidence(p, queries):
    assert queries_needed(p) == queries


@pytest.mark.parametrize("p", [50, 90, 99])
def test_a_sample_one_too_small_has_no_percentile(p, rng):
    assert percentile(rng.exponential(size=queries_needed(p) - 1), p) is None


@pytest.mark.parametrize("p", [50, 90, 99])
def test_a_percentile_is_the_nearest_rank_of_numpy(p, rng):
    for size in range(queries_needed(p), queries_needed(p) + 250):
        latencies = rng.exponential(size=size)
        expected = np.percentile(latencies, p, method="inverted_cdf")
        assert percentile(latencies, p) == percentiles(latencies, [p])[0].value == expected, size


def test_percentiles_leave_the_sample_in_its_order(rng):
    latencies = rng.exponential(size=500)
    before = latencies.copy()
    percentile(latencies, 50)
    percentiles(latencies, [50, 99])
    np.testing.assert_array_equal(latencies, before)


def test_a_withheld_percentile_says_how_many_queries_are_missing(rng):
    p90, p99 = percentiles(rng.exponential(size=458), [90, 99])
    assert p99 == Percentile(99, None, None, None, missing=1)
    assert p90.missing == 0
    assert p90.low < p90.value < p90.high


def test_of_no_latencies_every_percentile_is_withheld():
    assert [one.missing for one in percentiles(np.empty(0), [50, 99.9])] == [7, 4603]


def share_covered(runs, p, truth):
    found = [percentiles(run, [p])[0] for run in runs]
    return sum(one.low <= truth <= one.high for one in found) / len(found)


@pytest.mark.parametrize(
    ("p", "n", "kind"),
    [
        (50, 30, "exponential"),
        (50, 2000, "stalls"),
        (90, 44, "long-tailed"),
        (90, 700, "exponential"),
        (99, 459, "stalls"),
        (99, 3000, "long-tailed"),
        (99.9, 4603, "exponential"),
    ],
)
def test_the_intervals_cover_the_true_percentile_in_95_percent_of_runs(p, n, kind, rng):
    quantile = DISTRIBUTIONS[kind]
    assert 0.93 <= share_covered(quantile(rng.random((RUNS, n))), p, quantile(p / 100)) <= 0.97


@pytest.mark.parametrize("p", [50, 90, 95, 99, 99.9])
def test_the_intervals_of_every_larger_sample_cover_93_to_97_percent_by_the_binomial_distribution(p):
    least = queries_needed(p) + (p == 50)  # of 7 queries no two cover p50 with more than 92.97 % and less than 98 %
    for n in [*range(least, least + 60), 10_000, 1_000_000]:
        low, high = ranks(n, p)
        coverage = np.diff(binomial_cdf([low - 1, high - 1], n, p / 100))
        assert 0.93 <= coverage <= 0.97, n


def ranks(n, p):
    """Those that the interval takes, read from a sample whose latencies are its ranks, in an order without runs."""
    golden = (np.arange(n) * 0.6180339887) % 1
    one = percentiles(np.argsort(golden).argsort() + 1.0, [p])[0]
    return int(one.low), int(one.high)


def queue(load, runs, n, rng):
    """(runs, n) latencies of a single server with Poisson arrivals and exponential service of mean 1 (M/M/1)."""
    arrive, serve = rng.exponential(1 / load, (n, runs)), rng.exponential(1, (n, runs))
    latencies = np.empty((n, runs))
    # A query finds the queue of the steady state: with probability `load`, a wait as long as a latency.
    wait = (rng.random(runs) < load) * rng.exponential(1 / (1 - load), runs)
    for number in range(n):
        latencies[number] = wait + serve[number]
        wait = np.maximum(0, latencies[number] - arrive[number])
    return latencies.T


@pytest.mark.parametrize("p", [50, 90])
def test_the_intervals_hold_for_a_queue_whose_latencies_depend_on_each_other(p, rng):
    load = 0.5
    truth = -math.log(1 - p / 100) / (1 - load)  # latencies of M/M/1 are exponential, Kleinrock (1975), 3.2
    runs = queue(load, RUNS, 4000, rng)
    assert 0.93 <= share_covered(runs, p, truth) <= 0.97
    assert share_covered(rng.permuted(runs, axis=1), p, truth) < 0.85  # as if they were independent


def test_independent_latencies_count_in_full_and_those_in_pairs_by_half(rng):
    latencies = rng.exponential(size=50_000)
    assert independent_queries(latencies, 90) == len(latencies)
    assert independent_queries(np.repeat(latencies, 2), 90) / len(latencies) == pytest.approx(1, rel=0.6)


def test_a_sample_of_equal_latencies_has_an_interval_of_one_point():
    assert percentiles(np.full(60, 7.0), [90]) == (Percentile(90, 7.0, 7.0, 7.0),)


def test_a_ratio_is_that_of_the_medians_of_neighbouring_blocks():
    slower = [np.asarray([2.0, 2.0, 90.0]), np.asarray([6.0]), np.asarray([4.0, 8.0])]
    faster = [np.asarray([1.0]), np.asarray([2.0, 2.0, 70.0]), np.asarray([1.0])]
    assert pairwise_ratio(slower, faster) == Ratio(median=3, lowest=2, highest=6, pairs=3)


def test_a_ratio_needs_blocks_in_pairs():
    with pytest.raises(ValueError, match="shorter"):
        pairwise_ratio([np.ones(1), np.ones(1)], [np.ones(1)])


@pytest.mark.parametrize(
    ("pairs", "bounds"), [(5, (None, None)), (6, (1, 6)), (8, (1, 8)), (9, (2, 8)), (20, (6, 15))]
)
def test_a_ratio_is_bounded_by_the_ranks_of_the_sign_test(pairs, bounds, rng):
    ratios = rng.permutation(pairs) + 1.0
    ratio = pairwise_ratio([np.full(3, r) for r in ratios], [np.ones(3)] * pairs)
    assert (ratio.low, ratio.high) == bounds


def test_the_spread_of_equal_block_medians_is_0():
    assert spread([np.asarray([1.0, 2.0, 50.0]), np.asarray([2.0])]) == 0


def test_the_spread_is_the_range_of_the_block_medians_by_their_median():
    assert spread([np.asarray([1.0]), np.asarray([2.0]), np.asarray([4.0])]) == 1.5


def test_one_block_is_cut_into_windows_in_its_order_and_several_are_left():
    latencies = np.arange(1000.0)
    cut = windows([latencies], 6)
    assert [len(window) for window in cut] == [167, 167, 167, 167, 166, 166]
    np.testing.assert_array_equal(np.concatenate(cut), latencies)
    assert len(windows([latencies[:30]], 6)) == 4  # of 7 queries or more
    assert len(windows([latencies[:3]], 6)) == 1
    assert len(windows([latencies, latencies], 6)) == 2
