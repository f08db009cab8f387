"""Two ONNX files → latency of the first ÷ that of the second: medians of two warm processes that take turns.

Each file has a process of its own, which loads it once and then answers a few queries whenever it is its turn: so
both sides of a pair are seconds apart, and a machine that changes its speed for a minute changes it for both.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # where alternating.py lies

import numpy as np
import onnxruntime
from alternating import pairs, ratio

COLD = 2  # the first queries of a file are dearer than all others


def main() -> None:
    """Measures the pairs, or, called by itself with `--one`, is one of the two processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="two: FIRST SECOND")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--queries", type=int, default=15, help="of each turn, after one that does not count")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        serve(options.files[0], options.batch, options.threads, options.queries)
        return
    first, second = options.files
    with warm(first, options) as ours, warm(second, options) as theirs:
        found = pairs(turn, ours, theirs, options.pairs)
    what = f"{first} ÷ {second}, batch {options.batch}, threads {options.threads}"
    print(json.dumps(ratio(what, found, pairs_ms=found), indent=1))


@contextlib.contextmanager
def warm(file: Path, options: argparse.Namespace) -> Iterator[subprocess.Popen[str]]:
    """A process that has loaded the file and thrown its first queries away."""
    numbers = {"--batch": options.batch, "--threads": options.threads, "--queries": options.queries}
    arguments = [text for name, value in numbers.items() for text in (name, str(value))]
    command = [sys.executable, __file__, str(file), "--one", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            turn(process)
            yield process
        finally:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()


def turn(process: subprocess.Popen[str]) -> float:
    """Milliseconds: the median of as many queries as a turn has."""
    answer = ""
    with contextlib.suppress(BrokenPipeError):  # it has ended already
        process.stdin.write("\n")
        process.stdin.flush()
        answer = process.stdout.readline()
    if not answer:
        raise SystemExit(f"a process that measures ended with {process.wait()}")
    return float(answer)


def serve(file: Path, batch: int, threads: int, queries: int) -> None:
    """Answers each line of standard input with the median of so many queries of noise; the first warms it."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])
    (port,) = session.get_inputs()
    images = np.random.default_rng(0).standard_normal((batch, *port.shape[1:])).astype(np.float32)
    for number, _ in enumerate(sys.stdin):
        feeds = {port.name: images}
        median_ms(session, feeds, 1 if number else COLD)  # the other process had the caches meanwhile
        print(median_ms(session, feeds, queries), flush=True)


def median_ms(session: onnxruntime.InferenceSession, feeds: dict[str, np.ndarray], queries: int) -> float:
    """Of so many queries, one after another."""
    took = []
    for _ in range(queries):
        began = time.perf_counter()
        session.run(None, feeds)
        took.append(1e3 * (time.perf_counter() - began))
    return statistics.median(took)


if __name__ == "__main__":
    main()
