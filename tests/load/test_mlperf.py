"""MLPerf's early stopping: the numbers that its rules and LoadGen give, and the confidence that they promise."""

import numpy as np
import pytest

from aaexport.load.lengths import RULES
from aaexport.load.mlperf import most_over, percentile_estimate, queries_required


@pytest.mark.parametrize(("over", "p", "queries"), [(0, 99, 459), (1, 99, 662), (1, 90, 64), (0, 90, 44)])
def test_the_least_numbers_of_queries_are_those_of_loadgen(over, p, queries):
    assert queries_required(over, p) == queries
    assert (most_over(queries, p), most_over(queries - 1, p)) == (over, over - 1 if over else None)


def test_of_many_queries_nearly_as_many_may_be_over_as_the_percentile_has_it():
    assert 2500 < most_over(270_336, 99) < 2704


def test_the_rules_ask_for_the_queries_that_early_stopping_needs():
    assert RULES["single-stream"].min_queries == queries_required(1, 90)
    assert RULES["multi-stream"].min_queries == queries_required(1, 99)
    assert RULES["server"].min_queries == queries_required(0, 99)


@pytest.mark.parametrize(("p", "queries"), [(90, 63), (99, 661)])
def test_too_few_queries_have_no_estimate(p, queries):
    assert percentile_estimate(np.ones(queries), p) is None


def test_the_estimate_leaves_out_all_but_one_of_those_that_may_be_over(rng):
    latencies = rng.permutation(1000) + 1.0
    assert percentile_estimate(latencies, 99) == 1000 - (most_over(1000, 99) - 1)


def test_the_estimate_is_above_the_true_percentile_in_at_least_99_percent_of_runs(rng):
    estimates = [percentile_estimate(run, 90) for run in rng.exponential(size=(2000, 300))]
    assert 0.99 <= np.mean(np.array(estimates) >= np.log(10)) < 1
