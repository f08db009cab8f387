"""AA-ResNet-50 in int8 by aaexport, ResNet-50 in int8 by onnxruntime's own quantizer → latency of one ÷ the other.

What a user without aaexport would do is the other side: a plain network, exported, and quantized by
`onnxruntime.quantization` as onnxruntime advises for CPUs: per channel, and all operators that it knows.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from calibrate_thresholds import quantizer

import aaexport
from aaexport.folder import checkout
from aaexport.graph.files import read_onnx
from aaexport.graph.precision.int8 import to_int8
from aaexport.graph.precision.observe import observe
from aaexport.pipeline.reduce.calibrate import ranges_of
from aaexport.pipeline.subject.subject import write_random_weights

LATENCY = Path(__file__).with_name("latency.py")
IMAGES = 2  # of noise: what the numbers are changes no latency
WEIGHTS = ("uint8", "int8", "int7")


def main() -> None:
    """Makes the files that are not there yet, and measures them in turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("place", type=Path, help="a folder for the networks and their files")
    parser.add_argument("--ours", default="aa_resnet50", help="the network that aaexport reduces")
    parser.add_argument("--theirs", default="resnet50", help="the one that onnxruntime's quantizer reduces")
    parser.add_argument("--weights", choices=WEIGHTS, default="uint8", help="how both store weights")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--queries", type=int, default=15)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--make-only", action="store_true", help="make the files, measure nothing")
    options = parser.parse_args()
    files = [
        made(
            options.place, options.ours, f"aaexport.{options.weights}", lambda *at: by_aaexport(*at, options.weights)
        ),
        made(
            options.place,
            options.theirs,
            f"onnxruntime.{options.weights}",
            lambda *at: by_quantizer(*at, options.weights),
        ),
    ]
    for file in files:
        print(json.dumps(about(file)), file=sys.stderr)
    if options.make_only:
        return
    numbers = {name: getattr(options, name) for name in ("batch", "threads", "queries", "pairs")}
    arguments = [text for name, value in numbers.items() for text in (f"--{name}", str(value))]
    subprocess.run([sys.executable, LATENCY, *files, *arguments], check=True)


def made(place, name, by, make):
    """The zoo's network in int8; made, with its float32 file, where it is missing."""
    folder = checkout(name, place / name)
    path = folder.path / f"model.{by}.onnx"
    if not path.is_file():
        if not folder.onnx_path.is_file():
            write_random_weights(folder)
            aaexport.convert(folder, verify=False)
        images = np.random.default_rng(0).standard_normal((IMAGES, *folder.recipe.input.shape), np.float32)
        make(folder.onnx_path, images, path)
    return path


def by_aaexport(source, images, path, weights):
    """Its pass, without the guard: the weights are random."""
    observed = observe(read_onnx(source), "int8")
    onnx.save(to_int8(observed.model, ranges_of(observed, images, None), weights=weights).model, path)


def by_quantizer(source, images, path, weights):
    """onnxruntime's: all operators that it knows, a scale for each channel, activations in uint8."""
    quantizer(signed=weights != "uint8", reduced=weights == "int7")(source, images, path)


def about(path):
    """What a file holds."""
    operators = [node.op_type for node in onnx.load(path).graph.node]
    counts = {
        name: operators.count(name) for name in ("Conv", "Gemm", "MatMul", "QuantizeLinear", "DequantizeLinear")
    }
    return {"file": str(path), "MB": round(path.stat().st_size / 1e6, 1), **counts}


if __name__ == "__main__":
    main()
