"""The inputs of a verification: made up from a seed, or given, each kind for a fault that the others do not show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
# ordinary: both bounds hold. extreme: float32 itself may fail there, so only PyTorch's own error counts.
# poisoned: one image holds a value that is not finite, which must spread to the same outputs, and to no other image.
Kind = Literal["ordinary", "extreme", "poisoned"]

POISONS = {"NaN": np.nan, "infinity": np.inf}
SCALES = {"× 1000": 1e3, "× 1e-6": 1e-6}
SIDE_BATCH = 2  # of the cases that are not about the batch: one image more than the least, so that rows can mix


@dataclass(frozen=True)
class Case:
    """A batch of images (B, C, H, W), float32, and what it is called in the report."""

    name: str
    batch: Array
    kind: Kind = "ordinary"
    made_up: bool = False  # whether nobody meant the network for such inputs
    degenerate: bool = False  # whether so much is equal that a normalization may be left with nothing but rounding


def made_up_cases(shape: tuple[int, int, int], batches: Sequence[int], side_batch: int, seed: int) -> Iterator[Case]:
    """Normal numbers in every batch size, then one case each of zeros, a constant, one bright pixel, large and tiny
    numbers, and a pixel that is NaN or infinite.

    Args:
        shape: (C, H, W) of one image.
        batches: sizes for the normal numbers, largest first: it is the steadiest estimate of PyTorch's own error.
        side_batch: the size of all other cases.
        seed: decides every number.
    """
    rng = np.random.default_rng(seed)
    for size in batches:
        yield Case(f"random, batch {size}", _normal(rng, size, shape), made_up=True)
    side = (side_batch, *shape)
    equal = {"zeros": np.zeros(side, np.float32), "constant": np.ones(side, np.float32)}
    for name, batch in (*equal.items(), ("one pixel", _one_pixel(rng, side_batch, shape))):
        yield Case(name, batch, made_up=True, degenerate=True)
    for name, scale in SCALES.items():
        batch = _normal(rng, side_batch, shape) * np.float32(scale)
        yield Case(f"random {name}", batch, "extreme", made_up=True)
    for name, value in POISONS.items():
        batch = _normal(rng, side_batch, shape)
        batch[0, :, shape[1] // 2, shape[2] // 2] = value
        yield Case(f"{name} in a pixel", batch, "poisoned", made_up=True)


def given_cases(name: str, images: Array, batches: Sequence[int]) -> Iterator[Case]:
    """`images` (N, C, H, W) in every batch size, each beginning where the one before ended, and around again."""
    start = 0
    for size in batches:
        chosen = np.arange(start, start + size) % len(images)
        yield Case(f"{name}, batch {size}", images[chosen])
        start += size


def _normal(rng: np.random.Generator, size: int, shape: tuple[int, int, int]) -> Array:
    return rng.standard_normal((size, *shape), dtype=np.float32)


def _one_pixel(rng: np.random.Generator, size: int, shape: tuple[int, int, int]) -> Array:
    batch = np.zeros((size, *shape), np.float32)
    rows, columns = rng.integers(shape[1], size=size), rng.integers(shape[2], size=size)
    batch[np.arange(size), :, rows, columns] = 1
    return batch
