"""(model, what was asked) → images that show which numbers it computes with, and others that judge the result."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aaexport.data import evaluation_images, load_records, sample
from aaexport.errors import DataError, broken_rule, parameter
from aaexport.parity import Array
from aaexport.pipeline.reduce.options import LEAST, ReduceOptions
from aaexport.pipeline.subject.facts import Facts
from aaexport.pipeline.verify.guarded import NO_IMAGES, Evidence, gather_evidence
from aaexport.pipeline.verify.inputs import image_files, read_inputs

JUDGING_SHARE = 4  # of images that were given, one in so many judges, and the others calibrate
MOST_GIVEN = 1024


@dataclass(frozen=True)
class Calibration:
    """What the ranges are taken from.

    Attributes:
        images: (N, C, H, W), float32.
        data: what they are, in words.
        seed: of their choice.
        names: what each is called: its file, or its number among those that it was chosen of.
        is_noise: whether nobody meant the network for them.
        notes: what a user must be told.
    """

    images: Array
    data: str
    seed: int
    names: tuple[str, ...] = ()
    is_noise: bool = False
    notes: tuple[str, ...] = ()

    @property
    def about(self) -> dict[str, Any]:
        """As the file's metadata have it."""
        return {"data": self.data, "images": len(self.images), "seed": self.seed}


def gather_images(subject: Facts, options: ReduceOptions, macs: int | None) -> tuple[Calibration, Evidence]:
    """Calibration images, and others by which the guard judges: none is both.

    Images that were given judge too where the recipe has no held-out ones at hand: a quarter of them.

    Raises:
        DataError: int8 without images, or images that cannot be read, do not fit, or are all alike.
    """
    path = options.images
    if path is None:
        calibration = _of_recipe(subject, options)
        return calibration, gather_evidence(subject, options.dtype, None, macs, options.seed)
    given, warnings = read_inputs(path, subject, "calibrate")
    order = np.random.default_rng(options.seed).permutation(len(given))[:MOST_GIVEN]
    evidence = _held_out(subject, options, macs)
    judging = 0 if evidence is not None else max(len(order) // JUDGING_SHARE, 1)
    if len(order) - judging < LEAST:
        raise DataError(broken_rule("calibrate", f"hold at least {LEAST + judging} images", len(order)))
    if evidence is None:
        evidence = Evidence(given[order[:judging]], None, f"{judging} other images of {path.name}")
    chosen = order[judging:]
    called = [file.name for file in image_files(path)] if path.is_dir() else _numbered(path.name, range(len(given)))
    calibration = Calibration(
        given[chosen],
        f"{len(chosen)} images of {path.name}",
        options.seed,
        tuple(called[number] for number in chosen),
        notes=(*warnings, *_left_out(path, len(order), len(given))),
    )
    return _require_variety(calibration, str(path)), evidence


def _held_out(subject: Facts, options: ReduceOptions, macs: int | None) -> Evidence | None:
    """Of the recipe's data set; None where it is not at hand."""
    try:
        evidence = gather_evidence(subject, "int8", None, macs, options.seed)
    except DataError:
        return None
    return evidence


def _of_recipe(subject: Facts, options: ReduceOptions) -> Calibration:
    if subject.recipe is None or subject.folder is None:
        return _noise(subject, options, "the model has no data set")
    try:
        records = load_records(subject.recipe, "train", base=subject.folder.path)
        index, notes = sample(records, options.count, options.seed)
    except DataError as error:
        return _noise(subject, options, str(error))
    pixels = evaluation_images(records, subject.recipe, index)
    data = f"{len(index)} training images of {subject.recipe.data.dataset}"
    names = _numbered(f"the training part of {subject.recipe.data.dataset}", index.tolist())
    return _require_variety(Calibration(pixels, data, options.seed, names, notes=notes), data)


def _left_out(path: Path, taken: int, of: int) -> tuple[str, ...]:
    """A note where not all images that were given are looked at."""
    return (f"{taken} of {of} images of {path} were taken, by the seed",) if taken < of else ()


def _numbered(of: str, numbers: Iterable[int]) -> tuple[str, ...]:
    """What images are called that have no names."""
    return tuple(f"image {number} of {of}" for number in numbers)


def _noise(subject: Facts, options: ReduceOptions, why: str) -> Calibration:
    if options.dtype == "int8":
        remedy = f"give images of your own with {parameter('calibrate')} FOLDER or FILE.npz: {NO_IMAGES}"
        raise DataError(f"calibrate must name images for int8, got none ({why}); {remedy}")
    numbers = np.random.default_rng(options.seed).standard_normal((options.count, *subject.input_shape))
    note = f"calibrated on noise: {why}"
    return Calibration(
        numbers.astype(np.float32), f"{options.count} images of noise", options.seed, is_noise=True, notes=(note,)
    )


def _require_variety(calibration: Calibration, called: str) -> Calibration:
    """The calibration. DataError if its images are one and the same."""
    images = calibration.images
    if len(images) < LEAST or (images == images[0]).all():
        name = f"{parameter('calibrate')} of {called}"
        raise DataError(f"{name} must hold images that differ, got {len(images)} that are all alike")
    return calibration
