import dataclasses
import math

import numpy as np
import pytest
import torch
from data_sets import CIFAR100, DIGITS, of_features, with_data, with_input

from aaexport.data import SOURCES, digits, load_images, synthetic
from aaexport.errors import DataError
from aaexport.recipe.data_sets import DATA_SETS, KEYS


@pytest.fixture(scope="module")
def train_part():
    return load_images(DIGITS, "train")


@pytest.fixture(scope="module")
def test_part():
    return load_images(DIGITS, "test")


def rows(images):
    """Every image with its class, as bytes that can be compared and sorted."""
    return [
        bytes([label, *image.flatten().tolist()]) for image, label in zip(images.pixels, images.labels, strict=True)
    ]


# Digits


@pytest.mark.parametrize("split", ["train", "test"])
def test_digits_are_labelled_uint8_images_of_one_channel(split):
    images = load_images(DIGITS, split)
    kinds = (images.pixels.dtype, images.labels.dtype, images.pixels.shape[1:], images.white)
    assert kinds == (torch.uint8, torch.int64, (1, 8, 8), 16)


@pytest.mark.parametrize("split", ["train", "test"])
def test_digits_have_as_many_labels_as_images(split):
    images = load_images(DIGITS, split)
    assert len(images) == len(images.pixels) == len(images.labels)


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
    assert inside == round(digits.DIGITS_TEST_SHARE * (inside + outside))


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_parts_of_digits_are_the_same_at_every_call(split):
    one, other = (load_images(DIGITS, split) for _ in range(2))
    assert torch.equal(one.pixels, other.pixels) and torch.equal(one.labels, other.labels)


def test_the_parts_of_digits_are_not_moved_by_the_recipes_seed(test_part):
    reseeded = dataclasses.replace(DIGITS, training=dataclasses.replace(DIGITS.training, seed=7))
    assert torch.equal(load_images(reseeded, "test").pixels, test_part.pixels)


def test_digits_without_scikit_learn_say_what_to_install(monkeypatch):
    monkeypatch.setattr(digits.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"digits needs scikit-learn; pip install 'aaexport\[digits\]'"):
        load_images(DIGITS, "train")


def test_digits_of_their_own_size_come_without_notes(train_part):
    assert train_part.notes == ()


def test_digits_for_another_input_size_say_that_they_are_resized():
    images = load_images(with_input(DIGITS, height=12, width=16), "test")
    assert images.notes == ("images are resized from 8×8 to 12×16",)


# Recipes that do not fit their data


def test_an_unknown_data_set_is_refused_with_the_nearest_name():
    with pytest.raises(DataError) as refusal:
        load_images(with_data(DIGITS, dataset="digit"), "train")
    rule = "be a known data set, or owner/name of one on the Hugging Face hub"
    assert str(refusal.value) == f"[data] dataset must {rule}, got 'digit'; did you mean 'digits'?"


@pytest.mark.parametrize("name", ["a/b/c", "/digits", "digits/", "/"])
def test_a_name_with_a_slash_is_a_hub_repository_only_with_one_owner_and_one_name(name):
    with pytest.raises(DataError, match=r"\[data\] dataset must be a known data set"):
        load_images(with_data(DIGITS, dataset=name), "train")


def test_a_recipe_of_other_channels_is_refused_with_both_numbers():
    recipe = with_input(DIGITS, channels=3, mean=(0.0,) * 3, std=(1.0,) * 3)
    with pytest.raises(DataError) as refusal:
        load_images(recipe, "train")
    assert str(refusal.value) == "[input] channels must be 1 for digits, got 3"


@pytest.mark.parametrize("labels", [9, 11, tuple("abc")])
def test_a_recipe_of_other_classes_is_refused_with_both_numbers(labels):
    recipe = with_input(DIGITS, labels=labels)
    with pytest.raises(DataError) as refusal:
        load_images(recipe, "train")
    rule = "[input] labels must name or count the 10 classes of digits"
    assert str(refusal.value) == f"{rule}, got {recipe.input.classes}"


def test_a_recipe_that_counts_its_classes_is_as_good_as_one_that_names_them(test_part):
    assert torch.equal(load_images(with_input(DIGITS, labels=10), "test").labels, test_part.labels)


def test_a_recipe_without_a_classifier_may_use_images_of_any_classes(test_part):
    assert torch.equal(load_images(of_features(DIGITS), "test").pixels, test_part.pixels)


@pytest.mark.parametrize("key", ["path", "label_column", "test_split"])
def test_a_key_that_the_data_set_has_no_use_for_is_refused(key):
    with pytest.raises(DataError) as refusal:
        load_images(with_data(DIGITS, **{key: "something"}), "train")
    assert str(refusal.value) == f"[data] {key} must be left out for digits, got 'something'"


# Synthetic images


SYNTHETIC = with_data(CIFAR100, dataset="synthetic")


@pytest.mark.parametrize("split", ["train", "test"])
def test_synthetic_images_are_of_the_recipes_shape_and_classes(split):
    images = load_images(SYNTHETIC, split)
    assert images.pixels.shape == (synthetic.MOST_IMAGES, *SYNTHETIC.input.shape)
    assert images.labels.min() >= 0 and images.labels.max() < SYNTHETIC.input.classes


@pytest.mark.parametrize("part", ["pixels", "labels"])
def test_synthetic_images_are_the_same_at_every_call(part):
    one, other = (getattr(load_images(SYNTHETIC, "train"), part) for _ in range(2))
    assert torch.equal(one, other)


@pytest.mark.parametrize("part", ["pixels", "labels"])
def test_synthetic_images_to_train_on_are_others_than_those_to_test_on(part):
    train, test = (getattr(load_images(SYNTHETIC, split), part) for split in ("train", "test"))
    assert not torch.equal(train, test)


def test_large_synthetic_images_are_fewer(monkeypatch):
    monkeypatch.setattr(synthetic, "MOST_BYTES", 7 * math.prod(SYNTHETIC.input.shape))
    assert len(load_images(SYNTHETIC, "train")) == 7


def test_a_recipe_without_a_classifier_may_use_synthetic_images():
    assert len(load_images(of_features(SYNTHETIC), "train")) == synthetic.MOST_IMAGES


# The registry


def test_the_named_data_sets_are_these():
    assert list(SOURCES) == ["digits", "cifar10", "cifar100", "mnist", "imagenet", "imagefolder", "synthetic"]


def test_the_recipe_has_a_word_for_every_named_data_set():
    assert list(DATA_SETS) == list(SOURCES) == list(KEYS)


@pytest.mark.parametrize("name", SOURCES)
def test_every_named_data_set_is_described(name):
    assert SOURCES[name].description
    assert SOURCES[name].description == DATA_SETS[name]
