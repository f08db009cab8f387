"""The table of 03_measure_attention on an NVIDIA GPU, in float32 and float16, and which kernels computed it."""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples/03_measure_attention"))

# The rest of the imports need that path.
# ruff: noqa: E402
import measure
import numpy as np
import onnx
import torch
from one_measurement import CHILDREN, built
from onnxruntime.transformers.float16 import convert_float_to_float16

from aaexport.device import parse_device
from aaexport.errors import AaexportError, ProviderError
from aaexport.folder import tool_versions
from aaexport.graph.probe import probe_model
from aaexport.load.machine import MachineWatch
from aaexport.recipe import check_opset
from aaexport.runners.ort import OrtRunner
from aaexport.writing import check_writable, write_json

SCHEMA = "aaexport.gpu-benchmark/1"
FULL = {"small": 32, "large": 64, "many": 32, "network": "aa_resnet50", "twin": "resnet50", "wide": measure.WIDE}
FULL |= {"batches": (1, 64)}
TINY = {"small": 8, "large": 8, "many": 4, "network": "aa_wrn10_1_digits", "twin": "wrn10_1_digits"}
TINY |= {"wide": "aa_wrn10_1_digits", "batches": (1,)}
SAME = {"fp32": 1e-3, "fp16": 5e-2}  # how far two sides' answers may lie apart, by the largest number in them


def main():
    arguments = parsed()
    if arguments.child:
        print(json.dumps(CHILDREN[arguments.child[0]](*arguments.child[1:])))
        return 0
    try:
        run(arguments)
    except AaexportError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def run(arguments):
    check_opset(arguments.opset)
    hardware = hardware_of(arguments.device)
    target = arguments.json or (None if arguments.quick else result_path(hardware, arguments.opset))
    if target is not None:
        check_writable(target)
    with tempfile.TemporaryDirectory() as folder:
        session = Measurement(Path(folder), arguments)
        rows = session.latencies() + session.memories() + session.steps()
        kernels = session.kernels()
    print_table(rows)
    print_kernels(kernels)
    facts = {"schema": SCHEMA, "hardware": hardware, "cuda": torch.version.cuda, "opset": arguments.opset}
    if target is not None:
        write_json(target, {**facts, "tools": tool_versions(), "rows": rows, "kernels": kernels})


def parsed():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu to see that the script works")
    parser.add_argument(
        "--opset", type=int, default=23, help="of our files; from 23 on a layer is one Attention node"
    )
    parser.add_argument("--rounds", type=rounds, default=4, help="pairs of measurements a row")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, and no file unless --json names one")
    parser.add_argument("--json", type=Path, help="instead of docs/results/attention_<hardware>_opset<N>.json")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args()


def rounds(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"rounds must be at least 1, got {text!r}")
    return int(text)


def hardware_of(device):
    """The device's name. ProviderError if onnxruntime or torch cannot use it here."""
    kind, index = parse_device(device)
    OrtRunner(probe_model(), device=device)
    if kind == "cpu":
        return MachineWatch().environment().cpu
    if not torch.cuda.is_available():
        raise ProviderError("torch must find the CUDA device too, got none; install a CUDA build of torch")
    return torch.cuda.get_device_name(index)


def result_path(hardware, opset):
    name = re.sub(r"[^a-z0-9]+", "_", hardware.lower()).strip("_")
    return ROOT / f"docs/results/attention_{name}_opset{opset}.json"


def print_table(rows):
    measure.print_table([row for row in rows if "failed" not in row])
    for row in rows:
        if "failed" in row:
            print(f"\nnot measured: {row['what']}: {row['failed']}")


def print_kernels(kernels):
    for what, found in kernels.items():
        print(f"\n{what}")
        for name, value in found.items():
            print(f"    {name}: {value}")


class Measurement:
    """One run of the script: which files are compared, and where they lie."""

    def __init__(self, folder, arguments):
        self.folder, self.arguments, self.device = folder, arguments, arguments.device
        self.sizes = TINY if arguments.quick else FULL
        self.graphs = ("off", "on") if parse_device(arguments.device)[0] == "cuda" else ("off",)

    def pairs(self):
        """(what, one side, the other, batch) of every latency row; a side is whose file it is, and of what."""
        sizes = self.sizes
        for size, batch in dict.fromkeys([(sizes["small"], 4), (sizes["large"], 1), (sizes["small"], sizes["many"])]):
            yield f"layer {size}×{size}, batch {batch}: naive ÷ ours", ("naive", size), ("ours", size), batch
        for batch in sizes["batches"]:
            ours = ("ours", sizes["network"])
            yield f"{sizes['network']} ÷ {sizes['twin']}, batch {batch}", ours, ("plain", sizes["twin"]), batch
            yield f"{sizes['network']}, batch {batch}: naive ÷ ours", ("naive", sizes["network"]), ours, batch
        if sizes["wide"] != sizes["network"]:
            wide = sizes["wide"]
            yield f"{wide.name}, batch 1: naive ÷ ours", ("naive", wide), ("ours", wide), 1

    def latencies(self):
        rows = []
        for what, first, second, batch in self.pairs():
            for precision, bound in SAME.items():
                files = [self.file(*side, batch, precision) for side in (first, second)]
                for graph in self.graphs:
                    orders = [("latency", str(f), self.device, graph, str(self.arguments.seconds)) for f in files]
                    row = self.row(f"{what}, {precision}, CUDA graph {graph}", *orders)
                    apart = difference(*files) if "failed" not in row and "naive" in what else 0
                    # NaN, too, is not below the bound.
                    rows.append(row if apart <= bound else refused(row, apart))
        return rows

    def memories(self):
        size, rows = self.sizes["large"], []
        for precision in SAME:
            orders = [("memory", str(self.file(s, size, 1, precision)), self.device) for s in ("naive", "ours")]
            rows.append(self.row(f"layer {size}×{size}, batch 1, extra memory: naive ÷ ours, {precision}", *orders))
        return rows

    def steps(self):
        """Training steps; bf16 is torch's autocast."""
        small, many, sizes = self.sizes["small"], self.sizes["many"], self.sizes
        batch = sizes["batches"][-1]
        half, network, twin = small // 2, sizes["network"], sizes["twin"]
        wanted = [
            (f"{small}×{small}, batch 4: naive ÷ ours", ("naive", small, 4), ("ours", small, 4)),
            (f"{half}×{half}, batch 16: naive ÷ ours", ("naive", half, 16), ("ours", half, 16)),
            (f"{small}×{small}, batch {many}: ÷ a convolution", ("ours", small, many), ("plain", small, many)),
            (f"{network} ÷ {twin}, batch {batch}", ("ours", network, batch), ("plain", twin, batch)),
        ]
        tail = (self.device, str(self.arguments.seconds))
        return [
            self.row(
                f"training step {what}, {precision}",
                *(("step", *map(str, side), precision, *tail) for side in (first, second)),
            )
            for what, first, second in wanted
            for precision in ("fp32", "bf16")
        ]

    def kernels(self):
        """By which kernels attention was computed, as the runtimes themselves tell."""
        size, many, batch = self.sizes["small"], self.sizes["many"], self.sizes["batches"][-1]
        found = {}
        for precision in SAME:
            for name, images in ((size, many), (self.sizes["network"], batch)):
                order = ("nodes", str(self.file("ours", name, images, precision)), self.device)
                found[f"onnxruntime, {name}, batch {images}, {precision}"] = told(order)
        for precision in ("fp32", "bf16"):
            found[f"torch, layer {size}×{size}, batch {many}, {precision}"] = told(
                ("sdpa", str(size), str(many), precision, self.device)
            )
        return found

    def file(self, side, name, batch, precision):
        """The ONNX file of a layer (`name` is its size) or network, for one batch: CUDA graphs need fixed shapes."""
        stem = f"{side}_{Path(str(name)).name}_{batch}"
        path, opset = self.folder / f"{stem}_fp32.onnx", self.arguments.opset
        if not path.exists():
            target = parse_device(self.device)[0]
            naively = side == "naive"
            measure.exported(path, *built(side, name), naively=naively, batch=batch, opset=opset, target=target)
        return path if precision == "fp32" else halved(path, self.folder / f"{stem}_fp16.onnx")

    def row(self, what, first, second):
        """A ratio, or why there is none."""
        try:
            return measure.ratio(what, first, second, self.arguments.rounds)
        except subprocess.CalledProcessError as error:
            return {"what": what, "failed": last_line(error.stderr)}
        except ZeroDivisionError:
            return {"what": what, "failed": "the second side took nothing that could be measured"}


def refused(row, apart):
    return {"what": row["what"], "failed": f"the sides answer differently, {apart:.1e} of the largest number"}


def last_line(text):
    return (text.strip().splitlines() or ["no reason given"])[-1]


def halved(source, target):
    """float16 throughout, inputs and outputs too (keep_io_types=False): a GPU's neighbours hand it halves."""
    if not target.exists():
        onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=False), target)
    return target


def difference(first, second):
    """The largest difference of what the sides answered, by the largest number in it."""
    a, b = (np.load(f.with_suffix(".npy")).astype(np.float64) for f in (first, second))
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-6))


def told(order):
    """What a child found out, with what onnxruntime wrote to its log about attention."""
    command = [sys.executable, sys.argv[0], "--child", *order]
    talkative = os.environ | {"ORT_ENABLE_ATTENTION_KERNEL_DEBUG_INFO": "1"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=talkative)
    if done.returncode:
        return {"failed": last_line(done.stderr)}
    logged = re.findall(r"ONNX Attention: using [\w ]+|SdpaKernel=\w+", done.stdout + done.stderr)
    # What native code prints may come later than what Python does.
    answer = next(line for line in reversed(done.stdout.splitlines()) if line.startswith("{"))
    return {**json.loads(answer), "log": dict(Counter(logged))}


if __name__ == "__main__":
    sys.exit(main())
