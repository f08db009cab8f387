"""Libraries that stay to the process's end → set aside for Python's garbage collector, which would look through them.

Loading PyTorch and ONNX makes four hundred thousand objects, of which none is garbage. To look through them again and
again while more are loaded, and once more when the process ends, takes a quarter of the time that loading takes.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SMALL = 2**24  # bytes of weights


@contextmanager
def loading() -> Iterator[None]:
    """The block imports: nothing is collected in it, and what it has loaded is never looked at again."""
    was_on, loaded = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > loaded:
            gc.freeze()
        if was_on:
            gc.enable()


@contextmanager
def converting(weights: Path) -> Iterator[None]:
    """The block converts a network of these weights: if it is small nothing is collected, nor looked at later.

    What tracing leaves is nearly all in use by torch. To look through it for garbage takes a thirtieth of the time
    that a small network takes, and gives hardly any memory back. A large network's garbage may hold its weights.
    """
    size = SMALL
    with suppress(OSError):  # what is wrong with them is told by who reads them
        size = weights.stat().st_size
    if size >= SMALL or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def end_without_collecting() -> None:
    """Before the process ends: the system takes its memory back at once, whatever is garbage in it."""
    gc.disable()
    gc.freeze()
