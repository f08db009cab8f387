"""A layer, or a model by name → whether each runtime that is installed computes the same, as a Markdown table."""

import argparse
import tempfile
from pathlib import Path

import torch
from runtimes import RUNTIMES

import aaexport
from aaexport.folder import find_model
from aaexport.nn import AugmentedConv2d
from aaexport.parity import Case, Truth, compare, tolerances
from aaexport.pipeline.subject.subject import with_decomposition

FORMS = (("fold", 20), ("shift", 20), ("table", 20), ("skew", 20), ("fused", 23))  # (decomposition, opset)
LONGEST = 60  # of what a runtime says


def main():
    arguments = parsed()
    module, shape = network(arguments)
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(1))
    with tempfile.TemporaryDirectory() as folder:
        files = [written(module, shape, Path(folder), *form) for form in FORMS]
        sides = definition(module, images)
        print("| runtime |", " | ".join(f"`{name}`, opset {opset}" for name, opset in FORMS), "|")
        print("|---" * (len(FORMS) + 1) + "|")
        for runtime in RUNTIMES:
            if runtime.missing:
                print(f"| {runtime.name} | not installed: {runtime.missing} |" + " |" * (len(FORMS) - 1))
                continue
            cells = (verdict(runtime, file, images.numpy(), *sides) for file in files)
            print(f"| {runtime.name} {runtime.version} |", " | ".join(cells), "|", flush=True)


def parsed():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", help="a zoo model or folder; by default one layer of 64 → 128 channels")
    parser.add_argument("--size", type=int, default=32, help="of the layer's input: its height and width")
    return parser.parse_args()


def network(arguments):
    """(module, shape of an image). The layer's weights make attention choose: fresh ones average everything."""
    if arguments.model:
        return aaexport.build_model(arguments.model), find_model(arguments.model).recipe.input.shape
    torch.manual_seed(0)
    size = {"height": arguments.size, "width": arguments.size}
    layer = AugmentedConv2d(64, 128, dk=64, dv=32, num_heads=4, qkv_kernel_size=3, **size)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return layer.eval(), (64, arguments.size, arguments.size)


def written(module, shape, folder, decomposition, opset):
    path = folder / f"{decomposition}.onnx"
    options = {"decomposition": decomposition, "opset": opset, "verify": False}
    return aaexport.convert(module, path, input_shape=shape, **options).path


@torch.no_grad()
def definition(module, images):
    """The outputs of the paper's own formulas in float64, and in float32."""
    module = with_decomposition(module, "skew")
    own = module(images)
    return outputs(module.double()(images.double())), outputs(own)


def outputs(returned):
    tensors = returned if isinstance(returned, tuple) else (returned,)
    return [tensor.numpy() for tensor in tensors]


def verdict(runtime, path, images, expected, own):
    """`agrees (largest error)` by aaexport's own tolerances, or `fails` and why."""
    try:
        given = list(runtime.run(path, {"input": images}).values())
    # Whatever a runtime raises is its answer.
    except Exception as error:  # noqa: BLE001
        text = next(iter(str(error).splitlines()), type(error).__name__)
        return f"fails: {text if len(text) <= LONGEST else '…' + text[-LONGEST:]}"
    sides = [dict(enumerate(arrays)) for arrays in (expected, own)]
    found = compare(Truth(Case("", images), *sides, {}), dict(enumerate(given)), tolerances("float32", "cpu"))
    failure = next((output.failure for output in found if output.failure), None)
    return f"fails: {failure}" if failure else f"agrees ({max(output.max_abs_error for output in found):.1e})"


if __name__ == "__main__":
    main()
