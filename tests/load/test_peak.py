"""The search for the highest valid rate, against systems whose peak is known."""

import pytest

from aaexport.errors import ArgumentError
from aaexport.load.measurement import Trial
from aaexport.load.peak import find_peak


def system(peak):
    return lambda rate: Trial(rate, None, None if rate <= peak else "too slow")


@pytest.mark.parametrize("start", [1, 70, 100, 101, 5000])
def test_the_peak_is_found_from_below_and_from_above(start):
    found = find_peak(system(100), 20, start=start)
    assert 100 / 1.05 <= found.rate <= 100
    assert len(found.trials) <= 15
    assert [trial.rate for trial in found.trials].count(found.rate) == 2


def test_a_good_start_takes_few_trials():
    assert len(find_peak(system(100), 20, start=60).trials) <= 9


def test_a_lucky_trial_is_not_the_peak():
    lucky = []

    def try_rate(rate):
        if rate > 100 and not lucky:
            lucky.append(rate)
            return Trial(rate, None, None)
        return system(100)(rate)

    assert 100 / 1.05 <= find_peak(try_rate, 20, start=103).rate <= 100


@pytest.mark.parametrize("unlucky", range(8))
def test_an_unlucky_trial_is_not_the_peak(unlucky):
    rates = []

    def try_rate(rate):
        rates.append(rate)
        return Trial(rate, None, "a busy moment") if len(rates) == unlucky + 1 else system(100)(rate)

    assert 100 / 1.05 <= find_peak(try_rate, 20, start=30).rate <= 100


def test_a_system_that_is_never_valid_has_no_peak():
    found = find_peak(system(0), 20, start=100)
    assert (found.rate, len(found.trials)) == (None, 5)


def test_a_search_ends_with_what_it_knows():
    assert find_peak(lambda rate: Trial(rate, None, None), 20, start=1, most_trials=5).rate == 16
    assert find_peak(lambda rate: Trial(rate, None, None) if rate < 5 else None, 20, start=1).rate == 4


def test_a_search_needs_a_start():
    with pytest.raises(ArgumentError, match="start must be a positive number, got 0"):
        find_peak(system(1), 20, start=0)
