"""The reference's layer and networks, exported naively and by aaexport: latencies, memory, training steps."""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # where alternating.py lies

import alternating
import numpy as np
import torch
from naive import naive

import aaexport
from aaexport.folder import checkout, find_model
from aaexport.nn import AugmentedConv2d, set_decomposition
from aaexport.nn.build import build_network, calibrate_normalization
from aaexport.nn.relative import DECOMPOSITIONS
from aaexport.pipeline.bench.contender import Contender
from aaexport.pipeline.bench.worker_models import WorkerSpec
from aaexport.pipeline.subject.subject import write_random_weights

WIDE = Path(__file__).parent / "aa_wrn16_2_reference"
LAYER = {"dk": 64, "dv": 32, "num_heads": 4, "qkv_kernel_size": 3, "bias": True}  # the reference's, 64 → 128 channels


def main():
    arguments = parsed()
    if arguments.child:
        return print(json.dumps(CHILDREN[arguments.child[0]](*arguments.child[1:])))
    with tempfile.TemporaryDirectory() as folder:
        rows = table(Path(folder), arguments)
    print_table(rows)
    if arguments.json:
        text = {"schema": "aaexport.attention-benchmark/2", "threads": torch.get_num_threads(), "rows": rows}
        Path(arguments.json).write_text(json.dumps(text, indent=2) + "\n")
    return None


def parsed():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6, help="pairs of measurements a row")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--only", default="", metavar="TEXT", help="the rows whose name has TEXT in it")
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--json", help="write the rows to this file too")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args()


def print_table(rows):
    print("| what | median | lowest – highest | pairs or runs |\n|---|---|---|---|")
    for found in rows:
        span = f"{found['lowest']:.2f} – {found['highest']:.2f}"
        print(f"| {found['what']} | {found['median']:.2f} | {span} | {found['runs']} |")


def table(folder, arguments):
    """Every row: a ratio of two children's numbers, pair by pair; the last one is seconds."""
    small, large = (8, 12) if arguments.quick else (32, 64)
    tiny = ("aa_wrn10_1_digits", "wrn10_1_digits", "aa_wrn10_1_digits")
    network, twin, wide = tiny if arguments.quick else ("aa_resnet50", "resnet50", WIDE)
    files = {
        f"{side}{size}": export_layer(folder, side, size) for side in ("naive", "ours") for size in (small, large)
    }
    files |= {side: export_network(folder, side, network) for side in ("naive", "ours")}
    files |= {f"{side} wide": export_network(folder, side, wide) for side in ("naive", "ours")}
    files["plain"] = export_network(folder, "plain", twin)

    def latency(name, batch):
        return ("latency", str(files[name]), str(batch), str(arguments.seconds))

    def memory(name):
        return ("memory", str(files[name]), "1")

    def step(side, size, batch):
        return ("step", side, str(size), str(batch), str(arguments.seconds))

    wanted = [
        (f"layer {small}×{small}, batch 4: naive ÷ ours", latency(f"naive{small}", 4), latency(f"ours{small}", 4)),
        (f"layer {large}×{large}, batch 1: naive ÷ ours", latency(f"naive{large}", 1), latency(f"ours{large}", 1)),
        (
            f"layer {large}×{large}, batch 1, extra peak memory: naive ÷ ours",
            memory(f"naive{large}"),
            memory(f"ours{large}"),
        ),
        *((f"{network} ÷ {twin}, batch {b}", latency("ours", b), latency("plain", b)) for b in (1, 8)),
        *((f"{network}, batch {b}: naive ÷ ours", latency("naive", b), latency("ours", b)) for b in (1, 8)),
        (f"{Path(wide).name}, batch 1: naive ÷ ours", latency("naive wide", 1), latency("ours wide", 1)),
        (f"training step {small}×{small}, batch 4: naive ÷ ours", step("naive", small, 4), step("ours", small, 4)),
        (
            f"training step {small // 2}×{small // 2}, batch 16: naive ÷ ours",
            step("naive", small // 2, 16),
            step("ours", small // 2, 16),
        ),
    ]
    rows = [ratio(*order, arguments.rounds) for order in wanted if arguments.only in order[0]]
    if arguments.only:
        return rows
    return [*rows, seconds_of_convert(folder / network, network, arguments.rounds)]


def ratio(what, first, second, rounds):
    """The row of two children's numbers, measured in turns."""
    pairs = alternating.pairs(child, first, second, rounds)
    return alternating.ratio(what, pairs, first=[pair[0] for pair in pairs], second=[pair[1] for pair in pairs])


def seconds_of_convert(folder, name, runs):
    """The whole command, Python's start with it, in a folder that has its weights."""
    write_random_weights(checkout(name, folder))
    seconds = []
    for _ in range(runs):
        began = time.perf_counter()
        command = [sys.executable, "-m", "aaexport", "--quiet", "convert", str(folder), "--no-verify"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - began)
    return alternating.row(f"convert {name} --no-verify, seconds", seconds)


def child(order):
    command = [sys.executable, sys.argv[0], "--child", *order]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(printed.splitlines()[-1])  # a library may have said something before


# Files


def layer(side, size):
    torch.manual_seed(0)
    built = AugmentedConv2d(64, 128, height=size, width=size, **LAYER).eval()
    if side == "naive":
        use_naive(built)
    return built


def use_naive(module):
    DECOMPOSITIONS["skew"] = naive
    set_decomposition(module, "skew")


def network(side, name):
    """The module, with random weights that keep the scale of activations, and the shape of its images."""
    recipe = find_model(name).recipe
    module = build_network(recipe)
    calibrate_normalization(module, recipe.input.shape, seed=0)
    if side == "naive":
        use_naive(module)
    return module, recipe.input.shape


def export_layer(folder, side, size):
    path = folder / f"layer_{side}_{size}.onnx"
    return exported(path, layer(side, size), (64, size, size), naively=side == "naive")


def export_network(folder, side, name):
    return exported(folder / f"{Path(name).name}_{side}.onnx", *network(side, name), naively=side == "naive")


def exported(path, module, shape, *, naively=False, batch="dynamic", opset=None, target="cpu"):
    if path.exists():
        return path
    print(f"exporting {path.name}", file=sys.stderr)
    if not naively:
        aaexport.convert(module, path, input_shape=shape, batch=batch, opset=opset, target=target, verify=False)
        return path
    example = torch.zeros(2 if batch == "dynamic" else batch, *shape)
    sizes = ({0: torch.export.Dim("batch")},) if batch == "dynamic" else None
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (example,), path, dynamo=True, dynamic_shapes=sizes, external_data=False, verbose=False
        )
    return path


# One measurement, in a process of its own


def latency(path, batch, seconds):
    """The median in milliseconds."""
    return median_of(query(path, int(batch)), float(seconds))


def memory(path, batch):
    """Bytes that the first query took at its peak, by the system's own count; Linux only.

    In a process that has loaded nothing but the session: memory that others have freed would hide what it takes.
    """
    shape = aaexport.inspect(path).graph.inputs[0].shape[1:]
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder) / "samples.npy"
        np.save(samples, np.random.default_rng(0).standard_normal((int(batch), *shape), dtype=np.float32))
        with Contender(WorkerSpec("onnxruntime", path, str(samples), "cpu", None)) as worker:
            taken = worker.peak_memory(int(batch))
    return taken if taken is not None else sys.exit("the system does not tell the peak of a process's memory")


def step(side, size, batch, seconds):
    """Forward and backward pass of the layer, the median in milliseconds."""
    module = layer(side, int(size)).train()
    images = torch.randn(int(batch), 64, int(size), int(size), requires_grad=True)

    def once():
        module.zero_grad()
        module(images).sum().backward()

    return median_of(once, float(seconds))


def query(path, batch):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (port,) = session.get_inputs()
    shape = (batch, *port.shape[1:])
    feeds = {port.name: np.random.default_rng(0).standard_normal(shape, dtype=np.float32)}
    return lambda: session.run(None, feeds)


def median_of(action, seconds):
    for _ in range(3):
        action()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        began = time.perf_counter()
        action()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


CHILDREN = {"latency": latency, "memory": memory, "step": step}

if __name__ == "__main__":
    main()
