import dataclasses
import os
import pickle
import signal

import numpy as np
import pytest
import torch
from data_sets import DIGITS, Encoded, decoded_images, encoded, for_pictures, with_data, with_input

from aaexport.data import StoredImages, batches, epoch_draws, evaluation_batch, load_images
from aaexport.errors import DataError

pytest.importorskip("PIL.Image")
CONTENTS = [
    encoded(np.random.default_rng(seed).integers(0, 256, (10 + seed, 14 - seed, 3), dtype=np.uint8))
    for seed in range(6)
]
VARIED = {"crop_padding": 2, "flip": True}
RESIZED = {"random_resized_crop": True, "flip": True}


@pytest.fixture
def pictures():
    """Six encoded images of six sizes; image i is of class i."""
    return decoded_images(CONTENTS)


@pytest.fixture(scope="module")
def digits():
    return load_images(DIGITS, "train")


def all_batches(images, recipe, size, draws=None):
    """The batches of all images in order, and their labels, each put together."""
    parts = list(batches(images, recipe, torch.arange(len(images)).split(size), draws=draws))
    return torch.cat([part for part, _ in parts]), torch.cat([labels for _, labels in parts])


# The evaluation view


def test_evaluated_digits_are_their_pixels_normalised_bit_for_bit(digits):
    image = DIGITS.input
    wanted = (digits.pixels.to(torch.float32) / 16 - torch.tensor(image.mean)) / torch.tensor(image.std)
    assert torch.equal(evaluation_batch(digits, DIGITS), wanted)


@pytest.mark.parametrize("quantity", ["mean", "std"])
def test_evaluated_digits_have_mean_0_and_deviation_1(digits, quantity):
    found = getattr(evaluation_batch(digits, DIGITS), quantity)().item()
    assert found == pytest.approx({"mean": 0, "std": 1}[quantity], abs=0.01)


def test_evaluated_images_at_an_index_are_those_images(digits):
    index = torch.tensor([2, 0])
    assert torch.equal(evaluation_batch(digits, DIGITS, index), evaluation_batch(digits, DIGITS)[index])


def test_evaluated_images_have_the_recipes_size(digits):
    recipe = with_input(DIGITS, height=12, width=20)
    assert evaluation_batch(digits, recipe, torch.arange(3)).shape == (3, 1, 12, 20)


def test_evaluation_keeps_the_aspect_ratio_and_the_centre():
    pixels = torch.zeros(1, 3, 4, 8, dtype=torch.uint8)
    pixels[..., 2:6] = 255
    images = StoredImages(pixels, torch.tensor([0]), white=255)
    assert torch.equal(evaluation_batch(images, for_pictures((8, 8))), torch.ones(1, 3, 8, 8))


def test_evaluation_keeps_the_central_share_of_the_sides():
    pixels = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    pixels[..., 4:12, 4:12] = 255
    images = StoredImages(pixels, torch.tensor([0]), white=255)
    assert torch.equal(evaluation_batch(images, for_pictures((16, 16), crop_share=0.5)), torch.ones(1, 3, 16, 16))


def test_shrinking_averages_rather_than_picks_pixels():
    pixels = (torch.arange(64) % 2 * 255).to(torch.uint8).expand(1, 3, 64, 64).contiguous()
    images = StoredImages(pixels, torch.tensor([0]), white=255)
    inner = evaluation_batch(images, for_pictures((8, 8)))[..., 1:-1]
    torch.testing.assert_close(inner, torch.full_like(inner, 0.5), atol=0.01, rtol=0)


def test_images_from_memory_and_from_files_are_the_same_to_a_shade():
    arrays = np.random.default_rng(0).integers(0, 256, (3, 20, 24, 3), dtype=np.uint8)
    stored = StoredImages(torch.from_numpy(arrays).permute(0, 3, 1, 2), torch.arange(3), white=255)
    decoded = decoded_images(map(encoded, arrays))
    recipe = for_pictures((9, 11), crop_share=0.9)
    torch.testing.assert_close(
        evaluation_batch(decoded, recipe), evaluation_batch(stored, recipe), atol=1.5 / 255, rtol=0
    )


# Draws


def test_draws_are_decided_by_the_seed(digits):
    assert torch.equal(epoch_draws(digits, 3), epoch_draws(digits, 3))


def test_draws_differ_with_the_seed(digits):
    assert not torch.equal(epoch_draws(digits, 3), epoch_draws(digits, 4))


def test_every_image_has_draws_of_its_own(digits):
    assert len(epoch_draws(digits, 0).unique(dim=0)) == len(digits)


# Batches


@pytest.mark.parametrize("view", [VARIED, RESIZED], ids=["padded crop", "resized crop"])
def test_what_happens_to_a_stored_image_does_not_depend_on_its_batch(digits, view):
    recipe, draws = with_data(DIGITS, **{"crop_padding": 0, **view}), epoch_draws(digits, 0)
    one, other = (all_batches(digits, recipe, size, draws)[0] for size in (100, 333))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


@pytest.mark.parametrize("view", [VARIED, RESIZED], ids=["padded crop", "resized crop"])
def test_what_happens_to_a_decoded_image_does_not_depend_on_its_batch(pictures, view):
    recipe, draws = for_pictures(classes=6, **view), epoch_draws(pictures, 0)
    one, other = (all_batches(pictures, recipe, size, draws)[0] for size in (2, 5))
    assert torch.equal(one, other)


def test_batches_for_evaluation_are_the_evaluation_view(pictures):
    recipe = for_pictures(classes=6, **VARIED)
    assert torch.equal(all_batches(pictures, recipe, 4)[0], evaluation_batch(pictures, recipe))


def test_batches_of_stored_images_for_evaluation_are_the_evaluation_view(digits):
    assert torch.equal(all_batches(digits, DIGITS, 500)[0], evaluation_batch(digits, DIGITS))


def test_batches_keep_the_order_of_the_indices(pictures):
    recipe, index = for_pictures(classes=6), torch.tensor([5, 0, 3])
    (first, labels), (second, _) = batches(pictures, recipe, [index, torch.tensor([1])])
    assert labels.tolist() == [5, 0, 3]
    assert torch.equal(torch.cat((first, second)), evaluation_batch(pictures, recipe, torch.tensor([5, 0, 3, 1])))


def test_a_training_view_from_files_is_the_one_from_memory():
    arrays = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    stored = StoredImages(torch.from_numpy(arrays).permute(0, 3, 1, 2), torch.arange(5), white=255)
    decoded, recipe = decoded_images(map(encoded, arrays)), for_pictures(**VARIED)
    draws = epoch_draws(stored, 0)
    assert torch.equal(all_batches(decoded, recipe, 2, draws)[0], all_batches(stored, recipe, 2, draws)[0])


def test_a_resized_crop_from_files_is_the_one_from_memory_to_a_shade():
    arrays = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    stored = StoredImages(torch.from_numpy(arrays).permute(0, 3, 1, 2), torch.arange(5), white=255)
    decoded, recipe = decoded_images(map(encoded, arrays)), for_pictures(**RESIZED)
    draws = epoch_draws(stored, 0)
    one, other = (all_batches(images, recipe, 2, draws)[0] for images in (decoded, stored))
    torch.testing.assert_close(one, other, atol=1.5 / 255, rtol=0)


def test_evaluation_does_not_crop_at_random(pictures):
    plain, resized = for_pictures(classes=6), for_pictures(classes=6, **RESIZED)
    assert torch.equal(evaluation_batch(pictures, resized), evaluation_batch(pictures, plain))


@pytest.mark.parametrize("images", ["pictures", "digits"])
def test_loading_leaves_the_global_randomness_alone(images, request):
    chosen = request.getfixturevalue(images)
    recipe = for_pictures(classes=6, **VARIED) if images == "pictures" else DIGITS
    state = torch.get_rng_state()
    all_batches(chosen, recipe, 400, epoch_draws(chosen, 0))
    assert torch.equal(torch.get_rng_state(), state)


def test_no_indices_are_no_batches(pictures):
    assert list(batches(pictures, for_pictures(classes=6), [])) == []


def test_stored_images_are_copied_to_a_device_once(digits):
    meta = torch.device("meta")
    assert digits.on(meta) is digits.on(meta)


@pytest.mark.cuda
@pytest.mark.parametrize("view", [VARIED, RESIZED], ids=["padded crop", "resized crop"])
@pytest.mark.parametrize("kind", ["stored", "decoded"])
def test_batches_on_a_gpu_are_those_on_the_cpu(torch_cuda, kind, view):
    arrays = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    stored = StoredImages(torch.from_numpy(arrays).permute(0, 3, 1, 2), torch.arange(5), white=255)
    images = stored if kind == "stored" else decoded_images(map(encoded, arrays))
    recipe, draws, indices = for_pictures(**view), epoch_draws(images, 0), torch.arange(5).split(2)
    here = torch.cat([batch for batch, _ in batches(images, recipe, indices, draws=draws)])
    there = [batch for batch, _ in batches(images, recipe, indices, draws=draws, device=torch.device(torch_cuda))]
    torch.testing.assert_close(torch.cat(there).cpu(), here, atol=1e-4, rtol=0)


# Worker processes


def test_decoded_images_can_be_sent_to_a_worker(pictures):
    copy = pickle.loads(pickle.dumps(pictures))
    recipe = for_pictures(classes=6)
    assert torch.equal(evaluation_batch(copy, recipe), evaluation_batch(pictures, recipe))


def test_an_error_in_a_worker_is_the_one_line_of_the_image(pictures):
    broken = decoded_images([*CONTENTS[:2], CONTENTS[2][:60]])
    with pytest.raises(DataError) as refusal:
        all_batches(broken, for_pictures(), 2)
    text = str(refusal.value)
    assert text.startswith("image 2 must be a readable image, but: ") and "\n" not in text


def test_batches_before_a_broken_image_are_good():
    broken = decoded_images([*CONTENTS[:2], b"nothing"])
    first, _ = next(batches(broken, for_pictures(), torch.arange(3).split(2)))
    assert len(first) == 2


@dataclasses.dataclass(frozen=True)
class Deadly(Encoded):
    """Files that end the worker which reads them, as the system does when memory runs out."""

    def content(self, number):
        assert torch.utils.data.get_worker_info() is not None
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_is_reported_in_one_line(pictures):
    images = dataclasses.replace(pictures, files=Deadly(tuple(CONTENTS)))
    with pytest.raises(DataError, match=r"^a process that decodes images died: DataLoader worker .*"):
        all_batches(images, for_pictures(classes=6), 6)


# The training view


def test_training_crops_are_not_cut_to_the_evaluations_share():
    """With draws, a padded crop sees the whole image; `crop_share` belongs to the evaluation."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[0, 0] = 255
    recipe = for_pictures(crop_share=0.5, crop_padding=0)
    images = decoded_images([encoded(pixels)])
    index = torch.tensor([0])
    ((trained, _),) = batches(images, recipe, [index], draws=epoch_draws(images, 0))
    assert float(trained.max()) == 1.0
    assert float(evaluation_batch(images, recipe, index).max()) == 0.0
