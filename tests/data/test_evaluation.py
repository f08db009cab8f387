"""What a verification or a calibration sees is by arrays alone what training sees by torch, to the last bit."""

import numpy as np
import pytest
import torch
from data_sets import CIFAR100, DIGITS, encoded, encoded_records, for_pictures, with_data, with_input

from aaexport.data import evaluation_batch, evaluation_images, load_images, load_records, sample
from aaexport.data.images import as_images
from aaexport.errors import DataError

pytest.importorskip("PIL.Image")
SYNTHETIC = with_data(CIFAR100, dataset="synthetic")


def assert_seen_alike(records, recipe, index=None):
    index = np.arange(len(records)) if index is None else index
    seen = evaluation_images(records, recipe, index)
    wanted = evaluation_batch(as_images(records), recipe, torch.from_numpy(index)).numpy()
    assert seen.dtype == wanted.dtype == np.float32
    np.testing.assert_array_equal(seen, wanted)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("size", [(8, 8), (12, 16), (5, 7)], ids=str)
def test_digits_are_seen_as_by_torch(split, size):
    recipe = with_input(DIGITS, height=size[0], width=size[1])
    assert_seen_alike(load_records(recipe, split), recipe)


@pytest.mark.parametrize("share", [1.0, 0.875])
def test_synthetic_images_are_seen_as_by_torch(share):
    recipe = with_data(SYNTHETIC, crop_share=share)
    assert_seen_alike(load_records(recipe, "test"), recipe, np.array([0, 5, 5, 300]))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("share", [1.0, 0.875])
@pytest.mark.parametrize("size", [(8, 8), (24, 17), (64, 48)], ids=str)
def test_jpeg_and_png_files_are_cropped_and_resized_as_by_torch(rng, channels, share, size):
    contents = [
        encoded(rng.integers(0, 256, (61 - 9 * number, 40 + 13 * number, 3), np.uint8), kind)
        for number, kind in enumerate(["JPEG", "PNG"] * 2)
    ]
    recipe = for_pictures(size, 4, channels, crop_share=share)
    recipe = with_input(recipe, mean=(0.4855,) * channels, std=(0.229,) * channels)
    assert_seen_alike(encoded_records(contents, channels), recipe)


@pytest.mark.parametrize("recipe", [DIGITS, SYNTHETIC], ids=["digits", "synthetic"])
def test_images_of_torch_hold_the_records(recipe):
    records, images = load_records(recipe, "test"), load_images(recipe, "test")
    np.testing.assert_array_equal(images.pixels.numpy(), records.pixels)
    np.testing.assert_array_equal(images.labels.numpy(), records.labels)


def test_synthetic_images_are_those_that_torch_draws():
    records = load_records(SYNTHETIC, "train")
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, records.pixels.shape, dtype=torch.uint8, generator=generator)
    np.testing.assert_array_equal(records.pixels, pixels.numpy())
    labels = torch.randint(0, 100, records.labels.shape, generator=generator)
    np.testing.assert_array_equal(records.labels, labels.numpy())


# A sample


def with_a_corrupt_one(count=6):
    whole = [encoded(np.full((4, 4, 3), shade, np.uint8)) for shade in range(count)]
    return encoded_records([*whole, whole[0][:20]])


def test_a_sample_leaves_out_what_cannot_be_decoded_and_says_so():
    index, notes = sample(with_a_corrupt_one(), 100, seed=0)
    assert sorted(index.tolist()) == list(range(6))
    assert notes == ("1 corrupt image skipped: image 6",)


def test_a_sample_is_decided_by_its_seed():
    images = encoded_records([encoded(np.zeros((4, 4, 3), np.uint8))] * 30)
    first, second, other = (sample(images, 5, seed=seed)[0].tolist() for seed in (1, 1, 2))
    assert first == second != other
    assert len(set(first)) == 5


def test_a_sample_of_nothing_readable_is_refused():
    with pytest.raises(
        DataError, match=r"must hold readable images, but of 1 drawn none is: 1 corrupt image skipped"
    ):
        sample(encoded_records([b"no image"]), 3, seed=0)


def test_a_sample_of_stored_images_is_drawn_without_decoding():
    index, notes = sample(load_records(DIGITS, "test"), 7, seed=0)
    assert (len(index), notes) == (7, ())


@pytest.mark.parametrize("seed", [0, 7, -3, 2**40 + 5])
@pytest.mark.parametrize("count", [1, 2, 64, 1000])
def test_a_sample_is_drawn_as_torch_permutes(seed, count):
    records = load_records(DIGITS, "test")
    wanted = torch.randperm(len(records), generator=torch.Generator().manual_seed(seed))[:count]
    assert sample(records, count, seed)[0].tolist() == wanted.tolist()
