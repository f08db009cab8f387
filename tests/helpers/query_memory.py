"""FILE.onnx → megabytes that a query of one image takes beyond the loaded model, by itself in a process (Linux).

With a third argument, `arena`, by onnxruntime's default allocator, as a file is served; else tensor by tensor.
"""

import ctypes
import platform
import sys
from pathlib import Path

import numpy as np
import onnxruntime

MMAP_THRESHOLD = -3  # as <malloc.h> of glibc numbers it


def memory(key):
    """VmRSS, or its peak VmHWM, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


def give_back_at_once():
    """Lets glibc map every tensor by itself, and so give it back.

    By itself it keeps tensors of up to 32 MiB in a heap, once one of that size was freed, and that breaks into pieces
    in which the next have no room: blocks of 16 MiB then take more than blocks of 64.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, 2**16)


def main(path, answer, allocator="none"):
    options = onnxruntime.SessionOptions()
    options.enable_cpu_mem_arena = allocator == "arena"
    if not options.enable_cpu_mem_arena:
        give_back_at_once()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    images = np.random.default_rng(0).standard_normal((1, *given.shape[1:]), dtype=np.float32)
    Path("/proc/self/clear_refs").write_text("5")  # the peak of loading does not count
    before = memory("VmRSS")
    (features,) = session.run(None, {given.name: images})
    print((memory("VmHWM") - before) / 1e6)
    np.save(answer, features)


if __name__ == "__main__":
    main(*sys.argv[1:])
