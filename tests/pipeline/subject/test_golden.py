"""Golden vectors remember what a right file may do otherwise."""

import numpy as np

from aaexport.parity import Case, Scores, Truth
from aaexport.pipeline.subject.golden import Golden, read_golden, write_golden


def test_scores_and_how_far_rounding_moves_them_are_read_as_they_were_written(tmp_path, rng):
    numbers = rng.standard_normal((2, 3), dtype=np.float32)
    positions = {"best": numbers.argmax(1), "first": numbers.argmax(1)}
    scores = {"best": Scores(numbers, 1, False, numbers * 1e-7), "first": Scores(numbers, 1, False)}
    case = Case("random, batch 2", rng.standard_normal((2, 3, 1, 1), dtype=np.float32))
    truth = Truth(case, positions, positions, kernels={"best": 1e-7}, scores=scores)
    write_golden(Golden((truth,), "0" * 64, ()), tmp_path / "golden.safetensors")
    (read,) = read_golden(tmp_path / "golden.safetensors").truths
    assert read.kernels == {"best": 1e-7}
    assert (read.scores["best"].axis, read.scores["best"].keeps, read.scores["first"].moves) == (1, False, None)
    np.testing.assert_array_equal(read.scores["best"].numbers, numbers)
    np.testing.assert_array_equal(read.scores["best"].moves, scores["best"].moves)


def test_what_kernels_were_seen_to_make_infinite_is_read_as_it_was_written(tmp_path, rng):
    scores = rng.standard_normal((2, 3), dtype=np.float32)
    seen = np.uint8([[1, 3, 1], [1, 1, 5]])
    case = Case("random, batch 2", rng.standard_normal((2, 3, 1, 1), dtype=np.float32))
    truth = Truth(case, {"y": scores}, {"y": scores}, seen={"y": seen})
    write_golden(
        Golden((truth, Truth(case, {"y": scores}, {"y": scores})), "0" * 64), tmp_path / "golden.safetensors"
    )
    read, other = read_golden(tmp_path / "golden.safetensors").truths
    np.testing.assert_array_equal(read.seen["y"], seen)
    assert (read.seen["y"].dtype, other.seen) == (np.uint8, {})
