"""What a verification feeds: held-out images or the user's own, beside numbers that are made up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from aaexport.capture.input_name import INPUT_NAME
from aaexport.data import Records, evaluation_images, load_records, sample, seen_file
from aaexport.errors import ArgumentError, DataError, broken_rule, first_line, parameter
from aaexport.graph.given_arrays import read_npz
from aaexport.parity import Array, Case, given_cases, made_up_cases
from aaexport.parity.cases import SIDE_BATCH
from aaexport.pipeline.subject.facts import Facts
from aaexport.pipeline.verify.options import check_inputs
from aaexport.serving.golden import golden_queries

BATCHES = (7, 3, 2, 1)
FEW = (2, 1)  # of a file that is dear
DEAR_MACS = 1e11  # of an image, beyond which it takes PyTorch half a minute in float64 on two cores
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")
ACCURACY_BATCH = 64
OBSERVED_ACCURACY_BATCH = 4  # with attention weights: a megabyte and more a layer, head and image
ACCURACY_IMAGES = 1000
LEAST_ACCURACY_IMAGES = 50
ACCURACY_MACS = 4e11  # of all images together: about ten seconds of PyTorch on two cores
FIXED_BATCHES = 100
GIVEN_IMAGES = sum(BATCHES)
BARE = "a bare module has no data set: made-up inputs only"
NONE: Array = np.zeros(0, np.int64)  # numbers of images
PIXEL_RANGE = 10  # normalised images stay below it; pixels in 0–255 do not


@dataclass(frozen=True)
class Inputs:
    """The cases, and the labelled images that accuracy is taken from, if there are any."""

    subject: Facts
    given: Array | None
    given_name: str
    labelled: Records | None
    chosen: Array
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    seed: int

    def sizes(self, fixed: int | None, largest: int | None, *, dear: bool = False) -> list[int]:
        """Of the batches, the largest first, for a file that fixes it or not, and somebody who wants one more.

        Fewer where an image is `dear`.
        """
        if self.subject.golden is not None:
            return sorted({len(case.batch) for case in self.subject.golden.cases_of(fixed)}, reverse=True)
        return sorted({*(FEW if dear else BATCHES), largest or 1}, reverse=True) if fixed is None else [fixed]

    def cases(self, fixed: int | None, largest: int | None, most: int, *, dear: bool = False) -> Iterator[Case]:
        """All of them, in batches of `sizes` up to `most` images."""
        sizes = [size for size in self.sizes(fixed, largest, dear=dear) if size <= most]
        if self.subject.golden is not None:
            yield from (case for case in self.subject.golden.cases_of(fixed) if len(case.batch) in sizes)
            return
        if self.given is not None:
            yield from given_cases(self.given_name, self.given, sizes)
        elif self.labelled is not None and self.subject.recipe is not None:
            index = self.chosen[np.arange(sum(sizes)) % len(self.chosen)]
            images = evaluation_images(self.labelled, self.subject.recipe, index)
            yield from given_cases("images", images, sizes)
        side = min(1 if dear else SIDE_BATCH, most) if fixed is None else fixed
        yield from made_up_cases(self.subject.input_shape, sizes, side, self.seed)

    def golden_cases(self, fixed: int | None, most: int) -> Iterator[Case]:
        """The folder's golden images, for who is to be asked those too: all but one together, and that one alone.

        Of a file that fixes its batch as many as it takes; none where they are of another size, or there are none.
        """
        folder = self.subject.folder
        if folder is None or self.subject.golden is not None:
            return
        asked = golden_queries(folder.golden_path, [INPUT_NAME], self.subject.output_names)
        known = [query.inputs[INPUT_NAME] for query in asked]
        fitting = [each for each in known if each.dtype == np.float32 and each.shape[1:] == self.subject.input_shape]
        if fitting:
            images = np.concatenate(fitting)
            wanted = (min(len(images) - 1, most), 1) if fixed is None else (fixed,)
            yield from given_cases("golden vectors", images, [size for size in wanted if size])

    def drawn(self, count: int, chance: np.random.Generator) -> Array | None:
        """So many images that were not fed yet, held-out ones where there are any; None beside golden vectors."""
        if self.subject.golden is not None:
            return None
        if self.given is not None:
            return self.given[chance.integers(len(self.given), size=count)]
        if self.labelled is not None and self.subject.recipe is not None:
            index = self.chosen[chance.integers(len(self.chosen), size=count)]
            return evaluation_images(self.labelled, self.subject.recipe, index)
        return chance.standard_normal((count, *self.subject.input_shape), dtype=np.float32)

    def labelled_batches(
        self, fixed: int | None, macs: int | None, fitting: Callable[[int], int]
    ) -> Iterator[tuple[Array, Array]]:
        """Batches of labelled images, and their labels; none for a network that does not classify.

        Of a large network fewer images are taken, and at a time as many as `fitting` leaves of a number. A file that
        fixes its batch is given whole batches only, and no more than `FIXED_BATCHES` of them.
        """
        recipe = self.subject.recipe
        if self.labelled is None or recipe is None or not recipe.network.classifies:
            return
        count = ACCURACY_IMAGES if not macs else max(LEAST_ACCURACY_IMAGES, int(ACCURACY_MACS / macs))
        size = fixed or fitting(OBSERVED_ACCURACY_BATCH if self.subject.with_attention else ACCURACY_BATCH)
        chosen = self.chosen[:count]
        parts = [chosen[start : start + size] for start in range(0, len(chosen), size)]
        for index in parts if fixed is None else [part for part in parts if len(part) == fixed][:FIXED_BATCHES]:
            yield evaluation_images(self.labelled, recipe, index), self.labelled.labels[index]


def gather_inputs(subject: Facts, path: str | Path | None, seed: int) -> Inputs:
    """The user's own inputs at `path`, else held-out images of the recipe's data set where they can be had offline.

    Args:
        subject: whose inputs they are to be.
        path: a .npz or .safetensors of one float32 array (N, C, H, W), or of one that is named `input`, as the
            network takes it; or a folder of images, which are preprocessed as the recipe says. None for none.
        seed: of the choice of images.

    Raises:
        DataError: `path` cannot be read, or holds arrays of another shape or type.
    """
    if path is not None and subject.golden is not None:
        remedy = "give --module FILE.py:NAME as well: golden vectors answer to no other inputs"
        raise ArgumentError(broken_rule("inputs", "go with the module", str(path), remedy))
    if path is not None:
        arrays, warnings = read_inputs(Path(path), subject)
        order = np.random.default_rng(seed).permutation(len(arrays))[:GIVEN_IMAGES]
        left_out = len(arrays) > len(order)
        notes = (f"{len(order)} of {len(arrays)} images of {path} were taken, by the seed",) if left_out else ()
        return Inputs(subject, arrays[order], Path(path).name, None, NONE, notes, warnings, seed)
    images, chosen, remarks = _held_out(subject, seed)
    return Inputs(subject, None, "", images, chosen, remarks, (), seed)


def _held_out(subject: Facts, seed: int) -> tuple[Records | None, Array, tuple[str, ...]]:
    """The data set's test part, the numbers of the images to use, and what is to be told of them."""
    if subject.recipe is None or subject.folder is None:
        is_judged_apart = subject.golden is not None
        return None, NONE, () if is_judged_apart else (BARE,)
    try:
        records = load_records(subject.recipe, "test", base=subject.folder.path)
        chosen, notes = sample(records, ACCURACY_IMAGES, seed)
    except DataError as error:
        return None, NONE, (f"made-up inputs only: {error}",)
    return records, chosen, (*records.notes, *notes)


def read_inputs(path: Path, subject: Facts, option: str = "inputs") -> tuple[Array, tuple[str, ...]]:
    """All images at `path`, (N, C, H, W) in float32, and warnings. DataError, of that option, as `gather_inputs`."""
    called = f"{parameter(option)} of {path}"
    arrays = _read_folder(path, subject, option) if path.is_dir() else _read_arrays(path, option)
    shape = subject.input_shape
    if arrays.dtype != np.float32:
        remedy = "give them as the network takes them: normalised, float32"
        raise DataError(broken_rule(called, "be float32", arrays.dtype, remedy))
    if arrays.ndim != 4 or arrays.shape[1:] != shape or not len(arrays):
        raise DataError(broken_rule(called, f"have the shape {('N', *shape)}", arrays.shape))
    if not np.isfinite(arrays).all():
        raise DataError(broken_rule(called, "be finite", "NaN or infinity"))
    if arrays.min() >= 0 and arrays.max() > PIXEL_RANGE:
        seen = f"{path.name} holds numbers from {arrays.min():g} to {arrays.max():g}"
        return arrays, (f"{seen}: pixels that were not normalised? The network takes (pixel / 255 − mean) / std",)
    return arrays, ()


def _read_arrays(path: Path, option: str) -> Array:
    check_inputs(path, option)
    called = f"{parameter(option)} of {path}"
    readers: dict[str, Callable[[Path], dict[str, Array]]] = {".npz": read_npz, ".safetensors": load_file}
    try:
        arrays = readers[path.suffix](path)
    # numpy, zipfile, zlib and safetensors each raise their own: there is no common base.
    except Exception as error:
        raise DataError(f"{option} must be whole, but {path} cannot be read: {first_line(error)}") from error
    if INPUT_NAME in arrays:
        return arrays[INPUT_NAME]
    if len(arrays) != 1:
        rule = f"be one array, or one named {INPUT_NAME}"
        raise DataError(broken_rule(called, rule, sorted(arrays)))
    return next(iter(arrays.values()))


def image_files(folder: Path) -> list[Path]:
    """The images that lie in it, in the order in which they are read."""
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)


def _read_folder(path: Path, subject: Facts, option: str) -> Array:
    files = image_files(path)
    if subject.recipe is None:
        raise DataError(broken_rule(option, "be a file of arrays for a bare module", str(path)))
    if not files:
        raise DataError(broken_rule(option, f"hold images ({' '.join(IMAGE_SUFFIXES)})", f"none in {path}"))
    return np.concatenate([seen_file(file, subject.recipe)[1] for file in files])
