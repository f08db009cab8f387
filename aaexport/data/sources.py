"""The name of a data set → its images, checked against the recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from aaexport.data.digits import read_digits
from aaexport.data.hub import hub_reader
from aaexport.data.image_folder import read_image_folder
from aaexport.data.images import DecodedImages, Images, StoredImages
from aaexport.data.request import Request, Split
from aaexport.data.synthetic import read_synthetic
from aaexport.errors import DataError, broken_rule, did_you_mean
from aaexport.recipe import DATA_SETS, Recipe

OPTIONAL_KEYS = ("path", "label_column", "test_split")
HUB_KEYS = ("label_column", "test_split")


@dataclass(frozen=True)
class Source:
    """One data set, or a kind of them: where it comes from, in words, how it is read, and its keys of [data]."""

    description: str
    read: Callable[[Request], StoredImages | DecodedImages]
    keys: tuple[str, ...] = ()


SOURCES: dict[str, Source] = {
    "digits": Source(DATA_SETS["digits"], read_digits),
    "cifar10": Source(DATA_SETS["cifar10"], hub_reader("uoft-cs/cifar10"), HUB_KEYS),
    "cifar100": Source(DATA_SETS["cifar100"], hub_reader("uoft-cs/cifar100", "fine_label"), HUB_KEYS),
    "mnist": Source(DATA_SETS["mnist"], hub_reader("ylecun/mnist"), HUB_KEYS),
    "imagenet": Source(DATA_SETS["imagenet"], hub_reader("ILSVRC/imagenet-1k", test_split="validation"), HUB_KEYS),
    "imagefolder": Source(DATA_SETS["imagefolder"], read_image_folder, ("path", "test_split")),
    "synthetic": Source(DATA_SETS["synthetic"], read_synthetic),
}


def load_images(
    recipe: Recipe, split: Split, *, base: Path | None = None, download: bool = False, skip_bad: bool = False
) -> Images:
    """The part's images, checked against the recipe. They may have another size than its input.

    Args:
        base: the model folder, where a relative `[data] path` starts; None is the working directory.
        download: lets the data set be fetched from the network.
        skip_bad: leaves images out that cannot be decoded, and says so in `notes`: every image is decoded once.

    Raises:
        DataError: unknown data set, its package or files are not there, or channels or classes differ.
    """
    name = recipe.data.dataset
    source = _source(name)
    for key in OPTIONAL_KEYS:
        value = getattr(recipe.data, key)
        if value and key not in source.keys:
            raise DataError(broken_rule(f"[data] {key}", f"be left out for {name}", value))
    return _told(source.read(Request(recipe, split, base, download, skip_bad)), recipe)


def _source(name: str) -> Source:
    if name in SOURCES:
        return SOURCES[name]
    owner, _, repository = name.partition("/")
    if owner and repository and "/" not in repository:
        return Source(f"{name} from the Hugging Face hub's cache", hub_reader(name), HUB_KEYS)
    rule = "be a known data set, or owner/name of one on the Hugging Face hub"
    raise DataError(broken_rule("[data] dataset", rule, name, did_you_mean(name, SOURCES)))


def _told(images: StoredImages | DecodedImages, recipe: Recipe) -> Images:
    """The images, with a note if the network sees them in another size."""
    if not isinstance(images, StoredImages):
        return images
    (height, width), (to_height, to_width) = images.pixels.shape[-2:], recipe.input.size
    if (height, width) == (to_height, to_width):
        return images
    note = f"images are resized from {height}×{width} to {to_height}×{to_width}"
    return replace(images, notes=(*images.notes, note))
