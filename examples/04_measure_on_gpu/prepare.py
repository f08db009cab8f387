"""Exports every file that `run.sh` measures, once and here, as skeletons that are small enough to travel."""

import argparse
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "03_measure_attention"))

import measure as attention
import onnx
import torch
from plan import NAIVE, PLAIN, PLANS, UNPADDED, File
from skeleton import packed

import aaexport
from aaexport.folder import checkout
from aaexport.graph.files import read_onnx
from aaexport.graph.outside import Room
from aaexport.pipeline.convert.narrowed import narrowed
from aaexport.pipeline.convert.options import OptimizeOptions
from aaexport.pipeline.subject.subject import write_random_weights
from aaexport.writing import write_json

HERE = Path(__file__).parent


def main(arguments=None):
    asked = parsed(arguments)
    name = "quick" if asked.quick else "full"
    plan = PLANS[name]
    asked.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as whole:
        room = Path(whole)
        for file in plan.files():
            if file.dtype == "float32":
                export(file, plan, room)
        for file in plan.files():
            if file.dtype == "float16":
                halve(file, room)
            packed(room / f"{file.name}.onnx", asked.out / f"{file.name}.skeleton")
    serve(plan, asked.out)
    write_json(asked.out / "prepared.json", {"plan": name, "aaexport": aaexport.__version__})
    size = sum(path.stat().st_size for path in asked.out.rglob("*") if path.is_file())
    print(f"{len(plan.files())} files in {asked.out}, {size / 1e6:.1f} MB")


def parsed(arguments):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "files", help="the folder for them")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that all of it works")
    return parser.parse_args(arguments)


def export(file, plan, room):
    """In float32, with an open batch."""
    path = room / f"{file.name}.onnx"
    print(f"exporting {path.name}", file=sys.stderr)
    if file.subject in plan.layers:
        size = plan.layers[file.subject][0]
        module, shape = attention.layer(file.side, size), (64, size, size)
    else:
        model, twin, _ = plan.networks[file.subject]
        module, shape = attention.network(file.side, twin if file.side == PLAIN else model)
    if file.side == NAIVE:
        export_naively(module, shape, path, file.opset)
    else:
        target = "cpu" if file.side == UNPADDED else "cuda"
        aaexport.convert(module, path, input_shape=shape, opset=file.opset, target=target, verify=False)


def export_naively(module, shape, path, opset):
    """By torch alone."""
    sizes = ({0: torch.export.Dim("batch")},)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (torch.zeros(2, *shape),), path, dynamo=True, opset_version=opset, dynamic_shapes=sizes,
            external_data=False, verbose=False,
        )  # fmt: skip


def halve(file, room):
    """The float32 file in float16 throughout, inputs and outputs too: a GPU's neighbours hand it halves.

    What is ours is written for CUDA's kernels in float16; the naive side stays as it was written.
    """
    source, path = room / f"{File(file.subject, file.side, file.opset).name}.onnx", room / f"{file.name}.onnx"
    target = "cpu" if file.side in (NAIVE, UNPADDED) else "cuda"
    options = OptimizeOptions(dtype="float16", io_dtype="float16", target=target, verify=False)
    with Room.beside(path) as beside:
        onnx.save(narrowed(read_onnx(source), options, beside).model, path)


def serve(plan, out):
    """A model folder for `serve-bench`, with random weights, which take as long."""
    shutil.rmtree(out / plan.served, ignore_errors=True)
    folder = checkout(plan.served, out / plan.served)
    if not folder.weights_path.is_file():
        write_random_weights(folder)
    aaexport.convert(folder, target="cuda", verify=False)


if __name__ == "__main__":
    main()
