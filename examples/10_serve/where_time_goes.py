"""Where a lone client's query spends its time: Triton's own account, CPU time and changes of process, by process."""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from serving_numbers import added, block, family, images, keep, null_server, prepared, service, session

from aaexport.load.machine import MachineWatch
from aaexport.serving.client import Client

SCHEMA = "aaexport.where-time-goes/1"
TICKS = os.sysconf("SC_CLK_TCK")
PHASES = ("request", "queue", "input", "infer", "output")


def main():
    arguments = parsed()
    watch = MachineWatch()
    rows = {}
    with tempfile.TemporaryDirectory() as room:
        folder = prepared(arguments.model, Path(room))
        for name, words in (("batching", ()), ("one_by_one", ("--no-batching",))):
            with service(folder, *words, "--check-every", "1h") as (process, facts, _, _):
                for way in ("rest", "grpc"):
                    rows[f"{way}, {name}"] = account(folder, facts[way], way, process.pid, arguments)
    machine = watch.environment()
    print(json.dumps(rows, indent=2))
    if arguments.json is not None:
        keep(arguments, SCHEMA, machine, ways=rows)


def parsed():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", default="aa_cnn3_digits", help="a zoo model, or a folder of one that is converted already"
    )
    parser.add_argument("--blocks", type=int, default=7, help="of each way, in alternation")
    parser.add_argument("--seconds", type=float, default=0.5, help="of a block")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    return parser.parse_args()


def account(folder, url, way, pid, arguments):
    """Milliseconds a query: the session by itself, the whole query, and the parts that somebody keeps account of."""
    asked = {"input": images(folder, 1)}
    with Client(url) as client, session(folder) as runner:
        model = client.model(folder.name)
        with null_server("http" if way == "rest" else "grpc", model) as null_url, Client(null_url) as null:
            ways = {
                "direct": lambda: runner.infer(asked),
                way: lambda: client.infer(folder.name, asked),
                f"null_{way}": lambda: null.infer(folder.name, asked),
            }
            medians = {name: [] for name in ways}
            for turn in range(arguments.blocks + 1):
                for name, ask in ways.items():
                    median = block(ask, arguments.seconds)
                    if turn:  # the first warms up
                        medians[name].append(median)
        counted = of_one_way(lambda: client.infer(folder.name, asked), client, folder.name, pid, arguments)
    return {
        "median_ms": {name: statistics.median(found) for name, found in medians.items()},
        "added": added(medians, way),
        **counted,
    }


def of_one_way(ask, client, name, pid, arguments):
    """A query's share of what was counted while one followed the other."""
    processes = {process: called(process, pid, name) for process in family(pid)} | {os.getpid(): "client"}
    before, used, changes = client.statistics(name), *spent(processes)
    asked, deadline = 0, time.perf_counter() + arguments.blocks * arguments.seconds
    while time.perf_counter() < deadline:
        ask()
        asked += 1
    counted, (used_then, changes_then) = client.statistics(name) - before, spent(processes)
    return {
        "triton_ms": {phase: getattr(counted, f"{phase}_ns") / counted.requests / 1e6 for phase in PHASES},
        "cpu_ms": {name: (used_then[name] - used[name]) / asked * 1e3 for name in used},
        "voluntary_switches": {name: (changes_then[name] - changes[name]) / asked for name in changes},
    }


def called(process, pid, name):
    command = Path(f"/proc/{process}/cmdline").read_bytes()
    if process == pid:
        return "watchdog"
    if b"python_backend_stub" in command:
        return "backend" if f"/{name}/".encode() in command else "other"
    return "triton" if b"tritonserver" in command else "other"


def spent(processes):
    """CPU seconds, and how often a thread gave the CPU up to wait, by who it is."""
    used, changes = {}, {}
    for process, who in processes.items():
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        used[who] = used.get(who, 0.0) + (int(fields[11]) + int(fields[12])) / TICKS
        found = sum(waits(task) for task in Path(f"/proc/{process}/task").iterdir())
        changes[who] = changes.get(who, 0) + found
    return used, changes


def waits(task):
    lines = (task / "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


if __name__ == "__main__":
    main()
