"""One service, one query after the other: medians of `aaexport serve-bench --url` and of perf_analyzer, in turns."""

import argparse
import csv
import json
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from serving_numbers import keep, prepared, service

from aaexport.load.machine import MachineWatch

SCHEMA = "aaexport.beside-perf-analyzer/1"
WINDOWS = 3  # that perf_analyzer wants at the least
KINDS = {"rest": "http", "grpc": "grpc"}
ANY_SPREAD = "999"  # percent: whether a median is to be trusted is seen from the pairs


def main():
    arguments = parsed()
    command = runnable(arguments.perf_analyzer)
    with tempfile.TemporaryDirectory() as room:
        folder = prepared(arguments.model, Path(room))
        watch = MachineWatch()
        with service(folder) as (_, facts, _, _):
            rows = {way: in_turns(folder, facts[way], way, command, arguments) for way in arguments.ways}
        machine = watch.environment()
    print(json.dumps(rows, indent=2))
    for way, row in rows.items():
        print(f"{way}: perf_analyzer's median is {row['ratio']:.3f} × serve-bench's", file=sys.stderr)
    if arguments.json is not None:
        keep(arguments, SCHEMA, machine, ways=rows)


def parsed():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", default="aa_resnet50", help="a zoo model, or a folder of one that is converted already"
    )
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0, help="of a measurement")
    parser.add_argument("--ways", type=lambda text: text.split(","), default=list(KINDS), help=",".join(KINDS))
    parser.add_argument("--perf-analyzer", default="perf_analyzer", help="what starts it; words as in a shell")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    return parser.parse_args()


def runnable(words):
    """What starts perf_analyzer; ends with 0 and the reason where it does not run here."""
    command = shlex.split(words)
    if shutil.which(command[0]) is None:
        skipped(f"{command[0]} is not there; pip install perf-analyzer, or name it with --perf-analyzer")
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    if done.returncode or "Version" not in done.stdout + done.stderr:
        said = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        skipped(f"{words} does not run here: {said}")
    return command


def skipped(reason):
    print(f"skipped: {reason}", file=sys.stderr)
    raise SystemExit(0)


def in_turns(folder, url, way, command, arguments):
    """Medians in ms; who goes first changes from pair to pair."""
    medians = {"serve_bench": [], "perf_analyzer": []}
    measure = {
        "serve_bench": lambda: of_serve_bench(folder, url, arguments.seconds),
        "perf_analyzer": lambda: of_perf_analyzer(folder.name, url, KINDS[way], command, arguments.seconds),
    }
    for pair in range(arguments.pairs):
        for name in sorted(measure, reverse=bool(pair % 2)):
            medians[name].append(measure[name]())
    pairs = zip(medians["perf_analyzer"], medians["serve_bench"], strict=True)
    return {"median_ms": medians, "ratio": statistics.median(theirs / ours for theirs, ours in pairs)}


def of_serve_bench(folder, url, seconds):
    words = ["--url", url, "--duration", f"{seconds}s", "--batch", "1", "--compare", "none", "--json"]
    command = [sys.executable, "-m", "aaexport", "serve-bench", str(folder.path), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.stdout:
        raise SystemExit(done.stderr)
    report = json.loads(done.stdout)
    for reason in report["reasons"]:
        print(f"serve-bench: {reason}", file=sys.stderr)
    return report["percentiles"]["p50"]["value"]


def of_perf_analyzer(name, url, kind, command, seconds):
    with tempfile.TemporaryDirectory() as room:
        table = Path(room) / "found.csv"
        words = ["-m", name, "-u", url.rpartition("/")[2], "-i", kind, "-b", "1", "--concurrency-range", "1"]
        words += ["--measurement-interval", f"{seconds / WINDOWS * 1000:.0f}", "--max-trials", str(WINDOWS)]
        words += ["--stability-percentage", ANY_SPREAD, "--percentile", "50", "-f", str(table)]
        done = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
        if not table.is_file():
            raise SystemExit(done.stdout + done.stderr)
        (row,) = csv.DictReader(table.read_text().splitlines())
    return float(row["p50 latency"]) / 1000


if __name__ == "__main__":
    main()
