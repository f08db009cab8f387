"""Sums of terms, and intervals with a closed form or a known value."""

import math

import numpy as np
import pytest

from aaexport.binomial import binomial_cdf, exact_interval


@pytest.mark.parametrize(("n", "p"), [(1, 0.5), (12, 0.9), (30, 0.001)])
def test_the_binomial_distribution_is_the_sum_of_its_terms(n, p):
    terms = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    expected = [0, *np.cumsum(terms), 1]
    np.testing.assert_allclose(binomial_cdf(range(-1, n + 2), n, p), expected, atol=1e-14)


def test_the_binomial_distribution_of_a_million_trials_is_normal_around_its_mean():
    n, p = 1_000_000, 0.9
    counts = n * p + 300 * np.array([-1.959964, 0, 1.959964])
    np.testing.assert_allclose(binomial_cdf(np.rint(counts).astype(int), n, p), [0.025, 0.5, 0.975], atol=1e-3)


@pytest.mark.parametrize("n", [1, 16, 359, 50_000])
def test_all_and_none_of_n_have_intervals_in_closed_form(n):
    whole, none = exact_interval(n, n), exact_interval(0, n)
    assert whole.high == 1.0
    assert whole.low == pytest.approx(0.025 ** (1 / n), abs=1e-9)
    assert none.low == 0.0
    assert none.high == pytest.approx(1 - 0.025 ** (1 / n), abs=1e-9)


# As R's binom.test has them.
@pytest.mark.parametrize(
    ("count", "n", "low", "high"), [(5, 10, 0.1870860, 0.8129140), (3, 20, 0.0320709, 0.3789268)]
)
def test_other_intervals_are_those_of_the_tables(count, n, low, high):
    found = exact_interval(count, n)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))


def test_the_interval_holds_the_truth_as_often_as_it_says():
    n, p = 40, 0.93
    terms = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    intervals = [exact_interval(k, n) for k in range(n + 1)]
    held = sum(term for term, one in zip(terms, intervals, strict=True) if one.low <= p <= one.high)
    assert held >= 0.95
