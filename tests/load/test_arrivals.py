"""Schedules of open loops: what a seed, a rate or a file makes of them."""

import itertools
import json

import numpy as np
import pytest

from aaexport.errors import ArgumentError
from aaexport.load import arrivals
from aaexport.load.chance import chance
from aaexport.load.system import draw_samples

SECOND = 1_000_000_000


def test_poisson_arrivals_have_exponential_gaps_of_the_rate():
    gaps = np.diff(arrivals.poisson(500, 200, seed=1)) / SECOND
    assert np.mean(gaps) == pytest.approx(1 / 500, rel=0.02)
    assert np.percentile(gaps, 90) == pytest.approx(np.log(10) / 500, rel=0.02)


def test_poisson_arrivals_end_with_the_duration_and_repeat_with_the_seed():
    schedule = arrivals.poisson(100, 5, seed=3)
    assert 4.5 * SECOND < schedule[-1] < 5 * SECOND
    assert np.array_equal(schedule, arrivals.poisson(100, 5, seed=3))
    assert not np.array_equal(schedule[:10], arrivals.poisson(100, 5, seed=4)[:10])


def test_arrivals_samples_and_those_of_the_warm_up_are_independent_but_repeat():
    """Of one stream of bits, a short gap would always bring a low sample, and the warm-up those that count."""
    gaps = np.diff(arrivals.poisson(100, 50, seed=3))
    drawn = [
        [start for (start,) in itertools.islice(draw_samples(1000, 1, chance(part, 3)), len(gaps))]
        for part in ("samples", "warm-up", "samples")
    ]
    assert drawn[0] == drawn[2]
    assert np.abs(np.triu(spearman(gaps, drawn[0], drawn[1]), 1)).max() < 4 / np.sqrt(len(gaps))


def spearman(*series):
    return np.corrcoef([np.argsort(np.argsort(one)) for one in series])


@pytest.mark.parametrize("made", [arrivals.poisson, arrivals.constant])
def test_a_schedule_has_its_least_number_of_queries(made):
    assert len(made(2, 1, min_queries=70)) == 70


def test_a_constant_rate_begins_at_once():
    assert arrivals.constant(4, 1).tolist() == [0, SECOND // 4, SECOND // 2, 3 * SECOND // 4]


@pytest.mark.parametrize("suffix", ["txt", "json", "npy"])
def test_a_trace_is_replayed_from_its_first_time_on(tmp_path, suffix):
    times, path = [1.7e9, 1.7e9 + 0.5, 1.7e9 + 0.5, 1.7e9 + 2], tmp_path / f"trace.{suffix}"
    if suffix == "npy":
        np.save(path, times)
    else:
        path.write_text(json.dumps(times) if suffix == "json" else "\n".join(map(str, times)) + "\n\n")
    schedule = arrivals.trace(path)
    assert schedule.tolist() == [0, SECOND // 2, SECOND // 2, 2 * SECOND]
    assert arrivals.mean_rate(schedule) == 1.5


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("t.txt", "0\nsoon\n", "line 2 of trace .* must be a time in seconds, got 'soon'$"),
        ("t.txt", "0\n2\n1\n", "time 3 of trace .* must not be before the last, 2.0, got 1.0$"),
        ("t.txt", "0\nnan\n", "time 2 of trace .* must be a number, got nan$"),
        ("t.txt", "", r"must hold from 1 to 10,000,000 times in one row, got \(0,\)$"),
        ("t.txt", "0\n1e12\n", r"must last at most 1e\+09 s, got 1000000000000.0$"),
        ("t.json", "[[0, 1]]", r"must hold from 1 to .* in one row, got \(1, 2\)$"),
        ("t.json", '{"a": 1}', "must be a file of times, got .*; give one time in seconds a line"),
        ("t.npy", "no array", "must be a file of times, got"),
        ("none", None, r"must be a file of times, got .*No such file"),
    ],
)
def test_a_file_that_is_no_trace_is_refused_in_one_line(tmp_path, name, text, complaint):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ArgumentError, match=complaint) as caught:
        arrivals.trace(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rate", "duration", "complaint"),
    [
        (0, 1, "rate must be a positive number, got 0"),
        (float("nan"), 1, "rate must be a positive number, got nan"),
        (1, -1, "duration must be a positive number, got -1"),
        (1e6, 3600, "rate × duration must give at most 10,000,000 queries, got 3600000000; measure"),
    ],
)
def test_a_rate_that_cannot_be_scheduled_is_refused(rate, duration, complaint):
    for made in (arrivals.poisson, arrivals.constant):
        with pytest.raises(ArgumentError, match=complaint):
            made(rate, duration)
