"""Data sets → labelled images in memory → normalised batches.

A source is a function of a split's name that returns `LabelledImages`; `SOURCES` names them. Nothing here reaches
the network unless `download` is set.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from aaexport.errors import DataError, broken_rule, did_you_mean, first_line
from aaexport.recipe import Data, Input, Recipe

Split = Literal["train", "test"]
DIGITS_TEST_SHARE = 0.2
DIGITS_SPLIT_SEED = 20190422  # the split belongs to the data set, not to a run: no recipe can move it


@dataclass(frozen=True)
class LabelledImages:
    """Images as they were recorded, and their classes.

    Attributes:
        images: (N, C, H, W), uint8.
        labels: (N,), int64.
        white: the pixel value that stands for 1.0.
    """

    images: Tensor
    labels: Tensor
    white: int

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Source:
    """One data set: where it comes from, in words, and how it is read."""

    description: str
    read: Callable[[Split, bool], LabelledImages]


def load_images(recipe: Recipe, split: Split, *, download: bool = False) -> LabelledImages:
    """The split's images, checked against the recipe.

    Raises:
        DataError: unknown data set, its package or files are not there, or sizes or classes differ.
    """
    name = recipe.data.dataset
    if name not in SOURCES:
        remedy = did_you_mean(name, SOURCES)
        raise DataError(broken_rule("[data] dataset", "be a known data set", name, remedy))
    data = SOURCES[name].read(split, download)
    shape = tuple(data.images.shape[1:])
    if shape != recipe.input.shape:
        raise DataError(broken_rule("[input] channels, height and width", f"be those of {name}, {shape}",
                                    recipe.input.shape))  # fmt: skip
    classes = int(data.labels.max()) + 1
    if classes != len(recipe.input.labels):
        rule = f"name the {classes} classes of {name}"
        raise DataError(broken_rule("[input] labels", rule, f"{len(recipe.input.labels)} names"))
    return data


def normalised(images: LabelledImages, image: Input, index: Tensor | None = None) -> Tensor:
    """(pixel − mean) / std in float32, pixels in [0, 1]; all images, or those at `index`."""
    chosen = images.images if index is None else images.images[index]
    mean = torch.tensor(image.mean).view(-1, 1, 1)
    std = torch.tensor(image.std).view(-1, 1, 1)
    return (chosen.to(torch.float32) / images.white - mean) / std


def varied(batch: Tensor, data: Data, generator: torch.Generator) -> Tensor:
    """Training images, each cropped at random from a zero-padded copy and flipped with probability ½.

    Zero is the mean of normalised images. (B, C, H, W) → the same shape.
    """
    count, channels, height, width = batch.shape
    if data.crop_padding:
        top, left = torch.randint(0, 2 * data.crop_padding + 1, (2, count, 1, 1, 1), generator=generator)
        padded = functional.pad(batch, (data.crop_padding,) * 4)
        rows = top + torch.arange(height).view(1, 1, -1, 1)
        columns = left + torch.arange(width).view(1, 1, 1, -1)
        which = torch.arange(count).view(-1, 1, 1, 1)
        batch = padded[which, torch.arange(channels).view(1, -1, 1, 1), rows, columns]
    if data.flip:
        flipped = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
        batch = torch.where(flipped, batch.flip(-1), batch)
    return batch


def _digits(split: Split, download: bool) -> LabelledImages:
    """1,797 scans of 8×8 pixels; a fixed stratified fifth of them is the test part.

    Read from the file that scikit-learn carries: importing scikit-learn for it would take longer than verifying.
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise DataError("the data set digits needs scikit-learn; pip install 'aaexport[digits]'")
    path = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    try:
        rows = np.loadtxt(path, delimiter=",", dtype=np.int64)  # 64 pixels and the class, a row
    except (OSError, ValueError) as error:
        raise DataError(f"{path} must hold scikit-learn's digits, but: {error}; reinstall scikit-learn") from error
    chosen = rows[_digits_split(rows[:, -1], split)]
    return LabelledImages(
        torch.from_numpy(chosen[:, :-1].astype(np.uint8)).view(-1, 1, 8, 8),
        torch.from_numpy(chosen[:, -1].copy()),
        white=16,
    )


def _digits_split(labels: npt.NDArray[np.int64], split: Split) -> npt.NDArray[np.int64]:
    """The rows of one part, in the file's order: of every class a fixed random fifth is the test part."""
    rng = np.random.default_rng(DIGITS_SPLIT_SEED)
    test = np.zeros(len(labels), dtype=bool)
    for digit in range(10):
        rows = rng.permutation(np.flatnonzero(labels == digit))
        test[rows[: round(DIGITS_TEST_SHARE * len(rows))]] = True
    return np.flatnonzero(test if split == "test" else ~test)


def _hub(repository: str, image_column: str, label_column: str) -> Callable[[Split, bool], LabelledImages]:
    """A reader of an image-classification data set of the Hugging Face hub, or of its local cache."""

    def read(split: Split, download: bool) -> LabelledImages:
        rows = _hub_rows(repository, split, download)
        images = np.stack([np.asarray(image) for image in rows[image_column]])
        return LabelledImages(
            torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
            torch.tensor(rows[label_column], dtype=torch.int64),
            white=255,
        )

    return read


def _hub_rows(repository: str, split: Split, download: bool) -> Any:
    try:
        import datasets
    except ImportError as error:
        remedy = "pip install 'aaexport[datasets]'"
        raise DataError(f"the data set {repository} needs Hugging Face datasets; {remedy}") from error
    try:
        with nullcontext() if download else _hub_offline():
            return datasets.load_dataset(repository, split=split)[:]
    # The hub's client raises its own, its HTTP library's and the system's errors, with no common base.
    except Exception as error:
        cause = first_line(error)
        if download:
            raise DataError(f"the data set {repository} cannot be fetched: {cause}") from error
        remedy = "fetch it once with `aaexport train MODEL --download`"
        raise DataError(f"the data set {repository} is not in the local cache ({cause}); {remedy}") from error


@contextmanager
def _hub_offline() -> Iterator[None]:
    """Keeps the hub's client off the network; HF_HUB_OFFLINE itself is read only when it is first imported."""
    import datasets.config
    import huggingface_hub.constants

    modules: tuple[Any, ...] = (huggingface_hub.constants, datasets.config)
    before = [module.HF_HUB_OFFLINE for module in modules]
    for module in modules:
        module.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value


SOURCES: dict[str, Source] = {
    "digits": Source("scikit-learn's 8×8 digits, offline", _digits),
    "cifar10": Source("CIFAR-10 from the Hugging Face hub's cache", _hub("uoft-cs/cifar10", "img", "label")),
    "cifar100": Source("CIFAR-100 from the Hugging Face hub's cache", _hub("uoft-cs/cifar100", "img", "fine_label")),
}
