"""What the load engine costs beside a plain loop around session.run, and what dynamic batching gains a server."""

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # where alternating.py lies

import alternating
import numpy as np

import aaexport
from aaexport.folder import checkout, tool_versions
from aaexport.load.machine import MachineWatch
from aaexport.load.measurement import Load
from aaexport.load.single_stream import BlockPlan
from aaexport.pipeline.bench.contender import Contender
from aaexport.pipeline.bench.run_order import RunOrder
from aaexport.pipeline.bench.worker_models import WorkerSpec
from aaexport.writing import write_json

SCHEMA = "aaexport.under-load/1"
PEAKS = {"default": {}, "threads 1": {"threads": 1}, "workers 2": {"workers": 2}}
BOUND = 20.0  # milliseconds that p99 must keep


def main():
    arguments = parsed()
    with tempfile.TemporaryDirectory() as room:
        folder = checkout(arguments.model, Path(room) / "model")
        aaexport.convert(folder, verify=False)
        watch = MachineWatch()
        rows = [overhead(folder, Path(room), arguments)]
        rows += [batching(folder, name, options, arguments) for name, options in PEAKS.items()]
        machine = watch.environment()
    print("| what | median | range | pairs |\n|---|---|---|---|")
    for row in rows:
        spread = f"{row['lowest']:.3f}–{row['highest']:.3f}"
        print(f"| {row['what']} | {row['median']:.3f} | {spread} | {len(row['pairs'])} |")
    if arguments.json is not None:
        facts = {"schema": SCHEMA, "model": arguments.model, "cpu": machine.cpu, "cores": machine.cores}
        shares = {"steal_share": machine.steal_share, "other_load_share": machine.other_load_share}
        write_json(arguments.json, {**facts, **shares, "tools": tool_versions(), "rows": rows})


def parsed():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="aa_cnn3_digits", help="a zoo model that has weights")
    parser.add_argument("--pairs", type=int, default=5, help="of measurements in alternation, a row")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a block, and of a rate that is tried")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    return parser.parse_args()


def overhead(folder, room, arguments):
    """Blocks of one process in turns: the same session by the engine's closed loop and by a bare loop."""
    rng = np.random.default_rng(0)
    np.save(room / "samples.npy", rng.standard_normal((64, *folder.recipe.input.shape), dtype=np.float32))
    spec = WorkerSpec("onnxruntime", str(folder.onnx_path), str(room / "samples.npy"), "cpu", 1)
    order = RunOrder(Load("single-stream"), arguments.seconds, 0.3)
    plan = BlockPlan(0.3, arguments.seconds, 1, 60.0)
    with Contender(spec) as worker:
        pairs = alternating.pairs(
            lambda latencies: float(np.median(latencies())),
            lambda: worker.run(order).log.latencies,
            lambda: worker.block(1, plan),
            arguments.pairs,
        )
    return alternating.ratio("median latency, 1 thread: load engine ÷ plain loop", pairs, pairs=pairs)


def batching(folder, name, options, arguments):
    """The highest rate that keeps p99 within the bound, with batches of up to 32 images and without."""

    def rate(size):
        return peak(folder, size, options, arguments.seconds)

    pairs = alternating.pairs(rate, 32, 1, arguments.pairs)
    what = f"peak rate, p99 ≤ {BOUND:g} ms, {name}: with ÷ without dynamic batching"
    return alternating.ratio(what, pairs, pairs=pairs)


def peak(folder, max_batch, options, seconds):
    report = aaexport.serve_bench(
        folder, scenario="server", find_peak=True, latency_bound=BOUND, max_batch=max_batch, duration=seconds,
        device="cpu", **options,
    )  # fmt: skip
    print(json.dumps({"max_batch": max_batch, **options, "peak": report.peak.rate}), flush=True)
    return report.peak.rate


if __name__ == "__main__":
    main()
