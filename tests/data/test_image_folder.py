import sys

import numpy as np
import pytest
from data_sets import Encoded, encoded, for_pictures, of_features

from aaexport.data import evaluation_batch, load_images
from aaexport.data.decoding import decoded
from aaexport.errors import DataError

Image = pytest.importorskip("PIL.Image")
FILES = ("train/cat/1.png", "train/cat/2.png", "train/dog/1.png", "test/cat/3.png", "test/dog/2.png")


def write_folder(root, files=FILES):
    """A folder of images, each of another gray, counted from 0 in the order given."""
    for shade, name in enumerate(files):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9), (shade,) * 3).save(path)


@pytest.fixture
def root(tmp_path):
    write_folder(tmp_path / "pictures")
    return tmp_path / "pictures"


def load(root, split="train", *, labels=("cat", "dog"), skip_bad=False, **data):
    return load_images(for_pictures(classes=labels, path=str(root), **data), split, skip_bad=skip_bad)


def refusal_of(*arguments, **options):
    with pytest.raises(DataError) as refusal:
        load(*arguments, **options)
    return str(refusal.value)


def shades(images):
    """The gray of each image, which tells which file it is."""
    recipe = for_pictures()
    return (evaluation_batch(images, recipe)[:, 0, 0, 0] * 255).round().int().tolist()


# What is read


@pytest.mark.parametrize(("split", "wanted"), [("train", [0, 1, 2]), ("test", [3, 4])])
def test_the_images_of_a_part_are_those_in_its_class_folders(root, split, wanted):
    assert shades(load(root, split)) == wanted


def test_the_recipes_labels_number_the_classes(root):
    assert load(root, labels=("dog", "cat")).labels.tolist() == [0, 1, 1]


def test_classes_that_are_only_counted_are_numbered_in_alphabetical_order(root):
    assert load(root, labels=2).labels.tolist() == [0, 0, 1]


def test_a_recipe_without_a_classifier_may_use_a_folder_of_any_classes(root):
    recipe = of_features(for_pictures(path=str(root)))
    assert load_images(recipe, "train").labels.tolist() == [0, 0, 1]


def test_a_recipe_without_a_classifier_may_test_on_other_classes_than_those_to_train_on(root):
    (root / "test" / "cat").rename(root / "test" / "cow")
    assert len(load_images(of_features(for_pictures(path=str(root))), "test")) == 2


def test_a_relative_path_starts_at_the_model_folder(root):
    recipe = for_pictures(classes=("cat", "dog"), path="../pictures")
    model = root.parent / "model"
    model.mkdir()
    assert len(load_images(recipe, "train", base=model)) == 3


def test_another_part_can_be_the_test_part(root):
    (root / "test").rename(root / "val")
    assert shades(load(root, "test", test_split="val")) == [3, 4]


def test_the_test_part_needs_no_train_part(tmp_path):
    write_folder(tmp_path, FILES[3:])
    assert shades(load(tmp_path, "test")) == [0, 1]


@pytest.mark.parametrize("suffix", [".png", ".JPG", ".jpeg", ".bmp", ".webp", ".ppm", ".tif", ".tiff"])
def test_images_are_known_by_their_suffixes(root, suffix):
    Image.new("RGB", (9, 9)).save(root / "train" / "dog" / f"new{suffix}")
    assert len(load(root)) == 4


def test_images_in_folders_inside_a_class_belong_to_it(root):
    write_folder(root, ["train/dog/old/small/4.png"])
    assert load(root).labels.tolist() == [0, 0, 1, 1]


def test_hidden_files_and_folders_are_not_there(root):
    write_folder(root, ["train/.cache/1.png", "train/dog/.old/1.png"])
    (root / "train" / "dog" / ".DS_Store").write_text("")
    images = load(root)
    assert (len(images), images.notes) == (3, ())


def test_files_that_are_no_images_are_counted_in_a_note(root):
    for name in ("a.txt", "b.gif", "c.gif"):
        (root / "train" / "dog" / name).write_text("")
    assert load(root).notes == ("3 files without an image's suffix left out: .gif, .txt",)


# What is refused


def test_a_folder_needs_a_path():
    assert refusal_of("") == "[data] path must name the folder of images for imagefolder, got none"


def test_a_path_that_is_not_there_is_named(root):
    text = f"[data] path must be a folder of images, got '{root}/x'; there is no such folder"
    assert refusal_of(root / "x") == text


def test_a_missing_test_part_is_refused_with_the_parts_there_are(root):
    (root / "test").rename(root / "val")
    wanted = f"{root} must hold a folder test, got train, val; name another part with [data] test_split"
    assert refusal_of(root, "test") == wanted


def test_a_missing_train_part_is_refused_with_what_is_there(root):
    assert refusal_of(root / "train") == f"{root}/train must hold a folder train, got cat, dog"


def test_a_part_without_class_folders_is_refused(tmp_path):
    write_folder(tmp_path, ["train/1.png"])
    assert refusal_of(tmp_path) == f"{tmp_path}/train must hold a folder for each class, got none"


def test_a_label_without_a_folder_is_named(root):
    text = f"{root}/train must hold a folder for each class of [input] labels, but 'cow' is missing"
    assert refusal_of(root, labels=("cat", "cow", "dog")) == text


def test_a_folder_without_a_label_is_named(root):
    write_folder(root, ["train/cow/1.png"])
    assert refusal_of(root) == f"{root}/train must hold the classes of [input] labels only, got 'cow'"


def test_a_count_that_contradicts_the_folder_is_refused_with_both_numbers(root):
    text = "[input] labels must name or count the 2 classes of imagefolder (cat, dog), got 3"
    assert refusal_of(root, labels=3) == text


def test_counted_classes_of_the_test_part_must_be_those_of_the_train_part(root):
    (root / "test" / "cat").rename(root / "test" / "cow")
    text = f"{root}/test must hold a folder for each class of {root}/train, but 'cat' is missing"
    assert refusal_of(root, "test", labels=2) == text


@pytest.mark.parametrize("content", [None, "notes.txt"])
def test_an_empty_class_is_named(root, content):
    (root / "train" / "cow").mkdir()
    if content:
        (root / "train" / "cow" / content).write_text("")
    text = refusal_of(root, labels=("cat", "cow", "dog"))
    assert text.startswith(f"{root}/train/cow must hold images of its class, got none; known suffixes: .png")


def test_a_recipe_must_want_gray_or_colour(root):
    recipe = for_pictures(channels=2, path=str(root))
    with pytest.raises(DataError) as refusal:
        load_images(recipe, "train")
    assert str(refusal.value) == "[input] channels must be 1 or 3 for imagefolder, got 2"


def test_a_folder_without_pillow_says_what_to_install(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    assert refusal_of(root) == "the data set imagefolder needs Pillow; pip install 'aaexport[datasets]'"


# Corrupt images


def truncate(path):
    path.write_bytes(path.read_bytes()[:45])


def test_a_corrupt_image_is_named_when_it_is_met(root):
    truncate(root / "train" / "cat" / "2.png")
    with pytest.raises(DataError) as refusal:
        shades(load(root))
    text = str(refusal.value)
    assert text.startswith(f"{root}/train/cat/2.png must be a readable image, but: ")
    assert text.endswith("; leave such images out with --skip-bad")


def test_a_file_that_is_no_image_is_said_to_be_none(root):
    (root / "train" / "dog" / "1.png").write_text("hello")
    with pytest.raises(DataError, match=r"dog/1\.png must be a readable image, but: Pillow knows no such format;"):
        shades(load(root))


def test_skipped_images_are_not_among_the_others(root):
    truncate(root / "train" / "cat" / "1.png")
    images = load(root, skip_bad=True)
    assert (shades(images), images.labels.tolist()) == ([1, 2], [0, 1])


def test_a_skipped_image_is_named(root):
    truncate(root / "train" / "cat" / "1.png")
    assert load(root, skip_bad=True).notes == (f"1 corrupt image skipped: {root}/train/cat/1.png",)


def test_many_skipped_images_are_counted_and_the_first_three_named(root):
    bad = [root / "train" / "cat" / f"{letter}.png" for letter in "abcde"]
    for path in bad:
        path.write_text("hello")
    note = f"5 corrupt images skipped: {', '.join(map(str, bad[:3]))} and 2 more"
    assert load(root, skip_bad=True).notes == (note,)


def test_whole_images_are_skipped_without_a_note(root):
    assert load(root, skip_bad=True).notes == ()


def test_a_truncated_jpeg_is_skipped(root):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = encoded(noise, "JPEG")
    (root / "train" / "cat" / "a.jpg").write_bytes(content[: len(content) // 2])
    assert len(load(root, skip_bad=True)) == 3


def test_a_class_that_is_left_with_no_image_is_named(root):
    truncate(root / "train" / "dog" / "1.png")
    text = f"{root}/train/dog must hold an image that can be decoded, got only corrupt ones"
    assert refusal_of(root, skip_bad=True) == text


# Kinds of pixels


def pixels_of(image, channels, image_format="PNG", **options):
    return decoded(Encoded((encoded(image, image_format, **options),)), 0, channels)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_images_of_every_mode_become_uint8_of_the_recipes_channels(mode, channels):
    pixels = pixels_of(Image.new(mode, (5, 4)), channels, "TIFF")
    assert (pixels.shape, pixels.dtype) == ((channels, 4, 5), np.uint8)


def test_transparency_is_dropped():
    assert pixels_of(Image.new("RGBA", (1, 1), (10, 20, 30, 0)), 3).flatten().tolist() == [10, 20, 30]


def test_a_palettes_numbers_become_its_colours():
    image = Image.new("P", (1, 1), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    assert pixels_of(image, 3, transparency=b"\x00\x10").flatten().tolist() == [10, 20, 30]


def test_gray_becomes_three_equal_channels():
    assert pixels_of(Image.new("L", (1, 1), 7), 3).flatten().tolist() == [7, 7, 7]


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_sixteen_bits_become_the_upper_eight(image_format):
    values = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    assert pixels_of(values, 1, image_format).flatten().tolist() == [0, 0, 1, 128, 255]


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        (np.array([[0.5]], dtype=np.float32), "its pixels are floating-point numbers, without a known white"),
        (np.array([[65536]], dtype=np.int32), "its pixels have more than 16 bits"),
        (np.array([[-1]], dtype=np.int32), "its pixels have more than 16 bits"),
    ],
)
def test_pixels_without_a_known_white_are_refused(values, cause):
    with pytest.raises(DataError) as refusal:
        pixels_of(values, 1, "TIFF")
    start = f"image 0 must be a readable image, but: {cause};"
    assert str(refusal.value).startswith(start)


def test_a_photograph_that_was_taken_sideways_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    top_is_white = np.zeros((8, 16), dtype=np.uint8)
    top_is_white[:4] = 255
    pixels = pixels_of(top_is_white, 1, exif=exif)
    assert pixels.shape == (1, 16, 8) and pixels[0, :, 4:].min() == 255 and pixels[0, :, :4].max() == 0
