import shutil
import socket
import sys

import numpy as np
import pytest
import torch
from data_sets import CIFAR100, encoded, for_pictures, of_features, with_data, with_input

from aaexport.data import DecodedImages, StoredImages, evaluation_batch, hub, load_images
from aaexport.errors import DataError

pytest.importorskip("PIL.Image")


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    """Hugging Face datasets with an empty cache, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
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


def pixels_of(count, size=(8, 8)):
    return np.random.default_rng(count).integers(0, 256, (count, *size, 3), dtype=np.uint8)


PARTS = {"train": pixels_of(6), "test": pixels_of(4)}


@pytest.fixture
def repository(datasets, tmp_path):
    """Writes a data set where `load_dataset` finds it: as parquet files, like a repository of the hub."""

    def write(name="owner/name", parts=PARTS, **columns):
        """`columns` gives the features beside the image; each holds 0, 1, 2 … up to its number of classes."""
        columns = columns or {"label": datasets.ClassLabel(names=["cat", "dog"])}
        features = datasets.Features({"picture": datasets.Image(), **columns})
        for part, pixels in parts.items():
            values = {"picture": [_cell(image) for image in pixels]}
            for column, kind in columns.items():
                classes = getattr(kind, "num_classes", 2)
                values[column] = [number % classes for number in range(len(pixels))]
            path = tmp_path / name / f"{part}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            datasets.Dataset.from_dict(values, features=features).to_parquet(path)

    return write


def _cell(image):
    return {"bytes": image if isinstance(image, bytes) else encoded(image), "path": None}


RECIPE = for_pictures(dataset="owner/name")


def refusal_of(recipe, split="train", **options):
    with pytest.raises(DataError) as refusal:
        load_images(recipe, split, **options)
    return str(refusal.value)


# The network and the cache


def test_an_empty_cache_is_refused_with_the_remedy(datasets, connections):
    text = refusal_of(CIFAR100)
    assert text.startswith("the data set uoft-cs/cifar100 is not in the local cache (")
    assert text.endswith("; fetch it once with `aaexport train MODEL --download`")


def test_without_download_the_network_is_never_asked(datasets, connections):
    refusal_of(CIFAR100)
    assert connections == []


def test_a_data_set_in_the_cache_is_read_without_the_network(datasets, repository, connections, tmp_path):
    repository("owner/built")
    builder = datasets.load_dataset_builder("owner/built")
    builder.download_and_prepare()
    # What the hub's client leaves behind: the parts under the repository's name, whose files are named after it.
    cached = tmp_path / "datasets" / "owner___name" / "default" / "0.0.0" / "0123456789abcdef"
    shutil.copytree(builder.cache_dir, cached)
    for path in cached.glob("*.arrow"):
        path.rename(cached / path.name.replace("built-", "name-"))
    assert len(load_images(RECIPE, "train")) == 6 and connections == []


def test_reading_the_cache_leaves_the_hubs_client_as_it_was(datasets, connections):
    import huggingface_hub.constants

    def settings():
        verbosity = datasets.utils.logging.get_verbosity()
        return huggingface_hub.constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE, verbosity

    datasets.utils.logging.set_verbosity_warning()
    before = settings()
    refusal_of(CIFAR100)
    assert settings() == before


@pytest.mark.parametrize(("download", "offline"), [(False, True), (True, False)])
def test_the_hubs_client_is_offline_unless_a_download_is_asked_for(datasets, monkeypatch, download, offline):
    seen = []

    def look(_):
        seen.append(datasets.config.HF_HUB_OFFLINE)
        raise ConnectionError

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets, "load_dataset", look)
    refusal_of(CIFAR100, download=download)
    assert seen == [offline]


def test_a_failed_download_is_refused_with_its_cause(datasets, monkeypatch):
    def fail(_):
        raise ConnectionError("the hub is down\nand more")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    text = "the data set uoft-cs/cifar100 cannot be fetched: the hub is down"
    assert refusal_of(CIFAR100, download=True) == text


def test_a_hub_data_set_without_its_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    text = "the data set owner/name needs Hugging Face datasets; pip install 'aaexport[datasets]'"
    assert refusal_of(RECIPE) == text


def test_a_hub_data_set_without_pillow_says_what_to_install(repository, monkeypatch):
    repository()
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    assert refusal_of(RECIPE) == "the data set owner/name needs Pillow; pip install 'aaexport[datasets]'"


# What is read


def test_images_of_one_size_are_stored_as_they_were_recorded(repository):
    repository()
    images = load_images(RECIPE, "train")
    assert (images.pixels.dtype, images.white) == (torch.uint8, 255)
    assert np.array_equal(images.pixels.numpy(), PARTS["train"].transpose(0, 3, 1, 2))


def test_the_labels_are_those_of_the_rows(repository):
    repository()
    assert load_images(RECIPE, "train").labels.tolist() == [0, 1, 0, 1, 0, 1]


def test_the_test_part_is_the_one_called_test(repository):
    repository()
    assert len(load_images(RECIPE, "test")) == 4


def test_another_part_can_be_the_test_part(repository):
    repository(parts={"train": PARTS["train"], "validation": PARTS["test"], "test": pixels_of(2)})
    assert len(load_images(with_data(RECIPE, test_split="validation"), "test")) == 4


def test_a_gray_recipe_reads_gray_images(repository):
    repository()
    recipe = for_pictures(channels=1, dataset="owner/name")
    assert load_images(recipe, "train").pixels.shape == (6, 1, 8, 8)


def test_too_many_images_for_memory_are_decoded_when_they_are_needed(repository, monkeypatch):
    repository()
    stored = load_images(RECIPE, "train")
    monkeypatch.setattr(hub, "MOST_BYTES_IN_MEMORY", 6 * 3 * 8 * 8 - 1)
    decoded = load_images(RECIPE, "train")
    assert isinstance(stored, StoredImages) and isinstance(decoded, DecodedImages)
    assert torch.equal(evaluation_batch(decoded, RECIPE), evaluation_batch(stored, RECIPE))


def test_images_of_several_sizes_are_decoded_when_they_are_needed(repository):
    repository(parts={"train": [*pixels_of(2), *pixels_of(2, (9, 7))]})
    images = load_images(RECIPE, "train")
    assert isinstance(images, DecodedImages) and len(images) == 4


# The named data sets


@pytest.mark.parametrize(
    ("name", "stands_for", "columns", "test_part"),
    [
        ("cifar10", "uoft-cs/cifar10", ("label",), "test"),
        ("cifar100", "uoft-cs/cifar100", ("coarse_label", "fine_label"), "test"),
        ("mnist", "ylecun/mnist", ("label",), "test"),
        ("imagenet", "ILSVRC/imagenet-1k", ("label",), "validation"),
    ],
)
def test_a_named_data_set_is_its_repository(datasets, repository, name, stands_for, columns, test_part):
    kinds = {column: datasets.ClassLabel(num_classes=2 + place) for place, column in enumerate(columns)}
    unlabelled = {"test": pixels_of(1)} if test_part != "test" else {}
    repository(stands_for, {"train": PARTS["train"], test_part: PARTS["test"], **unlabelled}, **kinds)
    recipe = for_pictures(classes=1 + len(columns), dataset=name)
    assert len(load_images(recipe, "test")) == 4


def test_the_recipe_can_choose_the_other_labels_of_cifar100(datasets, repository):
    kinds = {"coarse_label": datasets.ClassLabel(num_classes=2), "fine_label": datasets.ClassLabel(num_classes=5)}
    repository("uoft-cs/cifar100", **kinds)
    recipe = for_pictures(dataset="cifar100", label_column="coarse_label")
    assert load_images(recipe, "train").labels.tolist() == [0, 1, 0, 1, 0, 1]


# What is refused


def test_a_part_that_is_not_there_is_refused_with_those_there_are(repository):
    repository()
    text = refusal_of(with_data(RECIPE, test_split="val"), "test")
    wanted = (
        "the data set owner/name must have a part 'val', got train, test; name another part with [data] test_split"
    )
    assert text == wanted


def test_a_count_of_classes_that_contradicts_the_data_set_is_refused_with_both_numbers(repository):
    repository()
    text = "[input] labels must name or count the 2 classes of owner/name, got 3"
    assert refusal_of(with_input(RECIPE, labels=3)) == text


def test_a_choice_of_label_columns_must_be_made(datasets, repository):
    repository(fine=datasets.ClassLabel(num_classes=2), coarse=datasets.ClassLabel(num_classes=2))
    text = "[data] label_column must choose between the label columns of owner/name: fine, coarse"
    assert refusal_of(RECIPE) == text


def test_the_label_column_that_the_recipe_names_is_read(datasets, repository):
    repository(fine=datasets.ClassLabel(num_classes=3), coarse=datasets.ClassLabel(num_classes=2))
    images = load_images(with_input(with_data(RECIPE, label_column="fine"), labels=3), "train")
    assert images.labels.tolist() == [0, 1, 2, 0, 1, 2]


def test_a_label_column_that_is_not_there_is_refused_with_the_nearest(repository):
    repository()
    text = "[data] label_column must be a column of the data set, got 'lable'; did you mean 'label'?"
    assert refusal_of(with_data(RECIPE, label_column="lable")) == text


def test_a_column_of_pictures_cannot_be_the_labels(repository):
    repository()
    text = "[data] label_column must hold classes or whole numbers, got 'picture'"
    assert refusal_of(with_data(RECIPE, label_column="picture")) == text


def test_plain_numbers_are_labels_only_if_the_recipe_says_so(datasets, repository):
    repository(number=datasets.Value("int32"))
    text = "[data] label_column must name a column of owner/name: none holds classes; its columns: picture, number"
    assert refusal_of(RECIPE) == text


def test_plain_numbers_that_the_recipe_names_are_labels(datasets, repository):
    repository(number=datasets.Value("int32"))
    images = load_images(with_data(RECIPE, label_column="number"), "train")
    assert images.labels.tolist() == [0, 1, 0, 1, 0, 1]


def test_plain_numbers_beyond_the_recipes_classes_are_refused(datasets, repository):
    repository(number=datasets.Value("int32"))
    recipe = with_input(with_data(RECIPE, label_column="number"), labels=3)
    assert refusal_of(recipe) == "[input] labels must name or count the 2 classes of owner/name, got 3"


def test_a_part_without_labels_is_refused(datasets, repository, tmp_path):
    repository()
    features = datasets.Features({"picture": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    rows = datasets.Dataset.from_dict({"picture": [_cell(PARTS["test"][0])], "label": [-1]}, features=features)
    rows.to_parquet(tmp_path / "owner" / "name" / "test.parquet")
    remedy = "name a labelled part with [data] test_split"
    assert refusal_of(RECIPE, "test") == f"labels in column label must be from 0 to 1, got -1; {remedy}"


def test_a_row_without_a_label_is_named(datasets, repository, tmp_path):
    repository()
    features = datasets.Features({"picture": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    cells = {"picture": [_cell(image) for image in PARTS["test"][:2]], "label": [1, None]}
    datasets.Dataset.from_dict(cells, features=features).to_parquet(tmp_path / "owner" / "name" / "test.parquet")
    assert refusal_of(RECIPE, "test") == "the labels in column label must all be there, got none in row 1"


def test_a_recipe_without_a_classifier_needs_no_labels(datasets, repository):
    repository(number=datasets.Value("int32"))
    assert load_images(of_features(RECIPE), "test").labels.tolist() == [-1] * 4


def test_two_columns_of_images_are_refused_with_their_names(datasets, repository, tmp_path):
    features = datasets.Features(
        {"left": datasets.Image(), "right": datasets.Image(), "label": datasets.ClassLabel(2)}
    )
    cell = _cell(PARTS["test"][0])
    rows = datasets.Dataset.from_dict({"left": [cell], "right": [cell], "label": [0]}, features=features)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    rows.to_parquet(tmp_path / "owner" / "name" / "train.parquet")
    text = refusal_of(RECIPE)
    assert text.startswith("owner/name train must have one column of images, got left, right")


# Corrupt images


BROKEN = {"train": [*PARTS["train"][:3], encoded(PARTS["train"][3])[:60], *PARTS["train"][4:]]}


def test_a_corrupt_image_is_named_by_its_row(repository):
    repository(parts=BROKEN)
    assert refusal_of(RECIPE).startswith("row 3 of owner/name train must be a readable image, but: ")


def test_a_corrupt_image_can_be_skipped(repository):
    repository(parts=BROKEN)
    images = load_images(RECIPE, "train", skip_bad=True)
    kept = PARTS["train"][[0, 1, 2, 4, 5]].transpose(0, 3, 1, 2)
    assert np.array_equal(images.pixels.numpy(), kept) and images.labels.tolist() == [0, 1, 0, 0, 1]


def test_a_skipped_image_is_named_in_a_note(repository):
    repository(parts=BROKEN)
    notes = load_images(RECIPE, "train", skip_bad=True).notes
    assert notes == ("1 corrupt image skipped: row 3 of owner/name train",)


def test_a_part_that_is_left_with_no_image_is_named(repository):
    repository(parts={"train": [b"nothing"] * 2})
    text = "owner/name train must hold an image that can be decoded, got only corrupt ones"
    assert refusal_of(RECIPE, skip_bad=True) == text
