"""compare(): what passes, what fails and why, and that no array makes it raise."""

import dataclasses

import numpy as np
import pytest

from aaexport.parity import TOLERANCES, OutputParity, ParityReport, compare

TOLERANCE = TOLERANCES["float32", "cpu"]
SHAPE = (4, 10)


@pytest.fixture
def expected(rng):
    return rng.uniform(-0.1, 0.1, SHAPE)


def judged(expected, actual, baseline=None, tolerance=TOLERANCE):
    """The one verdict on one output; PyTorch's own run is by default the rounded truth."""
    baseline = expected.astype(np.float32) if baseline is None else baseline
    (output,) = compare("case", {"y": expected}, {"y": baseline}, {"y": actual}, tolerance)
    return output


def changed(expected, value):
    actual = expected.astype(np.float32)
    actual[1, 2] = value
    return actual


def report(*outputs, structure=()):
    return ParityReport("model.onnx", "a runner", TOLERANCE, outputs, structure)


def test_the_rounded_truth_passes(expected):
    assert judged(expected, expected.astype(np.float32)).passed


def test_noise_of_pytorchs_own_size_passes(expected, rng):
    noise = rng.normal(0, 1e-6, (2, *SHAPE))
    baseline, actual = (expected + noise).astype(np.float32)
    assert judged(expected, actual, baseline).passed


def test_what_passes_keeps_its_statistics(expected):
    actual = changed(expected, expected[1, 2] + 5e-8)
    error = np.abs(actual - expected)
    own = np.abs(expected.astype(np.float32) - expected).max()
    scale = np.abs(expected).max()
    assert judged(expected, actual) == OutputParity(
        "case",
        "y",
        None,
        max_abs_error=error.max(),
        mean_abs_error=error.mean(),
        baseline_max_abs_error=own,
        error_ratio=error.max() / own,
        max_abs_expected=scale,
        top1_agreement=1.0,
    )


def test_the_ratio_is_to_pytorchs_own_error(expected):
    baseline, actual = changed(expected, expected[1, 2] + 2e-6), changed(expected, expected[1, 2] + 6e-6)
    assert judged(expected, actual, baseline).error_ratio == pytest.approx(3, rel=0.05)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_fails(expected, value):
    assert judged(expected, changed(expected, value)).failure == "the runner gave 1 values that are NaN or infinite"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_truth_that_is_not_finite_fails_even_when_it_is_met(expected, value):
    expected[1, 2] = value
    output = judged(expected, expected.astype(np.float32))
    assert output.failure == "PyTorch in float64 gave 1 values that are NaN or infinite"


def test_a_baseline_that_is_not_a_number_fails(expected):
    output = judged(expected, changed(expected, expected[1, 2] + 1e-6), changed(expected, np.nan))
    assert not output.passed


def test_an_infinite_baseline_does_not_excuse_every_ratio(expected):
    output = judged(expected, changed(expected, expected[1, 2] + 5e-6), changed(expected, np.inf))
    assert not output.passed


def test_another_shape_fails(expected):
    output = judged(expected, expected.astype(np.float32)[:1])
    assert output.failure == "shape must be (4, 10), got (1, 10)"


def test_another_type_fails(expected):
    output = judged(expected, expected)
    assert output.failure == "dtype must be float32, got float64"


def test_an_error_beyond_the_absolute_tolerance_fails_although_pytorchs_own_is_as_large(expected):
    wrong = changed(expected, expected[1, 2] + 1e-3)
    assert judged(expected, wrong, wrong).failure == "largest error must be at most 1.1e-05, got 0.001"


def test_an_error_beyond_the_ratio_fails_although_it_is_below_the_absolute_tolerance(expected):
    output = judged(expected, changed(expected, expected[1, 2] + 5e-6))
    assert output.max_abs_error < TOLERANCE.atol
    assert "at most 10 times PyTorch's own" in output.failure


def test_what_fails_keeps_its_statistics(expected):
    assert judged(expected, changed(expected, expected[1, 2] + 1)).max_abs_error == pytest.approx(1)


def test_a_zero_truth_met_exactly_passes():
    output = judged(np.zeros(SHAPE), np.zeros(SHAPE, np.float32))
    assert (output.failure, output.error_ratio) == (None, None)


def test_a_zero_truth_that_pytorch_meets_and_the_runner_does_not_fails():
    output = judged(np.zeros(SHAPE), np.full(SHAPE, 1e-9, np.float32))
    assert (output.passed, output.error_ratio) == (False, None)


def test_an_empty_output_fails_because_nothing_was_compared():
    assert not judged(np.zeros((0, 3)), np.zeros((0, 3), np.float32)).passed


def test_a_scalar_output_passes():
    assert judged(np.asarray(0.5), np.asarray(0.5, np.float32)).passed


@pytest.mark.parametrize("dtype", [np.int64, np.bool_])
def test_an_output_without_fractions_passes_when_it_is_equal(dtype):
    classes = np.asarray([0, 1, 1], dtype)
    assert judged(classes, classes, classes).passed


@pytest.mark.parametrize("dtype", [np.int64, np.bool_])
def test_an_output_without_fractions_fails_when_it_differs(dtype):
    classes = np.asarray([0, 1, 1], dtype)
    assert not judged(classes, classes[::-1], classes).passed


def test_top1_agreement_is_the_share_of_rows_with_the_same_largest_entry():
    expected = np.eye(4)
    assert judged(expected, np.eye(4, dtype=np.float32)[[0, 1, 2, 0]]).top1_agreement == 0.75


def test_an_output_that_is_no_batch_of_scores_has_no_top1_agreement():
    assert judged(np.zeros((2, 3, 4)), np.zeros((2, 3, 4), np.float32)).top1_agreement is None


def test_a_missing_output_fails(expected):
    arrays = {"y": expected.astype(np.float32)}
    truth = {"y": expected, "z": expected}
    _, missing = compare("case", truth, {**arrays, "z": arrays["y"]}, arrays, TOLERANCE)
    assert (missing.output, missing.failure) == ("z", "must be an output, got ['y']")


def test_an_additional_output_fails(expected):
    arrays = {"y": expected.astype(np.float32)}
    _, additional = compare("case", {"y": expected}, arrays, {**arrays, "z": arrays["y"]}, TOLERANCE)
    assert additional.output == "z"
    assert additional.failure == "must not be an output: PyTorch has none of that name"


def test_a_report_of_outputs_that_pass_passes(expected):
    assert report(judged(expected, expected.astype(np.float32))).passed


def test_an_empty_report_does_not_pass():
    assert not report().passed


def test_a_report_of_a_wrong_structure_does_not_pass(expected):
    assert not report(judged(expected, expected.astype(np.float32)), structure=("a stale digest",)).passed


def test_a_report_names_every_failure(expected):
    outputs = (judged(expected, expected.astype(np.float32)), judged(expected, expected))
    failures = report(*outputs, structure=("a stale digest",)).failures
    assert failures == ("a stale digest", "y of case: dtype must be float32, got float64")


@pytest.mark.parametrize("figure", ["max_abs_error", "max_error_ratio"])
def test_a_report_without_outputs_has_no_largest_figure(figure):
    assert getattr(report(), figure) is None


def test_a_report_with_an_output_that_cannot_be_subtracted_has_no_largest_error(expected):
    outputs = (judged(expected, expected.astype(np.float32)), judged(expected, expected))
    assert report(*outputs).max_abs_error is None


@pytest.mark.parametrize(("figure", "of_output"), [("max_abs_error",) * 2, ("max_error_ratio", "error_ratio")])
def test_the_largest_figure_of_a_report_is_the_worst_outputs(expected, figure, of_output):
    good = judged(expected, expected.astype(np.float32))
    bad = judged(expected, changed(expected, expected[1, 2] + 1))
    assert getattr(report(good, bad, good), figure) == getattr(bad, of_output)


@pytest.mark.parametrize("key", TOLERANCES, ids="-".join)
def test_every_row_of_the_tolerance_table_has_a_reason(key):
    assert TOLERANCES[key].reason


@pytest.mark.parametrize("key", TOLERANCES, ids="-".join)
def test_every_number_of_the_tolerance_table_is_above_zero(key):
    numbers = {name: n for name, n in dataclasses.asdict(TOLERANCES[key]).items() if name != "reason"}
    assert all(number > 0 for number in numbers.values()), numbers
