"""Which number of threads is named: launches whose modes are known."""

import numpy as np
import pytest

from aaexport.load.launches import called, settle_threads

GOOD, BAD = 0.178, 0.337  # ms of two threads, by where the hypervisor lets them run
ONE = [0.187, 0.1871, 0.1868, 0.187, 0.1872]


def launch(median, width=0.001, queries=400):
    """A process whose latencies lie within a share of their median, in no order."""
    return median * (1 + width * np.random.default_rng(0).permutation(np.linspace(-1, 1, queries)))


def settled(withheld=None, batch=1, **medians):
    """By the medians of the launches; `default` or `t2` for two threads."""
    threads = {name: None if name == "default" else int(name[1:]) for name in medians}
    return settle_threads({threads[name]: list(map(launch, of)) for name, of in medians.items()}, batch, withheld)


def named(**medians):
    return settled(**medians).named.threads


def test_what_is_slow_in_one_process_of_five_is_not_taken():
    assert named(t1=ONE, t2=[GOOD, GOOD, BAD, GOOD, GOOD]) == 1


def test_a_gain_that_is_not_worth_a_thread_is_not_taken_however_steady():
    """All launches may fall into one mode: a sweep takes seconds, and a mode lasts minutes."""
    assert named(t1=ONE, t2=[GOOD] * 5) == 1


def test_a_gain_that_every_launch_has_is_taken():
    assert named(t1=[4.0, 4.1, 4.0], t2=[2.2, 2.1, 2.2], t4=[1.3, 1.25, 1.3]) == 4


def test_of_settings_that_are_equally_fast_the_one_with_the_fewest_threads_is_taken():
    assert named(t4=[1.0, 1.01], t2=[1.0, 1.02], t1=[1.9, 1.9]) == 2


def test_the_runtimes_default_stands_for_the_most_threads():
    assert named(default=[1.0, 1.0], t1=[1.02, 1.02]) == 1
    assert named(default=[1.0, 1.0], t1=[1.5, 1.5]) is None


def test_settings_are_in_the_order_of_their_threads():
    found = settled(default=[1.0], t4=[1.0], t1=[1.0])
    assert [setting.threads for setting in found.settings] == [1, 4, None]


def test_the_spread_between_launches_is_another_than_that_within_one():
    (setting,) = settled(t2=[GOOD, BAD]).settings
    assert setting.apart == pytest.approx((BAD - GOOD) / setting.p50)
    assert 0 < setting.within < 0.001
    assert not setting.steady
    assert (min(setting.medians), setting.slowest) == pytest.approx((GOOD, BAD))


def test_the_spread_within_a_launch_is_withheld_where_it_has_too_few_queries():
    found = settle_threads({1: [np.ones(3), np.ones(3)]}, 1)
    assert found.settings[0].within is None


def test_what_is_named_although_unsteady_is_warned_about():
    assert settled(t1=ONE, t2=[GOOD, BAD]).warnings == ()
    (warning,) = settled(t1=[1.0, 1.5], t2=[1.0, 1.6]).warnings
    assert warning == (
        "1 thread: p50 is 1 ms in one launch and 1.5 ms in another, and the interval of one process shows nothing of "
        "it; measure more --launches on a quiet machine"
    )


def test_launches_of_one_setting_that_differ_are_warned_about_with_what_would_help():
    assert settled(default=[1.0, 1.05]).warnings == ()
    (warning,) = settled(default=[GOOD, BAD]).warnings
    assert warning.startswith("default threads: p50 is 0.178 ms in one launch and 0.337 ms in another")
    assert "compare settings with --threads 1,2,…" in warning


def test_where_others_had_the_cpu_no_setting_is_named():
    found = settled("other processes took 61% of the CPU", t1=ONE, t2=[BAD] * 5)
    assert (found.named, found.withheld, found.warnings) == (None, "other processes took 61% of the CPU", ())


def test_the_launches_of_a_setting_can_be_asked_for():
    found = settled(t1=ONE, t2=[BAD] * 5)
    assert [np.median(latencies) for latencies in found.of(1)] == pytest.approx(ONE)
    assert found.of(3) == ()


def test_a_number_of_threads_is_called_as_people_do():
    assert [called(threads) for threads in (1, 2, None)] == ["1 thread", "2 threads", "default threads"]
