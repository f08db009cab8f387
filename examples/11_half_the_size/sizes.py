"""Networks → the sizes of their files in float32, float16 and int8, and how much smaller the last two are."""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from calibrate_thresholds import ours

import aaexport
from aaexport.folder import checkout
from aaexport.pipeline.subject.subject import write_random_weights

IMAGES = 2  # of noise: what the numbers are changes no size


def main() -> None:
    """Prints a table, a line as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", help="zoo names; weights are random where there are none")
    print("network | float32, MB | float16, MB | ÷ | int8, MB | ÷")
    for name in parser.parse_args().models:
        with tempfile.TemporaryDirectory() as place:
            whole, half, eight = sizes(name, Path(place))
        print(
            f"{name} | {whole:.1f} | {half:.1f} | {whole / half:.2f} | {eight:.1f} | {whole / eight:.2f}", flush=True
        )


def sizes(name: str, place: Path) -> list[float]:
    """Megabytes of the three files."""
    folder = checkout(name, place / name)
    if not folder.weights_path.is_file():
        write_random_weights(folder)
    aaexport.convert(folder, verify=False)
    images = np.random.default_rng(0).standard_normal((IMAGES, *folder.recipe.input.shape), np.float32)
    paths = [folder.onnx_path]
    for kind in ("float16", "int8"):
        paths.append(place / f"{kind}.onnx")
        ours(kind)(folder.onnx_path, images, paths[-1])
    return [path.stat().st_size / 1e6 for path in paths]


if __name__ == "__main__":
    main()
