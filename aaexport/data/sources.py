"""The name of a data set → its images, checked against the recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from aaexport.data.digits import read_digits
from aaexport.data.hub import hub_reader
from aaexport.data.image_folder import read_image_folder
from aaexport.data.records import EncodedRecords, Records, StoredRecords
from aaexport.data.request import Request, Split
from aaexport.data.synthetic import read_synthetic
from aaexport.recipe import DATA_SETS, Recipe, check_data_set

if TYPE_CHECKING:
    from aaexport.data.images import Images


@dataclass(frozen=True)
class Source:
    """One data set, or a kind of them: where it comes from, in words, and how it is read."""

    description: str
    read: Callable[[Request], StoredRecords | EncodedRecords]


SOURCES: dict[str, Source] = {
    "digits": Source(DATA_SETS["digits"], read_digits),
    "cifar10": Source(DATA_SETS["cifar10"], hub_reader("uoft-cs/cifar10")),
    "cifar100": Source(DATA_SETS["cifar100"], hub_reader("uoft-cs/cifar100", "fine_label")),
    "mnist": Source(DATA_SETS["mnist"], hub_reader("ylecun/mnist")),
    "imagenet": Source(DATA_SETS["imagenet"], hub_reader("ILSVRC/imagenet-1k", test_split="validation")),
    "imagefolder": Source(DATA_SETS["imagefolder"], read_image_folder),
    "synthetic": Source(DATA_SETS["synthetic"], read_synthetic),
}


def load_records(
    recipe: Recipe, split: Split, *, base: Path | None = None, download: bool = False, skip_bad: bool = False
) -> Records:
    """The part's images as arrays, checked against the recipe. They may have another size than its input.

    Args:
        base: the model folder, where a relative `[data] path` starts; None is the working directory.
        download: lets the data set be fetched from the network.
        skip_bad: leaves images out that cannot be decoded, and says so in `notes`: every image is decoded once.

    Raises:
        DataError: unknown data set, its package or files are not there, or channels or classes differ.
    """
    check_data_set(recipe.data)
    return _told(_reader(recipe.data.dataset)(Request(recipe, split, base, download, skip_bad)), recipe)


def load_images(
    recipe: Recipe, split: Split, *, base: Path | None = None, download: bool = False, skip_bad: bool = False
) -> Images:
    """As `load_records`, as torch tensors."""
    from aaexport.data.images import as_images

    return as_images(load_records(recipe, split, base=base, download=download, skip_bad=skip_bad))


def _reader(name: str) -> Callable[[Request], StoredRecords | EncodedRecords]:
    return SOURCES[name].read if name in SOURCES else hub_reader(name)


def _told(images: StoredRecords | EncodedRecords, recipe: Recipe) -> Records:
    """The images, with a note if the network sees them in another size."""
    if not isinstance(images, StoredRecords):
        return images
    (height, width), (to_height, to_width) = images.pixels.shape[-2:], recipe.input.size
    if (height, width) == (to_height, to_width):
        return images
    note = f"images are resized from {height}×{width} to {to_height}×{to_width}"
    return replace(images, notes=(*images.notes, note))
