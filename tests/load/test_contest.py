"""Who wins a contest of rounds, and how much memory an action takes: numbers by hand, and the system's own count."""

import subprocess
import sys

import numpy as np
import pytest

from aaexport.load import memory
from aaexport.load.contest import MARGIN, settle
from aaexport.load.memory import peak_memory
from aaexport.load.statistics import typical

MIB = 2**20
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the count is Linux's")


def rounds(*medians):
    """Blocks of three latencies with these medians."""
    return [np.array([median, median * 0.9, median * 3]) for median in medians]


def winner(incumbent, **others):
    return settle({"incumbent": rounds(*incumbent)} | {n: rounds(*m) for n, m in others.items()}, "incumbent").winner


def test_the_incumbent_stays_where_it_is_the_fastest():
    assert winner([2, 2, 2], rival=[3, 3, 3]) == "incumbent"


def test_a_rival_that_is_faster_in_every_round_wins():
    assert winner([3, 3, 3], rival=[2, 2, 2]) == "rival"


def test_of_several_rivals_the_fastest_wins():
    assert winner([3, 3, 3], rival=[2, 2, 2], other=[1, 1, 1]) == "other"


@pytest.mark.parametrize(("gain", "wins"), [(MARGIN * 1.01, "rival"), (MARGIN * 0.99, "incumbent")])
def test_a_gain_that_nobody_would_notice_is_none(gain, wins):
    assert winner([gain, gain, gain], rival=[1, 1, 1]) == wins


@pytest.mark.parametrize(
    ("rival", "wins"), [([2, 2, 2, 2, 9], "rival"), ([2, 2, 2, 9, 9], "incumbent")], ids=["one", "two"]
)
def test_a_rival_may_lose_one_round_and_not_two(rival, wins):
    assert winner([3, 3, 3, 3, 3], rival=rival) == wins


def test_the_ratio_is_how_many_times_faster_the_rival_is():
    verdict = settle({"incumbent": rounds(3, 4), "rival": rounds(2, 2)}, "incumbent")
    assert (verdict.rival, verdict.ratio.lowest, verdict.ratio.highest) == ("rival", 1.5, 2.0)


def test_without_the_incumbent_the_fastest_wins():
    assert settle({"slow": rounds(3), "quick": rounds(2)}, "incumbent").winner == "quick"


def test_an_incumbent_alone_wins_and_is_compared_with_nobody():
    verdict = settle({"incumbent": rounds(3)}, "incumbent")
    assert (verdict.winner, verdict.ratio) == ("incumbent", None)


def test_one_spoilt_block_does_not_move_what_is_typical():
    assert typical([*rounds(2, 2), np.full(1000, 50.0)]) == 2


# Memory


def peak_in_a_process_of_its_own(before, action):
    """Bytes; in this process an allocation may be served from what former tests freed, which is resident already."""
    code = f"import numpy as np; from aaexport.load.memory import peak_memory; {before}; print(peak_memory({action}))"
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


@linux
def test_the_peak_of_an_action_is_what_it_held_at_a_time():
    peak = peak_in_a_process_of_its_own("pass", f"lambda: [np.ones({64 * MIB}, np.uint8).size for _ in range(4)]")
    assert 60 * MIB < peak < 96 * MIB


@linux
def test_what_was_held_before_does_not_count():
    given_back = f"np.ones({128 * MIB}, np.uint8)"  # as what loading a model took
    assert peak_in_a_process_of_its_own(given_back, f"lambda: np.ones({8 * MIB}, np.uint8)") < 40 * MIB


@linux
def test_the_peak_of_nothing_is_not_below_0():
    assert 0 <= peak_memory(lambda: None) < MIB


def test_where_the_system_is_silent_there_is_no_number_and_the_action_was_run(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_CLEAR_REFS", tmp_path / "nowhere" / "clear_refs")
    done = []
    assert peak_memory(lambda: done.append(1)) is None
    assert done == [1]
