"""(module, size of the images) → whether the memory holds what one image takes, before anything is tried.

A system that promises more memory than it has ends a process without a word once the promise is called in, and so
does one whose control group has a limit below what the machine has.
"""

from __future__ import annotations

from torch import nn

from aaexport.errors import ArgumentError, parameter
from aaexport.memory import GIBIBYTE, whole_memory
from aaexport.nn.augmented import augmented_layers

BYTES_IN_FLOAT64 = 8
BYTES_IN_FLOAT32 = 4


def require_memory(
    module: nn.Module, shape: tuple[int, int, int], *, bytes_a_number: int, in_tiles: bool = False
) -> None:
    """ArgumentError if the weights of one layer's attention alone, for one image of `shape`, need more than there is.

    PyTorch has all of them at once, however they are written out in a file, unless it attends in tiles
    (`aaexport.nn.tiled`): `in_tiles` says that it does where a layer's decomposition is `auto`.
    """
    there = whole_memory()
    for path, layer in augmented_layers(module).items():
        if in_tiles and layer.decomposition == "auto":
            continue
        taken = layer.sizes.logits * bytes_a_number
        if there is not None and taken > there[0]:
            height, width = shape[1:]
            rule = f"let the attention of {path or 'the layer'} fit into {_told(*there)}"
            got = f"{height} {width}, for which it takes {taken / GIBIBYTE:,.0f} GiB an image"
            raise ArgumentError(f"{parameter('size')} must {rule}, got {got}; ask for smaller images")


def require_memory_for_weights(module: nn.Module) -> None:
    """ArgumentError if its weights, in float32 and in float64 as a file is judged by, need more than there is."""
    there = whole_memory()
    taken = sum(each.numel() for each in module.parameters()) * (BYTES_IN_FLOAT32 + BYTES_IN_FLOAT64)
    if there is not None and taken > there[0]:
        rule = f"fit into {_told(*there)} in float32 and float64 to be verified"
        remedy = "verify it on a larger machine (convert has --no-verify)"
        raise ArgumentError(f"the weights must {rule}, got {taken / GIBIBYTE:,.0f} GiB; {remedy}")


def _told(size: int, whose: str) -> str:
    return f"{whose} {size / GIBIBYTE:,.0f} GiB"
