import math

import pytest

from aaexport.recipe import Training
from aaexport.training import learning_rate
from aaexport.training.records import Epoch, best_epoch

COSINE = Training(epochs=10, batch_size=1, learning_rate=0.4, warmup_epochs=2)


@pytest.mark.parametrize(
    ("done", "rate"),
    [
        (0, 0.004),  # a hundredth, so that the first step moves
        (0.5, 0.1),
        (1, 0.2),
        (2, 0.4),
        (4, 0.2 * (1 + math.sqrt(0.5))),
        (6, 0.2),
        (8, 0.2 * (1 - math.sqrt(0.5))),
        (10, 0.0),
    ],
)
def test_the_rate_warms_up_in_a_line_and_decays_in_half_a_cosine(done, rate):
    assert learning_rate(COSINE, done) == pytest.approx(rate, abs=1e-12)


def test_without_warm_up_the_rate_starts_at_its_peak():
    assert learning_rate(Training(epochs=10, batch_size=1, learning_rate=0.4), 0) == 0.4


def test_a_warm_up_of_all_epochs_never_decays():
    schedule = Training(epochs=2, batch_size=1, learning_rate=0.4, warmup_epochs=2)
    rates = [learning_rate(schedule, step / 10) for step in range(20)]
    assert rates == sorted(rates)


STAIRS = Training(
    epochs=10, batch_size=1, learning_rate=0.4, schedule="step", milestones=(3, 6), step_factor=0.5, warmup_epochs=2
)


@pytest.mark.parametrize(
    ("done", "rate"), [(1, 0.2), (2, 0.4), (2.99, 0.4), (3, 0.2), (5.99, 0.2), (6, 0.1), (10, 0.1)]
)
def test_the_staircase_goes_down_after_each_milestone(done, rate):
    assert learning_rate(STAIRS, done) == pytest.approx(rate)


def record(epoch, test_accuracy):
    return Epoch(epoch, 1.0, 0.5, test_accuracy, 1.0, 0.1, 100.0, 1.0)


def test_of_equally_good_epochs_the_earliest_is_the_best():
    assert best_epoch([record(1, 0.4), record(2, 0.6), record(3, 0.6)]) == 2
