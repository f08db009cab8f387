"""Since when a process of Triton's Python backend has been at work → a file by which others know one that hangs.

Others of its model answer in the place of a process that hangs, so that no query tells it: only it itself can. A copy
of this file runs inside that backend, and writes; the service reads. It imports nothing of aaexport.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import time
from pathlib import Path

FOLDER = "AAEXPORT_AT_WORK"  # of the environment: where the files go; without it none is written
AT_REST = bytes(8)


class AtWork:
    """A block that takes as long as a query does, of the process that makes this; it takes less than 1 µs itself."""

    def __init__(self) -> None:
        self._began = memoryview(_shared() or bytearray(AT_REST)).cast("q")

    def __enter__(self) -> None:
        self._began[0] = time.monotonic_ns()

    def __exit__(self, *_: object) -> None:
        self._began[0] = 0


def _shared() -> mmap.mmap | None:
    """The process's file, which holds when its block began; None where none is wanted, or none can be written."""
    folder = os.environ.get(FOLDER)
    if not folder:
        return None
    with contextlib.suppress(OSError), (Path(folder) / str(os.getpid())).open("w+b") as file:
        file.write(AT_REST)  # on a full disk it fails here, and not where it is written to
        file.flush()
        return mmap.mmap(file.fileno(), len(AT_REST))
    return None


def at_work(folder: Path) -> dict[int, float]:
    """When the block of each process began that is in one, on the clock `time.monotonic`, in seconds."""
    found: dict[int, float] = {}
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            with contextlib.suppress(OSError, ValueError):  # a file that is just being made
                began = int.from_bytes(path.read_bytes(), "little")
                if began:
                    found[int(path.name)] = began / 1e9
    return found
