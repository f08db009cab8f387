"""What bringing the reference's Wide-ResNets along takes and gives, and `optimize` for its layer: a table."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # where alternating.py lies

import alternating
import torch
from mynets import AugmentedConv
from wide_resnet import WideResNet

from aaexport.folder import tool_versions
from aaexport.load.machine import MachineWatch
from aaexport.writing import write_json

SCHEMA = "aaexport.bring-your-own/2"
HERE = Path(__file__).parent
LAYER = {"kernel_size": 3, "dk": 64, "dv": 32, "Nh": 4, "relative": True}


def main():
    arguments = parsed()
    if arguments.child:
        name, *rest = json.loads(arguments.child)
        return print(json.dumps(CHILDREN[name](*rest)))
    watch = MachineWatch()
    with tempfile.TemporaryDirectory() as room:
        rows = [row for size in arguments.networks for row in of_network(Path(room), size, arguments)]
        rows += of_layer(Path(room), arguments)
    print("| what | measured | range | pairs or runs |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row['what']} | {row['median']:.4g} | {row['lowest']:.4g}–{row['highest']:.4g} | {row['runs']} |")
    if arguments.json:
        machine = watch.environment()
        facts = {"schema": SCHEMA, "cpu": machine.cpu, "cores": machine.cores, "steal_share": machine.steal_share}
        write_json(arguments.json, {**facts, "tools": tool_versions(), "rows": rows})
    return None


def parsed():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="*", default=["16-2", "28-10"], help="depth-widen of Wide-ResNets")
    parser.add_argument("--pairs", type=int, default=5, help="of measurements a ratio")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--side", type=int, default=32, help="of the single layer's map")
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def of_network(room, size, arguments):
    """The conversion from a checkpoint, and the latency of what comes of it against the plain export's."""
    name, checkpoint, out = f"Wide-ResNet {size}", room / f"{size}.t7", room / size
    child("checkpoint", size, checkpoint)
    order = json.dumps(["plain_network", size, str(checkpoint), str(room / f"{size}.onnx")])
    plain = child("timed", sys.executable, __file__, "--child", order)
    depth, widen = size.split("-")
    converted = child(
        "timed", sys.executable, "-m", "aaexport", "--quiet", "convert", HERE / "wide_resnet.py:WideResNet",
        "--kwargs", f"depth={depth}", "--kwargs", f"widen_factor={widen}", "--checkpoint", checkpoint,
        "--input-shape", "3x32x32", "--out", out,
    )  # fmt: skip
    return [
        alternating.row(f"{name}: a script that loads it and exports it plainly, seconds", [plain["seconds"]]),
        alternating.row(f"{name}: convert with checkpoint and verification, seconds", [converted["seconds"]]),
        alternating.row(f"{name}: convert, peak memory in GB", [converted["gigabytes"]]),
        alternating.row(
            f"{name}: largest error of the file", [json.loads((out / "parity.json").read_text())["max_abs_error"]]
        ),
        ratio(f"{name}, batch 1: naive ÷ ours", room / f"{size}.onnx", out / "model.onnx", 1, arguments),
    ]


def of_layer(room, arguments):
    """The single layer's file by each of torch's exporters, and what `optimize` makes of it."""
    rows = []
    for exporter in ("dynamo", "torchscript"):
        theirs, fast = room / f"{exporter}.onnx", room / f"{exporter}_fast.onnx"
        child("plain_layer", exporter, arguments.side, theirs)
        command = [sys.executable, "-m", "aaexport", "--quiet", "optimize", str(theirs), str(fast)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        what = f"layer {arguments.side}×{arguments.side}, batch 4, by {exporter}: file ÷ optimized"
        rows.append(ratio(what, theirs, fast, 4, arguments))
    return rows


def ratio(what, slow, fast, batch, arguments):
    """The row of two files' latencies, measured in turns, each time in a new process."""

    def latency_of(path):
        return child("latency", path, batch, arguments.seconds)

    pairs = alternating.pairs(latency_of, slow, fast, arguments.pairs)
    return alternating.ratio(what, pairs, milliseconds=pairs)


def child(*order):
    """What a function of CHILDREN returns in a process of its own."""
    command = [sys.executable, __file__, "--child", json.dumps(list(map(str, order)))]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


# What a process of its own does


def network(size):
    depth, widen = map(int, size.split("-"))
    return WideResNet(depth, widen)


def checkpoint(size, path):
    """Random weights, with statistics of normalization that differ from channel to channel."""
    torch.manual_seed(0)
    module = network(size)
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    torch.save({"model": module.state_dict()}, path)


def plain_network(size, weights, path):
    """Torch's own export, once gradients are out of the way."""
    module = network(size).eval().requires_grad_(False)
    module.load_state_dict(torch.load(weights, weights_only=True)["model"])
    export(module, torch.zeros(2, 3, 32, 32), path)


def plain_layer(exporter, side, path):
    side = int(side)
    torch.manual_seed(0)
    module = AugmentedConv(64, 128, shape=side, **LAYER).eval().requires_grad_(False)
    export(module, torch.zeros(2, 64, side, side), path, dynamo=exporter == "dynamo")


def export(module, example, path, dynamo=True):
    options = {"dynamic_shapes": ({0: torch.export.Dim("batch")},), "external_data": False, "verbose": False}
    if not dynamo:
        options = {"input_names": ["x"], "dynamic_axes": {"x": {0: "batch"}}, "opset_version": 17}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (example,), path, dynamo=dynamo, **options)


def timed(*command):
    """Seconds and peak memory of a command; Linux tells the peak in KiB."""
    import resource

    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "gigabytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9}


def latency(path, batch, seconds):
    """The median of a query in milliseconds."""
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (port,) = session.get_inputs()
    images = np.random.default_rng(0).standard_normal((int(batch), *port.shape[1:]), dtype=np.float32)
    times, end = [], time.perf_counter() + float(seconds)
    while time.perf_counter() < end or len(times) < 8:
        began = time.perf_counter()
        session.run(None, {port.name: images})
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times[3:])  # the first ones prepare what the others use


CHILDREN = {f.__name__: f for f in (checkpoint, plain_network, plain_layer, timed, latency)}

if __name__ == "__main__":
    main()
