import dataclasses
import io
import socket

import numpy as np
import pytest
import torch

from aaexport import data
from aaexport.data import DIGITS_TEST_SHARE, SOURCES, LabelledImages, load_images, normalised, varied
from aaexport.errors import DataError
from aaexport.folder import zoo_models
from aaexport.recipe import Data, Input

DIGITS = zoo_models()["aa_cnn3_digits"].recipe
CIFAR100 = zoo_models()["aa_cnn3_cifar100"].recipe


def with_input(recipe, **changes):
    return dataclasses.replace(recipe, input=dataclasses.replace(recipe.input, **changes))


def with_dataset(recipe, name):
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, dataset=name))


@pytest.fixture(scope="module")
def train_part():
    return load_images(DIGITS, "train")


@pytest.fixture(scope="module")
def test_part():
    return load_images(DIGITS, "test")


def rows(images):
    """Every image with its class, as bytes that can be compared and sorted."""
    return [
        bytes([label, *image.flatten().tolist()]) for image, label in zip(images.images, images.labels, strict=True)
    ]


# Digits


@pytest.mark.parametrize("split", ["train", "test"])
def test_digits_are_labelled_uint8_images_of_one_channel(split):
    images = load_images(DIGITS, split)
    kinds = (images.images.dtype, images.labels.dtype, images.images.shape[1:], images.white)
    assert kinds == (torch.uint8, torch.int64, (1, 8, 8), 16)


@pytest.mark.parametrize("split", ["train", "test"])
def test_digits_have_as_many_labels_as_images(split):
    images = load_images(DIGITS, split)
    assert len(images) == len(images.images) == len(images.labels)


def test_the_two_parts_of_digits_are_those_of_scikit_learn_each_image_once(train_part, test_part):
    sklearn = pytest.importorskip("sklearn.datasets").load_digits()
    wanted = [
        bytes([label, *image.astype(np.uint8)]) for image, label in zip(sklearn.data, sklearn.target, strict=True)
    ]
    assert sorted(rows(train_part) + rows(test_part)) == sorted(wanted)


def test_no_image_of_digits_is_in_both_parts(train_part, test_part):
    assert not set(rows(train_part)) & set(rows(test_part))


@pytest.mark.parametrize("digit", range(10))
def test_the_test_part_of_digits_is_a_fifth_of_every_class(train_part, test_part, digit):
    inside, outside = int((test_part.labels == digit).sum()), int((train_part.labels == digit).sum())
    assert inside == round(DIGITS_TEST_SHARE * (inside + outside))


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_parts_of_digits_are_the_same_at_every_call(split):
    one, other = (load_images(DIGITS, split) for _ in range(2))
    assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)


def test_the_parts_of_digits_are_not_moved_by_the_recipes_seed(test_part):
    reseeded = dataclasses.replace(DIGITS, training=dataclasses.replace(DIGITS.training, seed=7))
    assert torch.equal(load_images(reseeded, "test").images, test_part.images)


def test_digits_without_scikit_learn_say_what_to_install(monkeypatch):
    monkeypatch.setattr(data.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"digits needs scikit-learn; pip install 'aaexport\[digits\]'"):
        load_images(DIGITS, "train")


# Recipes that do not fit their data


def test_an_unknown_data_set_is_refused_with_the_nearest_name():
    with pytest.raises(DataError) as refusal:
        load_images(with_dataset(DIGITS, "digit"), "train")
    text = "[data] dataset must be a known data set, got 'digit'; did you mean 'digits'?"
    assert str(refusal.value) == text


@pytest.mark.parametrize("changes", [{"height": 9}, {"width": 7}], ids=["height", "width"])
def test_a_recipe_of_another_size_is_refused_with_both_sizes(changes):
    recipe = with_input(DIGITS, **changes)
    with pytest.raises(DataError) as refusal:
        load_images(recipe, "train")
    text = f"[input] channels, height and width must be those of digits, (1, 8, 8), got {recipe.input.shape}"
    assert str(refusal.value) == text


def test_a_recipe_of_other_channels_is_refused_with_both_sizes():
    recipe = with_input(DIGITS, channels=3, mean=(0.0,) * 3, std=(1.0,) * 3)
    with pytest.raises(DataError, match=r"must be those of digits, \(1, 8, 8\), got \(3, 8, 8\)"):
        load_images(recipe, "train")


@pytest.mark.parametrize("count", [9, 11])
def test_a_recipe_of_other_classes_is_refused_with_both_numbers(count):
    recipe = with_input(DIGITS, labels=tuple(map(str, range(count))))
    with pytest.raises(DataError, match=rf"\[input\] labels must name the 10 classes of digits, got '?{count} names"):
        load_images(recipe, "train")


# Normalisation

PIXELS = LabelledImages(
    torch.tensor([[[[0, 51]], [[102, 255]]], [[[255, 255]], [[0, 0]]], [[[1, 2]], [[3, 4]]]], dtype=torch.uint8),
    torch.tensor([0, 1, 0]),
    white=255,
)
IMAGE = Input(channels=2, height=1, width=2, mean=(0.5, 0.25), std=(0.5, 0.1), labels=("a", "b"))


def test_normalised_pixels_are_shares_of_white_less_the_mean_by_the_deviation():
    wanted = torch.tensor([[[(0 - 0.5) / 0.5, (0.2 - 0.5) / 0.5]], [[(0.4 - 0.25) / 0.1, (1 - 0.25) / 0.1]]])
    torch.testing.assert_close(normalised(PIXELS, IMAGE)[0], wanted)


def test_normalised_images_at_an_index_are_those_images():
    index = torch.tensor([2, 0])
    assert torch.equal(normalised(PIXELS, IMAGE, index), normalised(PIXELS, IMAGE)[index])


def test_normalised_images_are_float32():
    assert normalised(PIXELS, IMAGE).dtype == torch.float32


@pytest.mark.parametrize("quantity", ["mean", "std"])
def test_normalised_digits_have_mean_0_and_deviation_1(train_part, quantity):
    found = getattr(normalised(train_part, DIGITS.input), quantity)().item()
    assert found == pytest.approx({"mean": 0, "std": 1}[quantity], abs=0.01)


# Variation


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def batch():
    """64 images whose pixels are all different and none zero."""
    return torch.arange(1.0, 64 * 2 * 5 * 4 + 1).reshape(64, 2, 5, 4)


def variation(crop_padding, flip):
    return Data(dataset="digits", crop_padding=crop_padding, flip=flip)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("crop_padding", [0, 1, 4])
def test_variation_keeps_shape_and_type(batch, crop_padding, flip):
    out = varied(batch, variation(crop_padding, flip), generator())
    assert (out.shape, out.dtype) == (batch.shape, batch.dtype)


def test_no_padding_and_no_flip_change_nothing(batch):
    assert torch.equal(varied(batch, variation(0, False), generator()), batch)


def test_a_flip_mirrors_images_or_leaves_them(batch):
    out = varied(batch, variation(0, True), generator())
    mirrored = [torch.equal(after, before.flip(-1)) for before, after in zip(batch, out, strict=True)]
    left = [torch.equal(after, before) for before, after in zip(batch, out, strict=True)]
    assert all(one != other for one, other in zip(mirrored, left, strict=True))


def test_about_half_of_the_images_are_flipped():
    batch = torch.arange(4000.0).reshape(2000, 1, 1, 2)
    share = (varied(batch, variation(0, True), generator()) != batch)[:, 0, 0, 0].float().mean().item()
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
    out = varied(batch, variation(2, False), generator())
    for before, after in zip(batch, out, strict=True):
        assert after.numpy().tobytes() in crops(before.numpy(), 2)


def test_crops_take_every_place_of_the_window():
    batch = torch.arange(1.0, 13).reshape(1, 1, 4, 3).expand(400, 1, 4, 3)
    out = varied(batch, variation(1, False), generator())
    places = crops(batch[0].numpy(), 1)
    assert {places[image.numpy().tobytes()] for image in out} == set(places.values())


def test_variation_is_decided_by_the_generator(batch):
    one, other = (varied(batch, variation(2, True), generator(3)) for _ in range(2))
    assert torch.equal(one, other)


def test_variation_differs_with_the_generator(batch):
    one, other = (varied(batch, variation(2, True), generator(seed)) for seed in (3, 4))
    assert not torch.equal(one, other)


def test_variation_leaves_the_batch_and_the_global_randomness_alone(batch):
    before, state = batch.clone(), torch.get_rng_state()
    varied(batch, variation(2, True), generator())
    assert torch.equal(batch, before) and torch.equal(torch.get_rng_state(), state)


# Data sets of the Hugging Face hub


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    """Hugging Face datasets with an empty cache."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    module = pytest.importorskip("datasets")
    constants = pytest.importorskip("huggingface_hub.constants")
    # Both read the environment when they are first imported, which may have been before this test.
    monkeypatch.setattr(module.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub" / "hub"))
    return module


@pytest.fixture
def connections(monkeypatch):
    """Cuts the network off and lists what wanted to use it."""
    wanted = []

    def refuse(*address, **_):
        wanted.append(address)
        raise OSError("the network is cut off")

    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    return wanted


def test_an_empty_cache_is_refused_with_the_remedy(datasets, connections):
    with pytest.raises(DataError) as refusal:
        load_images(CIFAR100, "train")
    remedy = "fetch it once with `aaexport train MODEL --download`"
    text = str(refusal.value)
    assert text.startswith("the data set uoft-cs/cifar100 is not in the local cache (")
    assert text.endswith(f"; {remedy}")


def test_without_download_the_network_is_never_asked(datasets, connections):
    with pytest.raises(DataError):
        load_images(CIFAR100, "train")
    assert connections == []


def test_reading_the_cache_leaves_the_hubs_client_as_it_was(datasets, connections):
    import huggingface_hub.constants

    def settings():
        return huggingface_hub.constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE

    before = settings()
    with pytest.raises(DataError):
        load_images(CIFAR100, "train")
    assert settings() == before


@pytest.mark.parametrize(("download", "offline"), [(False, True), (True, False)])
def test_the_hubs_client_is_offline_unless_a_download_is_asked_for(datasets, monkeypatch, download, offline):
    seen = []
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: seen.append(datasets.config.HF_HUB_OFFLINE))
    with pytest.raises(DataError):
        load_images(CIFAR100, "train", download=download)
    assert seen == [offline]


def test_a_failed_download_is_refused_with_its_cause(datasets, monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("the hub is down\nand more")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError) as refusal:
        load_images(CIFAR100, "train", download=True)
    assert str(refusal.value) == "the data set uoft-cs/cifar100 cannot be fetched: the hub is down"


@pytest.fixture
def hub(datasets, monkeypatch, rng):
    """A hub that holds 200 random images of 100 classes, encoded as PNG as in its parquet files."""
    image = pytest.importorskip("PIL.Image")
    pixels = rng.integers(0, 256, (200, 32, 32, 3), dtype=np.uint8)
    labels = [number % 100 for number in range(200)]

    def png(array):
        file = io.BytesIO()
        image.fromarray(array).save(file, format="PNG")
        return {"bytes": file.getvalue(), "path": None}

    features = datasets.Features(
        {
            "img": datasets.Image(),
            "fine_label": datasets.ClassLabel(num_classes=100),
            "coarse_label": datasets.ClassLabel(num_classes=20),
            "label": datasets.ClassLabel(num_classes=100),
        }
    )
    columns = {
        "img": [png(array) for array in pixels],
        "fine_label": labels,
        "coarse_label": [label % 20 for label in labels],
        "label": labels,
    }
    rows = datasets.Dataset.from_dict(columns, features=features)
    asked = []

    def load_dataset(repository, *, split):
        asked.append((repository, split))
        return rows

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return pixels, labels, asked


def test_a_hub_data_set_is_labelled_uint8_images_channels_first(hub):
    pixels, labels, _ = hub
    images = load_images(CIFAR100, "train")
    assert (images.images.dtype, images.white) == (torch.uint8, 255)
    assert np.array_equal(images.images.numpy(), pixels.transpose(0, 3, 1, 2))
    assert images.labels.tolist() == labels


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_hub_data_set_is_asked_for_by_repository_and_part(hub, split):
    load_images(CIFAR100, split)
    assert hub[2] == [("uoft-cs/cifar100", split)]


def test_cifar10_reads_its_own_repository_and_column(hub):
    images = SOURCES["cifar10"].read("test", False)
    assert (images.labels.tolist(), hub[2]) == (hub[1], [("uoft-cs/cifar10", "test")])
