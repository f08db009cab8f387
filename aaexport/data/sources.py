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
from aaexport.recipe import DATA_SETS, Recipe, check_data_set


@dataclass(frozen=True)
class Source:
    """One data set, or a kind of them: where it comes from, in words, and how it is read."""

    description: str
    read: Callable[[Request], StoredImages | DecodedImages]


SOURCES: dict[str, Source] = {
    "digits": Source(DATA_SETS["digits"], read_digits),
    "cifar10": Source(DATA_SETS["cifar10"], hub_reader("uoft-cs/cifar10")),
    "cifar100": Source(DATA_SETS["cifar100"], hub_reader("uoft-cs/cifar100", "fine_label")),
    "mnist": Source(DATA_SETS["mnist"], hub_reader("ylecun/mnist")),
    "imagenet": Source(DATA_SETS["imagenet"], hub_reader("ILSVRC/imagenet-1k", test_split="validation")),
    "imagefolder": Source(DATA_SETS["imagefolder"], read_image_folder),
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
    check_data_set(recipe.data)
    return _told(_reader(recipe.data.dataset)(Request(recipe, split, base, download, skip_bad)), recipe)


def _reader(name: str) -> Callable[[Request], StoredImages | DecodedImages]:
    return SOURCES[name].read if name in SOURCES else hub_reader(name)


def _told(images: StoredImages | DecodedImages, recipe: Recipe) -> Images:
    """The images, with a note if the network sees them in another size."""
    if not isinstance(images, StoredImages):
        return images
    (height, width), (to_height, to_width) = images.pixels.shape[-2:], recipe.input.size
    if (height, width) == (to_height, to_width):
        return images
    note = f"images are resized from {height}×{width} to {to_height}×{to_width}"
    return replace(images, notes=(*images.notes, note))
