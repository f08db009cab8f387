import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from aaexport.data import views
from aaexport.data.views import DRAWS, normalised, random_boxes, resized, resized_boxes, varied
from aaexport.pixels import central_box
from aaexport.recipe import Data, Input

ONE_MINUS = 1 - 2**-24  # the largest float32 that is drawn


def uniform(count, seed=0):
    return torch.rand(count, DRAWS, generator=torch.Generator().manual_seed(seed))


# Normalisation

PIXELS = torch.tensor([[[[0, 51]], [[102, 255]]], [[[255, 255]], [[0, 0]]]], dtype=torch.uint8)
IMAGE = Input(channels=2, height=1, width=2, mean=(0.5, 0.25), std=(0.5, 0.1), labels=("a", "b"))


def test_normalised_pixels_are_shares_of_white_less_the_mean_by_the_deviation():
    wanted = torch.tensor([[[(0 - 0.5) / 0.5, (0.2 - 0.5) / 0.5]], [[(0.4 - 0.25) / 0.1, (1 - 0.25) / 0.1]]])
    torch.testing.assert_close(normalised(PIXELS, 255, IMAGE)[0], wanted)


def test_normalised_images_are_float32():
    assert normalised(PIXELS, 255, IMAGE).dtype == torch.float32


# The central box


@pytest.mark.parametrize(
    ("image", "size", "share", "box"),
    [
        ((8, 8), (8, 8), 1.0, (0, 0, 8, 8)),
        ((8, 8), (12, 12), 1.0, (0, 0, 8, 8)),
        ((375, 500), (224, 224), 1.0, (0, 62, 375, 375)),
        ((256, 256), (224, 224), 0.875, (16, 16, 224, 224)),
        ((256, 400), (224, 224), 0.875, (16, 88, 224, 224)),
        ((100, 100), (10, 20), 1.0, (25, 0, 50, 100)),
        ((100, 100), (10, 20), 0.5, (37, 25, 25, 50)),
        ((1, 1000), (8, 8), 1.0, (0, 499, 1, 1)),
    ],
)
def test_the_central_box_is_the_largest_of_the_inputs_shape_within_its_share(image, size, share, box):
    assert central_box(*image, size, share) == box


@given(
    height=st.integers(1, 600),
    width=st.integers(1, 600),
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    share=st.floats(0.01, 1),
)
def test_the_central_box_lies_inside_the_image(height, width, size, share):
    top, left, box_height, box_width = central_box(height, width, size, share)
    assert box_height >= 1 and box_width >= 1
    assert 0 <= top <= height - box_height and 0 <= left <= width - box_width


# Random boxes


@settings(max_examples=50)
@given(
    height=st.integers(1, 600),
    width=st.integers(1, 600),
    draws=st.lists(st.sampled_from([0.0, 0.3, ONE_MINUS]), min_size=DRAWS, max_size=DRAWS),
)
def test_random_boxes_lie_inside_the_image(height, width, draws):
    top, left, box_height, box_width = random_boxes(torch.tensor([draws]), height, width)[0].tolist()
    assert box_height >= 1 and box_width >= 1
    assert 0 <= top <= height - box_height and 0 <= left <= width - box_width


@pytest.mark.parametrize("size", [(500, 500), (375, 500), (500, 400)])
def test_random_boxes_have_the_area_that_was_drawn(size):
    draws = uniform(2000)
    boxes = random_boxes(draws, *size)
    shares = boxes[:, 2] * boxes[:, 3] / math.prod(size)
    torch.testing.assert_close(shares, 0.08 + 0.92 * draws[:, views.AREA], atol=0.01, rtol=0)


@pytest.mark.parametrize("size", [(500, 500), (300, 2000), (2000, 300)])
def test_random_boxes_are_never_flatter_or_steeper_than_4_to_3(size):
    boxes = random_boxes(uniform(2000), *size)
    ratios = boxes[:, 3] / boxes[:, 2]
    assert ratios.min() > 3 / 4 - 0.01 and ratios.max() < 4 / 3 + 0.01


def test_the_ratios_of_small_random_boxes_are_as_often_below_1_as_above():
    draws = uniform(2000)
    draws[:, views.AREA] = 0.1
    boxes = random_boxes(draws, 500, 500)
    assert (boxes[:, 3] > boxes[:, 2]).float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_random_boxes_take_every_place():
    draws = uniform(2000)
    draws[:, views.AREA], draws[:, views.RATIO] = 0.25, 0.5  # boxes of 31 % of the area: 6×6 of 10×10
    places = {tuple(box[:2]) for box in random_boxes(draws, 10, 10).tolist()}
    assert places == {(top, left) for top in range(5) for left in range(5)}


# Resizing


def images(count, height, width, channels=3):
    numbers = np.random.default_rng(0).integers(0, 256, (count, channels, height, width), dtype=np.uint8)
    return torch.from_numpy(numbers)


def test_an_image_of_the_right_size_is_not_resized():
    pixels = images(2, 5, 7)
    assert resized(pixels, (5, 7)) is pixels


@pytest.mark.parametrize("size", [(16, 16), (9, 40), (50, 7)], ids=str)
def test_boxes_resized_at_once_are_the_boxes_resized_one_by_one(size):
    pixels = images(40, 24, 32)
    boxes = random_boxes(uniform(40), 24, 32)
    parts = [
        image[None, :, top : top + height, left : left + width].float()
        for image, (top, left, height, width) in zip(pixels, boxes.tolist(), strict=True)
    ]
    one_by_one = torch.cat([functional.interpolate(p, size, mode="bilinear", antialias=True) for p in parts])
    torch.testing.assert_close(resized_boxes(pixels, boxes, size), one_by_one, atol=1e-3, rtol=0)


# Variation


@pytest.fixture
def batch():
    """64 images whose pixels are all different and none zero."""
    return torch.arange(1.0, 64 * 2 * 5 * 4 + 1).reshape(64, 2, 5, 4)


def variation(crop_padding, flip):
    return Data(dataset="digits", crop_padding=crop_padding, flip=flip)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("crop_padding", [0, 1, 4])
def test_variation_keeps_shape_and_type(batch, crop_padding, flip):
    out = varied(batch, variation(crop_padding, flip), uniform(64))
    assert (out.shape, out.dtype) == (batch.shape, batch.dtype)


def test_no_padding_and_no_flip_change_nothing(batch):
    assert torch.equal(varied(batch, variation(0, False), uniform(64)), batch)


def test_a_flip_mirrors_images_or_leaves_them(batch):
    out = varied(batch, variation(0, True), uniform(64))
    mirrored = [torch.equal(after, before.flip(-1)) for before, after in zip(batch, out, strict=True)]
    left = [torch.equal(after, before) for before, after in zip(batch, out, strict=True)]
    assert all(one != other for one, other in zip(mirrored, left, strict=True))


def test_about_half_of_the_images_are_flipped():
    batch = torch.arange(4000.0).reshape(2000, 1, 1, 2)
    share = (varied(batch, variation(0, True), uniform(2000)) != batch)[:, 0, 0, 0].float().mean().item()
    assert share == pytest.approx(0.5, abs=0.05)


def crops(image, padding):
    """Every place that a window of the image's size can have in the padded image, and what it shows."""
    channels, height, width = image.shape
    padded = np.zeros((channels, height + 2 * padding, width + 2 * padding), dtype=np.float32)
    padded[:, padding : padding + height, padding : padding + width] = image
    return {
        padded[:, top : top + height, left : left + width].tobytes(): (top, left)
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
    }


def test_every_crop_is_a_window_of_the_padded_image(batch):
    out = varied(batch, variation(2, False), uniform(64))
    for before, after in zip(batch, out, strict=True):
        assert after.numpy().tobytes() in crops(before.numpy(), 2)


def test_crops_take_every_place_of_the_window():
    batch = torch.arange(1.0, 13).reshape(1, 1, 4, 3).expand(400, 1, 4, 3)
    out = varied(batch, variation(1, False), uniform(400))
    places = crops(batch[0].numpy(), 1)
    assert {places[image.numpy().tobytes()] for image in out} == set(places.values())


def test_the_largest_draw_is_still_inside_the_padded_image(batch):
    out = varied(batch, variation(4, False), torch.full((64, DRAWS), ONE_MINUS))
    assert out[0].numpy().tobytes() in crops(batch[0].numpy(), 4)


def test_variation_differs_with_the_draws(batch):
    one, other = (varied(batch, variation(2, True), uniform(64, seed)) for seed in (3, 4))
    assert not torch.equal(one, other)


def test_variation_leaves_the_batch_and_the_global_randomness_alone(batch):
    before, state = batch.clone(), torch.get_rng_state()
    varied(batch, variation(2, True), uniform(64))
    assert torch.equal(batch, before) and torch.equal(torch.get_rng_state(), state)
