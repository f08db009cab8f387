"""The guard's measures on answers made by hand, and its thresholds."""

import math
import re
from typing import get_args

import numpy as np
import pytest

from aaexport.parity.guard import GuardAccuracy, GuardReport, GuardRow, Losses, accuracy_row, sqnr_db
from aaexport.parity.thresholds import AT_LEAST, REDUCED, THRESHOLDS, Measure


def losses(expected, actual, kind="int8", scores=("logits",)):
    found = Losses(kind, "runtime", "float32", frozenset(scores))
    found.learn({"logits": np.asarray(expected)}, {"logits": np.asarray(actual)})
    return {row.measure: row for row in found.rows()}


def with_noise(rng, db, images=400, classes=10):
    """Scores as clear as a trained network's, and the same with noise of exactly so many dB."""
    scores = rng.standard_normal((images, classes))
    scores[np.arange(images), rng.integers(classes, size=images)] += 5
    noise = rng.standard_normal(scores.shape)
    return scores, scores + noise * np.linalg.norm(scores) / np.linalg.norm(noise) * 10 ** (-db / 20)


def test_every_measure_has_a_threshold_of_every_kind_with_a_reason():
    of_int8 = {("activations", "float16"), ("worst activation", "float16")}
    assert set(THRESHOLDS) == {(measure, kind) for measure in get_args(Measure) for kind in REDUCED} - of_int8
    assert all(len(threshold.reason) > 20 for threshold in THRESHOLDS.values())


@pytest.mark.parametrize("kind", REDUCED)
def test_a_file_passes_above_the_sqnr_of_its_kind_and_fails_below(rng, kind):
    bound = THRESHOLDS["SQNR", kind].bound
    for db, passes in ((bound + 0.01, True), (bound - 0.01, False)):
        row = losses(*with_noise(rng, db), kind)["SQNR"]
        assert row.value == pytest.approx(db)
        assert row.margin == pytest.approx(db - bound)
        assert row.passed == passes


def test_sqnr_and_kl_see_what_top_1_does_not(rng):
    rows = losses(*with_noise(rng, 17.4))
    assert rows["top-1"].passed
    assert not rows["SQNR"].passed
    assert not rows["KL"].passed


def test_kl_is_that_of_the_softmax_whatever_is_added_to_all_scores():
    row = losses([[1.0, 0.0], [0.0, 0.0]], [[101.0, 101.0], [5.0, 5.0]])["KL"]
    p = 1 / (1 + math.exp(-1))
    assert row.value == pytest.approx((p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))) / 2)
    assert losses([[900.0, -900.0]], [[900.0, -900.0]])["KL"].value == 0


def test_other_answers_are_counted_but_where_both_classes_tie():
    scores = np.tile([4.0, 3.0, 0.0, 0.0], (1000, 1))
    scores[0] = [4.0, 3.99, 0.0, 0.0]
    changed = scores.copy()
    changed[:11, :2] = changed[:11, 1::-1]
    row = losses(scores, changed)["top-1"]
    assert row.value == 0.99
    assert row.passed
    assert "990 of 1000 images, 95 % interval 98.2–99.5 %, 1 of the others between classes that tie" in row.detail
    changed[11, :2] = changed[11, 1::-1]
    assert not losses(scores, changed)["top-1"].passed


def test_classes_that_tie_with_the_fifth_are_as_good_as_it():
    scores = np.tile([9.0, 0.5, 0.4, 0.3, 0.2, 0.1, -3.0], (100, 1))
    other = scores.copy()
    other[:, [4, 5]] = other[:, [5, 4]]  # the fifth and the sixth, a thirtieth of the spread apart
    assert losses(scores, other)["top-5"].value == 1
    other[:, 6] = 1.0
    row = losses(scores, other)["top-5"]
    assert (row.value, row.passed) == (0.8, False)


def test_of_few_images_one_may_always_be_another():
    scores = np.tile([4.0, 0.0], (8, 1))
    for wrong, passes in ((1, True), (2, False)):
        changed = scores.copy()
        changed[:wrong] = [0.0, 4.0]
        assert losses(scores, changed)["top-1"].passed == passes


@pytest.mark.parametrize("lost", [np.nan, np.inf])
def test_what_is_finite_in_float32_alone_fails(rng, lost):
    expected = rng.standard_normal((4, 10))
    actual = expected.copy()
    actual[1, 2] = lost
    rows = losses(expected, actual)
    assert rows["not finite"].value == 1
    assert not rows["not finite"].passed
    assert sqnr_db({"x": expected}, {"x": actual}) == -math.inf
    assert losses(actual, actual)["not finite"].passed  # it is as float32 has it


@pytest.mark.parametrize(
    ("actual", "words"),
    [
        ({}, "no output of that name"),
        ({"logits": np.zeros((2, 4))}, r"the shape \(2, 4\) instead of \(2, 3\)"),
        ({"logits": np.zeros((2, 3), int)}, "numbers of type int64 instead of float64"),
    ],
)
def test_what_cannot_be_compared_fails_with_its_reason(actual, words):
    found = Losses("int8", "runtime", "float32")
    found.learn({"logits": np.ones((2, 3))}, actual)
    report = GuardReport("int8", "", tuple(found.rows()))
    assert not report.passed
    (failure,) = report.failures
    assert re.search(words, failure)


def of_which_none_can_be(changed=0, given=-np.inf):
    """100 images of five classes, the last of which cannot be; of so many the answer is another."""
    expected = np.tile([5.0, 0.0, 0.0, 0.0, -np.inf], (100, 1))
    actual = expected.copy()
    actual[:changed, :2] = [0.0, 5.0]
    actual[:, 4] = given
    return losses(expected, actual)


def test_a_score_of_minus_infinity_hides_no_other_answer():
    rows = of_which_none_can_be(50)
    assert (rows["top-1"].value, rows["top-1"].passed) == (0.5, False)
    assert not rows["KL"].passed
    assert all(row.passed for row in of_which_none_can_be().values())
    assert "top-5" in of_which_none_can_be()


def test_what_can_be_in_the_file_alone_is_counted_and_judged():
    rows = of_which_none_can_be(given=6.0)
    assert (rows["not finite"].value, rows["not finite"].passed) == (100, False)
    assert (rows["top-1"].value, rows["top-1"].passed) == (0, False)
    assert losses([[1.0, 0.0]], [[1.0, -np.inf]])["KL"].value == math.inf
    assert not losses([[np.inf, 0.0]], [[-np.inf, 0.0]])["not finite"].passed


def test_images_without_scores_are_counted_apart():
    expected = np.tile([5.0, 0.0, 0.0], (4, 1))
    expected[0, 0] = np.nan
    row = losses(expected, expected)["top-1"]
    assert row.passed
    assert "3 of 3 images" in row.detail
    assert "1 more not judged: a score is NaN or infinite" in row.detail
    assert row.judged  # of the others
    (row,) = [each for name, each in losses(expected[:1], expected[:1]).items() if name == "top-1"]
    assert (row.value, row.detail) == (None, "not judged: a score is NaN or infinite, or none is finite")
    assert not row.judged


def test_five_classes_of_which_none_is_the_same_are_told():
    scores = np.tile(np.arange(10.0), (20, 1))
    row = losses(scores, -scores)["top-5"]
    assert (row.value, row.passed) == (0, False)


def test_classes_and_positions_are_the_same_or_not():
    row = losses(np.arange(1000), np.where(np.arange(1000) < 20, -1, np.arange(1000)))["same"]
    assert (row.value, row.passed) == (0.98, False)


def test_nothing_lost_passes_and_nothing_measured_does_not():
    rows = losses(np.ones((2, 3)), np.ones((2, 3)))
    assert rows["SQNR"].value is None
    assert all(row.passed for row in rows.values())
    assert not GuardReport("int8", "", ()).passed


def test_every_batch_counts(rng):
    expected, actual = with_noise(rng, 30)
    whole, parts = Losses("int8", "", "", frozenset(["x"])), Losses("int8", "", "", frozenset(["x"]))
    whole.learn({"x": expected}, {"x": actual})
    for part in np.split(np.arange(400), 4):
        parts.learn({"x": expected[part]}, {"x": actual[part]})
    for one, other in zip(whole.rows(), parts.rows(), strict=True):
        assert (one.measure, one.value) == (other.measure, pytest.approx(other.value))


@pytest.mark.parametrize(("lost", "judged", "passes"), [(3, True, True), (4, True, False), (4, False, True)])
def test_accuracy_may_fall_by_a_point_of_trained_weights(lost, judged, passes):
    found = GuardAccuracy.of(359, 355, 355 - lost)
    row = accuracy_row("int8", "logits", "runtime", found, judged=judged)
    assert row.passed == passes
    assert row.judged == judged
    assert "float32 98.89 % (95 % interval 97.2–99.7)" in row.detail


def test_the_bounds_are_on_the_side_that_they_say():
    for measure in get_args(Measure):
        bounds = [
            THRESHOLDS[measure, kind].bound for kind in REDUCED if (measure, kind) in THRESHOLDS
        ]  # int8 may lose more than float16
        assert (bounds == sorted(bounds, reverse=True)) if measure in AT_LEAST else (bounds == sorted(bounds))


def test_the_worst_of_a_measure_is_that_of_its_judged_and_finite_rows():
    def row(measure, value):
        return GuardRow(measure, "logits", "onnxruntime CPU", "float32", value, 0.0, True, None, 8, "", "")

    rows = (
        row("SQNR", 40.0), row("SQNR", 30.0), row("SQNR", math.inf), row("SQNR", 5.0).excused("for TensorRT"),
        row("KL", 1e-4), row("KL", 1e-3), row("top-1", None),
    )  # fmt: skip
    assert GuardReport("int8", "images", rows).worst == {"SQNR": 30.0, "KL": 1e-3}
