"""Freed memory that a process keeps, as PyTorch asks for tensors of the same sizes again and again; or gives back."""

from __future__ import annotations

import ctypes
import platform

# As <malloc.h> of glibc numbers them.
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
MOST = 2**31 - 1  # bytes, of a C int
LARGEST = 2**27  # bytes of a tensor whose memory is kept: of larger ones whatever is kept is soon too much
MOST_OF_OLD = 2**25  # what glibc took at the most in former versions
PADDING = 2**26  # bytes
LARGE = 2**20  # bytes of a tensor that has to leave no hole, where memory is short


class _Process:
    """What this one was told of what it frees."""

    keeps = False


_process = _Process()


def keep_freed_memory() -> None:
    """Lets glibc keep what is freed, for this process to its end; elsewhere nothing happens.

    By itself it gives every tensor of some MiB back to the system at once, and the next one is paid for page by page:
    up to half of the time that a network with naive attention takes in eager mode. For commands that run PyTorch and
    measure nothing: the allocator of somebody else's process is not ours, and a latency is that of a plain one.
    """
    # The threshold first: without it the others would only keep glibc from adapting by itself.
    if _set(MMAP_THRESHOLD, LARGEST) or _set(MMAP_THRESHOLD, MOST_OF_OLD):
        _set(TRIM_THRESHOLD, MOST)
        _set(TOP_PAD, PADDING)
        _process.keeps = True


def give_freed_memory_back() -> None:
    """Gives back what is freed from now on, if `keep_freed_memory` said otherwise, and what is kept: it is too much.

    What is kept lies in pieces between what is still used, in which the next tensors have no room: onnxruntime on an
    encoder with attention of 4,096 tokens took 1 GB more by it.
    """
    if _process.keeps:
        _set(MMAP_THRESHOLD, LARGE)
        _set(TRIM_THRESHOLD, LARGE)
        _set(TOP_PAD, LARGE)
        _process.keeps = False
    if platform.libc_ver()[0] == "glibc":
        getattr(ctypes.CDLL(None), "malloc_trim", int)(0)


def _set(what: int, value: int) -> bool:
    """Whether the allocator took it."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(what, value))
