"""(ONNX signature, model folder) → what is fed: held-out images where there are any, else numbers made to fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aaexport.data import evaluation_images, load_records, sample
from aaexport.errors import ArgumentError, DataError, broken_rule, did_you_mean, parameter
from aaexport.folder import ModelFolder
from aaexport.graph.files import GraphSummary, TensorInfo
from aaexport.pipeline.subject.golden import read_golden
from aaexport.runners.base import Array, numpy_type

COUNT = 64
IMAGE_SIDE = 224  # of images whose height and width the file leaves open
IMAGE_CHANNELS = (1, 3)


@dataclass(frozen=True, eq=False)
class Samples:
    """What queries are made of.

    Attributes:
        arrays: by input, (count, …): entry n is sample n.
        batched: whether samples are stacked to a batch; else each is fed as it is.
        fixed_batch: how many samples the file takes at once, if it fixes that.
        name: what they are, for people.
        notes: what was decided about them that nobody asked for.
        are_images: whether they are such as the network is meant for; else nobody meant it for them.
    """

    arrays: Mapping[str, Array]
    batched: bool
    fixed_batch: int | None
    name: str
    notes: tuple[str, ...] = ()
    are_images: bool = False

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def save(self, path: Path) -> None:
        """As a .npz that `bench_worker` reads."""
        np.savez(path, **dict(self.arrays))  # type: ignore[arg-type]  # its own keyword is no input


def gather_samples(
    summary: GraphSummary, folder: ModelFolder | None, seed: int, dims: Mapping[str, int] | None = None
) -> Samples:
    """Images of the recipe's data set where they can be had offline and fit, else seeded numbers.

    `dims` are sizes for dimensions that the file leaves open, by their names.

    Raises:
        ArgumentError: a type that numbers cannot be made for, or a dimension that the file does not leave open.
    """
    dims = dict(dims or {})
    _check_dims(summary, dims)
    batched, fixed = _batching(summary.inputs)
    name = "random inputs"
    if folder is not None and folder.module_recipe is not None and folder.golden_path.is_file():
        images = read_golden(folder.golden_path).images
        return Samples({summary.inputs[0].name: images}, True, fixed, "golden vectors")
    if folder is not None and folder.module_recipe is None and batched and _is_one_image(summary.inputs):
        try:
            chosen = _images(summary, folder, seed)
            return Samples(chosen, True, fixed, "held-out images", are_images=True)
        except DataError as error:
            name = f"random inputs, because {error}"
    rng = np.random.default_rng(seed)
    arrays, notes = {}, []
    for tensor in summary.inputs:
        shape, taken = _sample_shape(tensor, dims, batched)
        notes += taken
        arrays[tensor.name] = _numbers(tensor, (COUNT, *shape), rng)
    return Samples(arrays, batched, fixed, name, tuple(dict.fromkeys(notes)))


def _is_one_image(inputs: tuple[TensorInfo, ...]) -> bool:
    return len(inputs) == 1 and inputs[0].dtype in ("float", "float16") and len(inputs[0].shape) == 4


def _images(summary: GraphSummary, folder: ModelFolder, seed: int) -> dict[str, Array]:
    tensor = summary.inputs[0]
    _, channels, height, width = tensor.shape
    size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    recipe = folder.recipe.for_size(size)
    if isinstance(channels, int) and channels != recipe.input.channels:
        raise DataError(broken_rule("the recipe's images", f"have {channels} channels", recipe.input.channels))
    records = load_records(recipe, "test", base=folder.path)
    chosen, _ = sample(records, COUNT, seed)
    return {tensor.name: evaluation_images(records, recipe, chosen)}


def _batching(inputs: tuple[TensorInfo, ...]) -> tuple[bool, int | None]:
    """Whether the first dimension is a batch, which it is if all inputs share it, and its size if that is fixed."""
    if not inputs:
        raise ArgumentError(broken_rule("the file", "have an input", "none"))
    firsts = [tensor.shape[0] if tensor.shape else None for tensor in inputs]
    if not all(tensor.shape for tensor in inputs):
        return False, 1
    if all(not isinstance(first, int) for first in firsts):
        return True, None
    if len(set(firsts)) == 1 and len(inputs[0].shape) > 1 and isinstance(firsts[0], int):
        return True, firsts[0]
    return False, 1


def _sample_shape(tensor: TensorInfo, dims: Mapping[str, int], batched: bool) -> tuple[tuple[int, ...], list[str]]:
    """One sample's shape, and what was taken for dimensions that nobody set."""
    sizes, notes = [], []
    for place, size in enumerate(tensor.shape):
        if place == 0 and batched:
            continue
        if isinstance(size, int):
            sizes.append(size)
        elif isinstance(size, str) and size in dims:
            sizes.append(dims[size])
        else:
            sizes.append(_guess(tensor, place))
            called, remedy = (size, f"; set it with --dim {size}=N") if size else (f"{place} of {tensor.name}", "")
            notes.append(f"the open dimension {called} was taken as {sizes[-1]}{remedy}")
    return tuple(sizes), notes


def _guess(tensor: TensorInfo, place: int) -> int:
    is_image = len(tensor.shape) == 4 and tensor.shape[1] in IMAGE_CHANNELS and place >= 2
    return IMAGE_SIDE if is_image else 1


def _numbers(tensor: TensorInfo, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Normal numbers; 0 and 1 of integers, which are indices of any table; for a type of numbers."""
    try:
        dtype = numpy_type(tensor.dtype)
    except TypeError:
        dtype = np.dtype(object)
    if dtype.kind == "f":
        return rng.standard_normal(shape, dtype=np.float32).astype(dtype)
    if dtype.kind in "iub":
        return rng.integers(0, 2, shape).astype(dtype)
    raise ArgumentError(broken_rule(f"input {tensor.name}", "be of numbers that can be made up", tensor.dtype))


def _check_dims(summary: GraphSummary, dims: Mapping[str, int]) -> None:
    known = {size for tensor in summary.inputs for size in tensor.shape if isinstance(size, str)}
    for name, size in dims.items():
        if name not in known:
            rule = "name a dimension that the file leaves open"
            raise ArgumentError(broken_rule("dim", rule, name, did_you_mean(name, known) if known else "it has none"))
        if size < 1:
            raise ArgumentError(broken_rule(f"{parameter('dim')} {name}", "be at least 1", size))
