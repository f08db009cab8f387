"""train → convert → verify → serve-bench on the smallest zoo model, then a summary of the records they leave."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

MODEL = "aa_cnn3_digits"
INVALID = 4  # of serve-bench: its numbers are shown, with the reason


def main() -> int:
    """Runs the four commands in a new folder; returns the exit code of the first that fails, or 0."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="new folders are made in here")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--duration", type=float, help="seconds of measuring, instead of serve-bench's")
    options = parser.parse_args()
    began = time.perf_counter()
    folder = new_folder(options.out)
    epochs = [] if options.epochs is None else ["--epochs", str(options.epochs)]
    duration = [] if options.duration is None else ["--duration", str(options.duration)]
    for arguments in (
        ["train", MODEL, "--out", str(folder), *epochs],
        ["convert", str(folder)],
        ["verify", str(folder)],
        ["serve-bench", str(folder), *duration],
    ):
        print(f"\n$ aaexport {' '.join(arguments)}", flush=True)
        code = subprocess.run([sys.executable, "-m", "aaexport", *arguments], check=False).returncode
        if code not in (0, INVALID):
            return code
    print(summary(folder, time.perf_counter() - began))
    return code


def new_folder(parent: Path) -> Path:
    """The first of MODEL, MODEL-2, MODEL-3 … in `parent` that does not exist yet."""
    parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while (folder := parent / (MODEL if number == 1 else f"{MODEL}-{number}")).exists():
        number += 1
    return folder


def summary(folder: Path, seconds: float) -> str:
    """What a person wants to know at the end, from parity.json and bench.json."""
    parity = json.loads((folder / "parity.json").read_text())
    bench = json.loads((folder / "bench.json").read_text())
    accuracy, (comparison,) = parity["accuracy"], bench["comparisons"]
    speed = f"withheld: {comparison['withheld']}"
    if comparison["ratio"] is not None:
        speed = f"{comparison['ratio']['median']:.2f} × as fast as {comparison['label']}, measured in the same run"
    warnings = "".join(f"\n  warning        {warning}" for warning in bench["warnings"])
    warnings = "".join(f"\n  INVALID        {reason}" for reason in bench["reasons"]) + warnings
    found = {name: bench["percentiles"][name]["value"] for name in ("p50", "p90", "p99")}
    latency = ", ".join(f"{name} {'withheld' if ms is None else f'{ms:.3f} ms'}" for name, ms in found.items())
    return f"""
Summary
  test accuracy  {accuracy["torch"]:.2%} in PyTorch, {accuracy["runner"]:.2%} in onnxruntime
  largest error  {parity["max_abs_error"]:.1e} against float64, {parity["max_error_ratio"]:.1f} × PyTorch's own
  latency        {latency} ({bench["label"]}, batch {bench["load"]["samples_per_query"]})
  speed          {speed}
  files          {folder}/
  took           {seconds:.0f} s{warnings}"""


if __name__ == "__main__":
    sys.exit(main())
