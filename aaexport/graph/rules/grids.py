"""What an integer tensor holds for any batch: sizes of other tensors, or places that are counted along an axis.

Who writes into a tensor by ScatterND says where with a list of places, and exporters compute that list from sizes, of
which the batch is not known. What they compute is simple all the same: 0, 1, 2, … along an axis, repeated along the
others. So sizes go by what they are called, `batch` beside 32; and what is not so simple is not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aaexport.graph.rules.movement import Numbers

Size = int | str  # a number, or the name that the graph has for it
MOST_NUMBERS = 2**20  # of a constant that is looked into


@dataclass(frozen=True)
class Grid:
    """A tensor of `sizes` whose number at the place p is start + p[axis], or `start` everywhere without an axis.

    Where `start` is None its numbers are not known, but its sizes are.
    """

    sizes: tuple[Size, ...]
    start: Size | None
    axis: int | None = None


@dataclass(frozen=True)
class Sizes:
    """A vector of sizes."""

    entries: tuple[Size, ...]


@dataclass(frozen=True)
class Places:
    """A list of places, (…, k): a grid for each of the k axes along which they are counted."""

    grids: tuple[Grid, ...]


Held = Grid | Sizes | Places


def of_constant(numbers: Numbers) -> Held | None:
    """What a constant holds; None if its numbers are neither a vector nor counted along an axis."""
    if numbers.dtype.kind not in "iub" or numbers.size > MOST_NUMBERS:
        return None
    if numbers.ndim == 1:
        return Sizes(tuple(int(number) for number in numbers))
    grid = _counted(numbers)
    if grid is not None or numbers.ndim < 2:
        return grid
    return beside_each_other([_counted(numbers[..., column]) for column in range(numbers.shape[-1])])


def _counted(numbers: Numbers) -> Grid | None:
    if not numbers.size:
        return None
    start = int(numbers.flat[0])
    if (numbers == start).all():
        return Grid(numbers.shape, start)
    for axis, size in enumerate(numbers.shape):
        along = np.arange(start, start + size).reshape([-1 if each == axis else 1 for each in range(numbers.ndim)])
        if np.array_equal(numbers, np.broadcast_to(along, numbers.shape)):
            return Grid(numbers.shape, start, axis)
    return None


def beside_each_other(columns: Sequence[Held | None]) -> Places | None:
    """Places of which each grid is one column; None where one is not known, or they are of different sizes."""
    grids = tuple(column for column in columns if isinstance(column, Grid))
    alike = len(grids) == len(columns) and len({grid.sizes for grid in grids}) == 1
    return Places(grids) if alike else None


def as_places(held: Held | None) -> Places | None:
    """A grid (…, k) as k columns, whatever it was made as."""
    if isinstance(held, Places):
        return held
    grid = as_grid(held)
    if grid is None or not grid.sizes or not isinstance(grid.start, int):
        return None
    *sizes, count = grid.sizes
    is_across = grid.axis == len(sizes)
    if not isinstance(count, int):
        return None
    return beside_each_other(
        [
            Grid(tuple(sizes), grid.start + (column if is_across else 0), None if is_across else grid.axis)
            for column in range(count)
        ]
    )


def as_vector(held: Held | None) -> tuple[Size, ...] | None:
    """The entries of a vector, however it is known."""
    if isinstance(held, Sizes):
        return held.entries
    if not isinstance(held, Grid) or len(held.sizes) != 1 or held.start is None:
        return None
    (size,) = held.sizes
    if not isinstance(size, int) or size > MOST_NUMBERS:
        return None
    if held.axis is None:
        return (held.start,) * size
    return tuple(range(held.start, held.start + size)) if isinstance(held.start, int) else None


def as_grid(held: Held | None) -> Grid | None:
    """A vector as a grid too, where its numbers are counted up or all the same."""
    if not isinstance(held, Sizes):
        return held if isinstance(held, Grid) else None
    if held.entries and len(set(held.entries)) == 1:
        return Grid((len(held.entries),), held.entries[0])
    numbers = integers(held.entries)
    return None if numbers is None else _counted(np.array(numbers))


def integers(entries: tuple[Size, ...] | None) -> list[int] | None:
    """The entries as numbers; None if one has only a name."""
    numbers = [entry for entry in entries or () if isinstance(entry, int)]
    return numbers if entries is not None and len(numbers) == len(entries) else None


def broadcast(one: Sequence[Size], other: Sequence[Size]) -> tuple[Size, ...] | None:
    """The sizes of what both make together; None where they do not fit, or are not known to."""
    rank = max(len(one), len(other))
    pairs = zip((*[1] * (rank - len(one)), *one), (*[1] * (rank - len(other)), *other), strict=True)
    found = [a if b in (a, 1) else b if a == 1 else None for a, b in pairs]
    return None if None in found else tuple(size for size in found if size is not None)
