"""Two ONNX files → latency of the first ÷ that of the second: warm medians of processes that take turns."""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # where alternating.py lies

import numpy as np
import onnxruntime
from alternating import pairs, ratio

COLD = 2  # the first queries of a file are dearer than all others


def main() -> None:
    """Measures the pairs, or, called by itself with `--one`, one file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="two: FIRST SECOND")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--queries", type=int, default=15, help="of each process, besides two that do not count")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(median_ms(options.files[0], options.batch, options.threads, options.queries))
        return
    first, second = options.files
    found = pairs(lambda file: in_a_process(file, options), first, second, options.pairs)
    what = f"{first} ÷ {second}, batch {options.batch}, threads {options.threads}"
    print(json.dumps(ratio(what, found, pairs_ms=found), indent=1))


def in_a_process(file: Path, options: argparse.Namespace) -> float:
    """Milliseconds."""
    numbers = {"--batch": options.batch, "--threads": options.threads, "--queries": options.queries}
    arguments = [text for name, value in numbers.items() for text in (name, str(value))]
    command = [sys.executable, __file__, str(file), "--one", *arguments]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def median_ms(file: Path, batch: int, threads: int, queries: int) -> float:
    """Of the file by itself, on noise of its own size."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])
    (port,) = session.get_inputs()
    images = np.random.default_rng(0).standard_normal((batch, *port.shape[1:])).astype(np.float32)
    took = []
    for _ in range(COLD + queries):
        began = time.perf_counter()
        session.run(None, {port.name: images})
        took.append(1e3 * (time.perf_counter() - began))
    return statistics.median(took[COLD:])


if __name__ == "__main__":
    main()
