"""Freed memory that a process keeps: PyTorch on the CPU asks for tensors of the same sizes again and again."""

from __future__ import annotations

import ctypes
import platform

# As <malloc.h> of glibc numbers them.
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
MOST = 2**31 - 1  # bytes, of a C int
LARGEST = 2**27  # bytes of a tensor whose memory is kept: of larger ones whatever is kept is soon too much
MOST_OF_OLD = 2**25  # what glibc took at the most in former versions
PADDING = 2**26  # bytes


def keep_freed_memory() -> None:
    """Lets glibc keep what is freed, for this process to its end; elsewhere nothing happens.

    By itself it gives every tensor of some MiB back to the system at once, and the next one is paid for page by page:
    up to half of the time that a network with naive attention takes in eager mode. For commands that run PyTorch and
    measure nothing: the allocator of somebody else's process is not ours, and a latency is that of a plain one.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # The threshold first: without it the others would only keep glibc from adapting by itself.
    if mallopt is not None and (mallopt(MMAP_THRESHOLD, LARGEST) or mallopt(MMAP_THRESHOLD, MOST_OF_OLD)):
        mallopt(TRIM_THRESHOLD, MOST)
        mallopt(TOP_PAD, PADDING)
