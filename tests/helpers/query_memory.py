"""FILE.onnx → megabytes that a query of one image takes beyond the loaded model, by itself in a process (Linux)."""

import sys
from pathlib import Path

import numpy as np
import onnxruntime


def memory(key):
    """VmRSS, or its peak VmHWM, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


def main(path, answer):
    options = onnxruntime.SessionOptions()
    options.enable_cpu_mem_arena = False  # what tensors take, without what is kept for the next query
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
