"""Libraries that stay to the process's end → set aside for Python's garbage collector, which would look through them.

Loading PyTorch and ONNX makes four hundred thousand objects, of which none is garbage. To look through them again and
again while more are loaded, and once more when the process ends, takes a quarter of the time that loading takes.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


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


def end_without_collecting() -> None:
    """Before the process ends: the system takes its memory back at once, whatever is garbage in it."""
    gc.disable()
    gc.freeze()
