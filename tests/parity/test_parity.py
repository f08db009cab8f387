"""compare(): what passes, what fails and why, and that no array makes it raise."""

import dataclasses

import numpy as np
import pytest

from aaexport.errors import ArgumentError
from aaexport.parity import (
    TOLERANCES,
    Case,
    Computation,
    Own,
    OwnErrors,
    ParityReport,
    Scores,
    Tolerances,
    Truth,
    compare,
    given_cases,
    made_up_cases,
    required,
    tolerances,
)
from aaexport.parity.finiteness import FINITE, MINUS, NAN, kinds

TOLERANCE = TOLERANCES["float32", "cpu"]
SHAPE = (4, 10)


@pytest.fixture
def expected(rng):
    return rng.uniform(-0.1, 0.1, SHAPE)


def judged(expected, actual, baseline=None, *, kind="ordinary", own=0.0):
    """The one verdict on one output; PyTorch's own run is by default the rounded truth."""
    baseline = expected.astype(np.float32) if baseline is None else baseline
    truth = Truth(Case("case", np.zeros((1, 1, 1, 1)), kind), {"y": expected}, {"y": baseline}, {"y": Own(own)})
    (output,) = compare(truth, {"y": actual}, Tolerances(TOLERANCE, {}, {}))
    return output


def truth_of(expected):
    baseline = {name: array.astype(np.float32) for name, array in expected.items()}
    return Truth(Case("case", np.zeros((1, 1, 1, 1))), expected, baseline, {})


def changed(expected, value):
    actual = expected.astype(np.float32)
    actual[1, 2] = value
    return actual


def report(*outputs, structure=()):
    return ParityReport("model.onnx", (Computation("a runner", "file", TOLERANCE, outputs),), structure)


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
    output = judged(expected, actual)
    assert output.failure is None
    assert (output.max_abs_error, output.mean_abs_error) == (error.max(), error.mean())
    assert (output.baseline_max_abs_error, output.max_abs_expected) == (own, scale)
    assert output.error_ratio == error.max() / own
    assert (output.max_rel_error, output.mean_rel_error) == pytest.approx(
        ((error / np.abs(expected)).max(), (error / np.abs(expected)).mean())
    )
    assert output.cosine == pytest.approx(1)
    assert output.sqnr_db == pytest.approx(10 * np.log10((expected**2).sum() / (error**2).sum()))
    assert (output.top1_agreement, output.top5_agreement) == (1.0, 1.0)


def test_the_ratio_is_to_pytorchs_own_error(expected):
    baseline, actual = changed(expected, expected[1, 2] + 2e-6), changed(expected, expected[1, 2] + 6e-6)
    assert judged(expected, actual, baseline).error_ratio == pytest.approx(3, rel=0.05)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_fails(expected, value):
    assert judged(expected, changed(expected, value)).failure == "the runner gave 1 values that are NaN or infinite"


def test_a_truth_that_is_not_a_number_fails_even_when_it_is_met(expected):
    expected[1, 2] = np.nan
    output = judged(expected, expected.astype(np.float32))
    assert output.failure == "PyTorch in float64 gave 1 values that are NaN or infinite"


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinity_of_one_sign_in_one_place_is_equal(expected, value):
    expected[1, 2] = value
    met = judged(expected, expected.astype(np.float32))
    assert (met.passed, met.warning, met.compared) == (True, None, True)
    assert 0 < met.max_abs_error < 1e-8
    for wrong in (-value, np.nan, np.sign(value) * np.finfo(np.float32).max, np.sign(value) * 1e30, 0.0):
        assert not judged(expected, changed(expected, wrong), expected.astype(np.float32)).passed, wrong
    moved = expected.astype(np.float32)
    moved[0, 1] *= 1 + 1e-4
    assert not judged(expected, moved, expected.astype(np.float32)).passed


def test_an_output_that_is_infinite_everywhere_is_compared_by_its_signs(expected):
    signs = np.copysign(np.inf, expected)
    met = judged(signs, signs.astype(np.float32))
    assert (met.passed, met.compared, met.max_abs_error) == (True, True, 0.0)
    other = signs.astype(np.float32)
    other[1, 2] *= -1
    assert "infinity of either sign, must be as in PyTorch, got 1" in judged(signs, other).failure


def test_a_channel_is_judged_by_its_own_size_beside_infinity_too(expected):
    expected[:, 0] *= 1e6
    expected[0, 4] = -np.inf
    known = OwnErrors()
    known.learn({"y": expected}, {"y": expected.astype(np.float32)})
    truth = Truth(
        Case("case", np.zeros((4, 1, 1, 1))),
        {"y": expected},
        {"y": expected.astype(np.float32)},
        known.of({"y": expected}),
    )
    actual = expected.astype(np.float32)
    actual[:, 3] += 1e-3
    (output,) = compare(truth, {"y": actual}, tolerances("float32", "cpu"))
    assert output.failure.startswith("largest error of channel 3 must be at most")


def test_what_rounding_makes_infinite_may_be_so_or_not(expected):
    single = changed(expected, -np.inf)
    seen = np.ones(expected.shape, np.uint8)
    seen[1, 2] |= MINUS
    for is_seen in (False, True):
        truth = Truth(
            Case("case", np.zeros((4, 1, 1, 1))),
            {"y": expected},
            {"y": single},
            seen={"y": seen} if is_seen else {},
        )
        for actual in (single, expected.astype(np.float32)):
            (output,) = compare(truth, {"y": actual}, tolerances("float32", "cpu"))
            assert output.passed == is_seen
            assert not is_seen or output.warning == (
                "whether 1 of its numbers are finite is a matter of rounding: not compared"
            )
        (output,) = compare(truth, {"y": changed(expected, np.inf)}, tolerances("float32", "cpu"))
        assert not output.passed


@pytest.mark.parametrize("made_up", [False, True])
def test_what_overflows_float32_is_infinite_unless_float32_was_seen_to_be_finite(expected, made_up):
    infinite = changed(expected, np.inf)
    expected[1, 2] = 1e40
    for seen, allowed in ((kinds(infinite), {np.inf}), (kinds(infinite) | FINITE, {np.inf, 1e30})):
        case = Case("case", np.zeros((4, 1, 1, 1)), made_up=made_up)
        truth = Truth(case, {"y": expected}, {"y": infinite}, seen={"y": seen})
        for value in (np.inf, 1e30, -np.inf, np.nan):
            (output,) = compare(truth, {"y": changed(infinite, value)}, tolerances("float32", "cpu"))
            may_be = value in allowed and (made_up or len(allowed) > 1)
            assert output.passed == may_be, (seen[1, 2], value, output)


def test_nan_that_rounding_makes_is_not_allowed(expected):
    expected[1, 2] = -np.inf
    truth = truth_of({"y": expected})
    truth = dataclasses.replace(truth, seen={"y": kinds(expected) | NAN})
    for value, passes in ((-np.inf, True), (np.nan, False)):
        (output,) = compare(truth, {"y": changed(expected, value)}, tolerances("float32", "cpu"))
        assert output.passed == passes


@pytest.mark.parametrize("factor", [-1.0, 1.5])
def test_nan_that_is_lost_excuses_only_numbers_that_are_nan_of_ordinary_inputs(expected, factor):
    expected[0, :2] = -np.inf, np.nan
    case = Case("case", np.zeros((4, 1, 1, 1)), made_up=True)
    truth = Truth(case, {"y": expected}, {"y": expected.astype(np.float32)})
    lost = expected.astype(np.float32)
    lost[0, 1] = 1.0
    (output,) = compare(truth, {"y": lost}, tolerances("float32", "cpu"), may_lose_nan=["y"])
    assert output.passed
    assert "must spread to the 2 numbers" in output.warning
    (output,) = compare(truth, {"y": np.float32(factor) * lost}, tolerances("float32", "cpu"), may_lose_nan=["y"])
    assert not output.passed


def test_an_output_that_is_infinite_by_rounding_alone_was_not_compared_and_is_warned_of(expected):
    signs = np.full(SHAPE, -np.inf)
    seen = np.full(SHAPE, FINITE | MINUS, np.uint8)
    for decided, compared in ((0, False), (1, True)):
        seen[0, :decided] = MINUS
        truth = dataclasses.replace(truth_of({"y": signs}), seen={"y": seen})
        (output,) = compare(truth, {"y": signs.astype(np.float32)}, tolerances("float32", "cpu"))
        assert (output.passed, output.compared, output.max_abs_error) == (True, compared, 0.0 if compared else None)
        assert output.warning.startswith(f"whether {40 - decided} of its numbers are finite")


def test_an_output_of_another_shape_in_float32_is_held_to_what_float32_has(expected):
    """As many numbers as differ, some of which float32 rounds together."""
    single = expected.astype(np.float32)
    truth = Truth(Case("case", np.zeros((4, 1, 1, 1))), {"y": expected}, {"y": single[1:]})
    for right in (single[1:], single):
        (output,) = compare(truth, {"y": right}, tolerances("float32", "cpu"))
        assert (output.passed, output.compared) == (True, True)
        assert "PyTorch gives the shape (4, 10) in float64, else (3, 10)" in output.warning
        for wrong in (right * np.float32(1.001), right.astype(np.float64), right[:2]):
            (output,) = compare(truth, {"y": wrong}, tolerances("float32", "cpu"))
            assert not output.passed


def test_an_output_that_was_compared_in_no_case_is_a_failure(expected):
    empty, full = judged(expected[:0], expected[:0].astype(np.float32)), judged(expected, expected.astype(np.float32))
    assert required([empty, full]) == (empty, full)
    other = dataclasses.replace(full, output="z")
    (failure, same) = required([empty, other])
    assert same == other
    assert failure.failure.startswith("must hold numbers to compare in some case, got none; give images")


def test_a_baseline_that_is_not_a_number_fails(expected):
    output = judged(expected, changed(expected, expected[1, 2] + 1e-6), changed(expected, np.nan))
    assert not output.passed


def test_an_infinite_baseline_does_not_excuse_every_ratio(expected):
    output = judged(expected, changed(expected, expected[1, 2] + 5e-6), changed(expected, np.inf))
    assert not output.passed


def test_another_shape_fails(expected):
    output = judged(expected, expected.astype(np.float32)[:1])
    assert output.failure == "shape must be (4, 10), got (1, 10)"


@pytest.mark.parametrize("may_lose_nan", [False, True])
def test_a_shape_that_nan_decides_is_a_warning_where_onnx_leaves_it_open(expected, may_lose_nan):
    """As many numbers as are unique: NaN is unlike NaN, or not."""
    expected[0] = np.nan
    for kind, passes in (("poisoned", may_lose_nan), ("ordinary", False)):
        truth = Truth(Case("case", np.zeros((1, 1, 1, 1)), kind), {"y": expected}, {"y": expected.astype(np.float32)})
        fewer = {"y": expected.astype(np.float32)[1:]}
        (output,) = compare(truth, fewer, tolerances("float32", "cpu"), may_lose_nan=["y"] if may_lose_nan else [])
        told = output.warning if passes else output.failure
        assert (output.passed, told) == (passes, "shape must be (4, 10), got (3, 10)")


def test_an_output_without_a_number_is_right_and_was_not_compared(expected):
    output = judged(expected[:0], expected[:0].astype(np.float32))
    assert (output.passed, output.compared) == (True, False)
    assert not judged(expected[:0], expected.astype(np.float32)).passed
    assert not judged(expected, expected[:0].astype(np.float32)).passed


def test_another_type_fails(expected):
    output = judged(expected, expected)
    assert output.failure == "dtype must be float32, got float64"


def test_an_error_beyond_the_absolute_tolerance_fails_although_it_is_within_the_ratio(expected):
    wrong, own = changed(expected, expected[1, 2] + 2e-5), changed(expected, expected[1, 2] + 3e-6)
    assert judged(expected, wrong, own).failure == "largest error must be at most 1.1e-05, got 2e-05"


def test_an_error_that_pytorch_itself_makes_passes_whatever_its_size(expected):
    wrong = changed(expected, expected[1, 2] + 1e-3)
    assert judged(expected, wrong, wrong).passed


def test_a_small_channel_does_not_hide_behind_a_large_one(expected):
    expected[:, 0] *= 1e6
    actual, own = (expected.astype(np.float32) for _ in range(2))
    actual[:, 3] += 1e-3
    own[0, 0] += 0.01
    known = OwnErrors()
    known.learn({"y": expected}, {"y": own})
    truth = Truth(Case("case", np.zeros((4, 1, 1, 1))), {"y": expected}, {"y": own}, known.of({"y": expected}))
    (output,) = compare(truth, {"y": actual}, tolerances("float32", "cpu"))
    assert output.failure.startswith("largest error of channel 3 must be at most")
    (output,) = compare(truth, {"y": own}, tolerances("float32", "cpu"))
    assert output.passed


def made_up(expected, actual, kind="ordinary"):
    baseline = expected.astype(np.float32)
    truth = Truth(Case("case", np.zeros((4, 1, 1, 1)), kind, made_up=True), {"y": expected}, {"y": baseline})
    (output,) = compare(truth, {"y": actual}, tolerances("float32", "cpu"))
    return output


def test_a_definition_that_is_not_finite_for_made_up_inputs_is_met_in_the_same_places(expected):
    expected[0] = np.nan
    met = made_up(expected, expected.astype(np.float32))
    assert met.passed
    assert met.warning == "PyTorch itself gives numbers that are not finite for such inputs"
    assert not made_up(expected, np.nan_to_num(expected).astype(np.float32)).passed


def test_an_argmax_may_differ_where_scores_are_nearly_equal():
    classes = np.zeros((1, 200, 200), np.int64)
    one, many = classes.copy(), classes.copy()
    one[0, 0, :4], many[0, 0, :5] = 1, 1
    assert judged(classes, one, classes).passed
    assert "at most 4 of 40000 numbers must be others, got 5" in judged(classes, many, classes).failure


@pytest.mark.parametrize("mask", [-1e9, float(np.finfo(np.float32).min), -np.inf])
def test_a_mask_beside_scores_makes_no_tie_of_them(mask):
    wanted, numbers = np.array([[1]]), np.float32([[[1.0], [2.0], [mask]]])
    assert judged_positions(wanted, np.array([[1]]), numbers).passed
    for wrong in (0, 2):
        assert not judged_positions(wanted, np.array([[wrong]]), numbers).passed


def test_positions_of_scores_that_tie_but_for_rounding_are_any_of_them():
    wanted, near = np.array([[1]]), np.float32([[[2.0], [2.0000002], [-1e9]]])
    assert judged_positions(wanted, np.array([[0]]), near).passed
    apart = np.float32([[[2.0], [2.00002], [-1e9]]])
    assert not judged_positions(wanted, np.array([[0]]), apart).passed


def test_scores_that_rounding_moves_tie_within_what_it_moves_these_very_scores():
    wanted, other = np.array([[1]]), np.array([[0]])
    numbers = np.float32([[[2.0], [2.00002], [5.0]]])
    of_these, of_others = np.float32([[[1e-6], [2e-6], [0]]]), np.float32([[[0], [0], [1.0]]])
    assert judged_positions(wanted, other, numbers, of_these).passed
    assert not judged_positions(wanted, other, numbers, of_others).passed


def test_a_position_in_all_scores_is_judged_by_them_in_a_row():
    numbers = np.float32([1.0, 2.0, 3.0, 3.0])
    truth = np.array(2)
    assert judged_positions(truth, np.array(3), numbers, axis=0).passed
    assert not judged_positions(truth, np.array(1), numbers, axis=0).passed


def judged_positions(expected, actual, numbers, moves=None, axis=1):
    """The verdict on positions that have lost the axis of the scores that they point at."""
    scores = Scores(numbers, axis, keeps=False, moves=moves)
    truth = Truth(Case("case", np.zeros((1, 1, 1, 1))), {"y": expected}, {"y": expected}, scores={"y": scores})
    (output,) = compare(truth, {"y": actual}, Tolerances(TOLERANCE, {}, {}))
    return output


@pytest.mark.parametrize("shown", [False, True])
def test_a_kernel_excuses_a_hundredth_of_an_output_unless_the_file_was_shown_to_be_right(expected, shown):
    expected, kernel = expected * 1e-7, {"y": 2e-7}
    baseline = {"y": expected.astype(np.float32)}
    truth = Truth(Case("case", np.zeros((1, 1, 1, 1))), {"y": expected}, baseline, kernels=kernel)
    assert truth.drowned() == {"y"}
    truth = dataclasses.replace(truth, shown=truth.drowned() if shown else frozenset())
    (output,) = compare(truth, {"y": np.zeros(SHAPE, np.float32)}, Tolerances(TOLERANCE, {}, {}))
    assert output.passed is shown


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
    output = judged(np.zeros((0, 3)), np.zeros((0, 3), np.float32))
    assert (report(output).passed, report(output).complaint) == (False, "nothing was compared")


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
    truth = truth_of({"y": expected, "z": expected})
    _, missing = compare(truth, arrays, tolerances("float32", "cpu"))
    assert (missing.output, missing.failure) == ("z", "must be an output, got ['y']")


def test_an_additional_output_fails(expected):
    arrays = {"y": expected.astype(np.float32)}
    both = {**arrays, "z": arrays["y"]}
    _, additional = compare(truth_of({"y": expected}), both, tolerances("float32", "cpu"))
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
    assert failures == ("a stale digest", "a runner: y of case: dtype must be float32, got float64")


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


def test_strict_makes_failures_of_warnings(expected):
    passing = dataclasses.replace(report(judged(expected, expected.astype(np.float32))), warnings=("mind this",))
    assert passing.passed
    assert dataclasses.replace(passing, strict=True).failures == ("mind this",)


def test_the_first_computation_that_fails_tells_the_stage(expected):
    good, bad = judged(expected, expected.astype(np.float32)), judged(expected, expected)
    rows = [Computation(stage, stage, TOLERANCE, (o,)) for stage, o in (("file", good), ("optimizer", bad))]
    assert ParityReport("model.onnx", tuple(rows)).broken_stage == "optimizer"


def test_a_computation_that_could_not_begin_fails():
    row = Computation("a runner", "file", TOLERANCE, (), "cannot load")
    assert ParityReport("model.onnx", (row,)).failures == ("a runner: cannot load",)


def test_what_is_known_of_pytorchs_error_counts_where_one_run_was_lucky(expected):
    actual = changed(expected, expected[1, 2] + 5e-6)
    assert not judged(expected, actual).passed
    assert judged(expected, actual, own=1e-6).passed


def test_own_error_is_relative_to_the_largest_output_and_the_worst_so_far(expected):
    own = OwnErrors()
    own.learn({"y": expected}, {"y": expected * (1 + 1e-6)})
    own.learn({"y": expected}, {"y": expected})
    assert own.of({"y": 10 * expected})["y"].largest == pytest.approx(1e-5 * np.abs(expected).max())


def test_an_extreme_case_is_judged_by_pytorchs_own_error_alone(expected):
    wrong, own = changed(expected, expected[1, 2] + 1e-3), changed(expected, expected[1, 2] + 2e-4)
    assert not judged(expected, wrong, own).passed
    assert judged(expected, wrong, own, kind="extreme").passed
    assert not judged(expected, wrong, kind="extreme").passed


def test_errors_of_extreme_cases_are_no_part_of_the_summary(expected):
    wrong, own = changed(expected, expected[1, 2] + 1e-3), changed(expected, expected[1, 2] + 5e-4)
    good = judged(expected, expected.astype(np.float32))
    assert report(good, judged(expected, wrong, own, kind="extreme")).max_abs_error == good.max_abs_error


def poisoned(expected, actual):
    baseline = expected.astype(np.float32)
    return judged(expected, actual, baseline, kind="poisoned")


def test_what_is_not_finite_must_spread_as_in_pytorch(expected):
    expected[0] = np.nan
    actual = expected.astype(np.float32)
    assert poisoned(expected, actual).passed
    actual[0] = np.inf
    assert poisoned(expected, actual).passed
    actual[0, 0] = 1
    assert "must spread to the 10 numbers" in poisoned(expected, actual).failure
    actual[0, 0], actual[1, 0] = np.nan, np.nan
    assert "got 11, 1 of them others" in poisoned(expected, actual).failure


def test_what_stays_finite_beside_a_poisoned_image_is_judged(expected):
    expected[0] = np.nan
    actual = changed(expected, expected[1, 2] + 1e-3)
    assert "largest error must be at most" in poisoned(expected, actual).failure


def test_top5_agreement_is_the_mean_share_of_the_five_largest():
    expected = np.arange(10.0)[None]
    assert judged(expected, expected[:, ::-1].astype(np.float32)).top5_agreement == 0
    assert judged(expected, np.float32([[9, 1, 2, 3, 4, 5, 6, 7, 8, 0]])).top5_agreement == pytest.approx(4 / 5)


def test_a_bound_may_be_given_for_one_output():
    judging = tolerances("float32", "cpu", atol={"y": 1e-2}, rtol=0.5)
    assert (judging.of("y").atol, judging.of("z").atol, judging.of("z").rtol) == (1e-2, TOLERANCE.atol, 0.5)
    assert judging.of("y").reason.startswith("atol or rtol set by hand")


@pytest.mark.parametrize("bound", [-1, float("nan"), {"y": float("inf")}])
def test_a_bound_that_is_no_size_is_refused(bound):
    with pytest.raises(ArgumentError, match="must be at least 0 and finite"):
        tolerances("float32", "cpu", atol=bound)


def test_an_unknown_precision_is_refused():
    with pytest.raises(ArgumentError, match="dtype must be one of float32, float16, bfloat16, got 'float8'"):
        tolerances("float8", "cpu")


def test_made_up_cases_are_decided_by_their_seed():
    one, again, other = (list(made_up_cases((3, 5, 4), (7, 1), 2, seed)) for seed in (0, 0, 1))
    assert [case.name for case in one] == [case.name for case in other]
    assert all(np.array_equal(a.batch, b.batch, equal_nan=True) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one[0].batch, other[0].batch)
    assert [len(case.batch) for case in one] == [7, 1, 2, 2, 2, 2, 2, 2, 2]


def test_a_poisoned_case_poisons_one_pixel_of_one_image():
    for case in made_up_cases((3, 5, 4), (1,), 2, 0):
        broken = ~np.isfinite(case.batch)
        assert broken.any() == (case.kind == "poisoned")
        assert not broken[1:].any()
        assert broken.sum() in (0, 3)


def test_given_cases_go_through_the_images_and_around():
    images = np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1)
    cases = given_cases("images", images, (3, 2))
    assert [case.batch.ravel().tolist() for case in cases] == [[0, 1, 2], [3, 0]]


@pytest.mark.parametrize(("units", "passes"), [(1, True), (3, False)])
def test_an_output_in_float16_may_be_rounded_to_the_neighbour(expected, units, passes):
    rounded = expected.astype(np.float16)
    moved = rounded.copy()
    place = np.unravel_index(np.abs(rounded).argmax(), rounded.shape)
    for _ in range(units):
        moved[place] = np.nextafter(moved[place], np.float16(0))
    assert judged(rounded, moved, baseline=rounded).passed == passes
