"""Hints: what two tensors that should be equal, or an initializer, betray of the cause."""

import numpy as np
import pytest

from aaexport.parity import Case
from aaexport.parity.hints import (
    another_order,
    another_preprocessing,
    baked_in_batch,
    constant_factor,
    constant_hints,
    float16_overflow,
    lost_slices,
    other_axis,
    tensor_hints,
)
from aaexport.parity.tensors import facts, fingerprint, relative_error, unit


@pytest.fixture
def right(rng):
    return rng.standard_normal((2, 4, 6)).astype(np.float32)


def test_a_right_tensor_and_a_noisy_one_give_no_hint(right, rng):
    assert tensor_hints(right.copy(), right) == ()
    assert tensor_hints(right + rng.standard_normal(right.shape).astype(np.float32), right) == ()


def test_float16_that_overflows(right):
    right[0, 0, 0] = 70_000
    with np.errstate(over="ignore"):
        half = right.astype(np.float16)
    assert "7e+04, and float16 ends at 65504" in float16_overflow(half, right)
    assert float16_overflow(right, right) is None


def test_nan_for_one_class(right):
    wrong = right.copy()
    wrong[:, :, 3] = np.nan
    assert lost_slices(wrong, right) == "NaN or infinite for index 3 along axis 2, and nowhere else"
    wrong[0, 0, 1] = np.nan
    assert lost_slices(wrong, right) is None


def test_heads_that_are_not_permuted(right):
    assert another_order(right.reshape(2, 6, 4).transpose(0, 2, 1), right).startswith("the right numbers in another")
    assert another_order(right.transpose(0, 2, 1), right).startswith("the right numbers in another order")
    assert another_order(right * 2, right) is None


@pytest.mark.parametrize(("factor", "said"), [(20**0.5, "√20"), (20**-0.5, "1/√20")])
def test_the_query_scale(right, factor, said):
    wrong = right.copy()
    wrong[:, :2] *= np.float32(factor)
    hint = constant_factor(wrong, right)
    assert hint.startswith(f"24 of 48 numbers are {factor:.6g} times")
    assert f"which is {said}:" in hint
    assert "√" not in constant_factor(right * np.float32(1.1), right)


def test_softmax_along_another_axis(rng):
    numbers = np.exp(rng.standard_normal((2, 5, 5)))
    right, wrong = (numbers / numbers.sum(axis, keepdims=True) for axis in (2, 1))
    assert "along axis 2, they do along axis 1" in other_axis(wrong, right)
    assert other_axis(right, right) is None


def test_what_became_of_an_initializer(rng):
    height, width = (rng.standard_normal((7, 7)).astype(np.float32) for _ in range(2))
    others = {"height": height, "width": width}
    shifted = np.concatenate([height[1:], np.zeros((1, 7), np.float32)])
    for wrong, said in (
        (width, "holds what width should: two tables swapped"),
        (np.roll(height, 1, axis=1), "is shifted by one along axis 1"),
        (shifted, "is shifted by one along axis 0"),
        (height.T, "is transposed"),
        (height.astype(np.float16).astype(np.float32), "is rounded to float16"),
        (height + width, "holds other numbers"),
    ):
        assert constant_hints("height", wrong, height, others) == (f"initializer height {said}",)
    assert constant_hints("height", height.copy(), height, others) == ()


def spread(embeddings):
    """T[a, :, b] = embeddings[b − a + L − 1]: (2L − 1, d) → (L, d, L)."""
    length = (len(embeddings) + 1) // 2
    offset = np.arange(length)[None, :] - np.arange(length)[:, None] + length - 1
    return embeddings[offset].transpose(0, 2, 1)


def test_tables_that_lie_in_a_file_in_two_layouts(rng):
    height, width = (rng.standard_normal((7, 3)).astype(np.float32) for _ in range(2))
    others = {"height": spread(height), "width": width.T}

    def told(wrong):
        return constant_hints("height", wrong, spread(height), others)

    assert told(spread(width)) == ("initializer height holds what width should: two tables swapped",)
    for wrong in (spread(width + 1), spread(height[::-1]), np.ones((4, 3, 4), np.float32)):
        assert "swapped" not in told(wrong)[0]


def test_tables_of_the_same_numbers_are_not_swapped(rng):
    table = rng.standard_normal((7, 3)).astype(np.float32)
    (hint,) = constant_hints(
        "height", spread(table)[::-1], spread(table), {"height": spread(table), "width": table.T}
    )
    assert hint.startswith("initializer height holds the right numbers in another order")


@pytest.fixture
def images(rng):
    return rng.standard_normal((2, 3, 4, 5)).astype(np.float32)


def of_channels(*numbers):
    return np.asarray(numbers, np.float32).reshape(-1, 1, 1)


MEAN, STD = of_channels(0.485, 0.456, 0.406), of_channels(0.229, 0.224, 0.225)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda images: images * 255, "the image × 255"),
        (lambda images: images / 255, "the image ÷ 255"),
        (lambda images: images - 0.5, "the image − 0.5"),
        (lambda images: (images - MEAN) / STD, "(the image − (0.485, 0.456, 0.406)) ÷ (0.229, 0.224, 0.225)"),
    ],
)
def test_images_that_are_normalised_otherwise(images, make, said):
    other = make(images)
    expected = f"preprocessing mismatch: the file takes {said} where the model takes the image"
    assert another_preprocessing(other, [images], images) == expected
    expected = f"preprocessing mismatch: the file takes the image where the model takes {said}"
    assert another_preprocessing(images, [other], images) == expected
    assert another_preprocessing(other, [images, other], images) is None


def test_what_is_no_other_normalisation(images, rng):
    for other in (images.copy(), images**2, images[..., ::-1], images[:, :2], rng.standard_normal(images.shape)):
        assert another_preprocessing(other, [images], images) is None
    assert another_preprocessing(np.ones_like(images), [images], images) is None
    assert another_preprocessing(images * 0 + 255, [images * 0 + 1], images * 0 + 1) is None


def test_a_batch_that_is_baked_in():
    one, two, seven = (Case(f"batch {size}", np.zeros((size, 1))) for size in (1, 2, 7))
    assert "right for a batch of 2 and wrong for 1, 7" in baked_in_batch([one, seven], [two])
    assert baked_in_batch([one], [two, seven]) is None


def test_places_that_are_not_finite_must_be_the_same(right):
    lost = right.copy()
    lost[0, 0, 0] = np.nan
    assert relative_error(lost, right) is None
    assert relative_error(lost, lost) == 0
    assert relative_error(right[0], right) is None


def test_an_error_is_seen_against_the_largest_number():
    assert relative_error(np.array([1.0, -5.0]), np.array([1.0, -4.0])) == 0.25
    assert unit(np.dtype("float32"), np.dtype("float16")) == 2**-10
    assert unit(np.dtype("int64")) == 0


def test_a_fingerprint_knows_the_numbers_and_not_their_order(right):
    assert np.allclose(fingerprint(right.transpose(2, 0, 1)), fingerprint(right), rtol=1e-12)
    wrong = right.copy()
    wrong[0, 0, 0] += 0.1
    assert not np.allclose(fingerprint(wrong), fingerprint(right), rtol=1e-4)


def test_the_facts_of_a_tensor_without_finite_numbers():
    found = facts(np.array([np.nan, np.inf], np.float32))
    assert (found.smallest, found.std, found.not_finite) == (None, None, 2)
