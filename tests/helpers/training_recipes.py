"""Recipes that train in a second, and a watcher that writes down what it is told."""

import dataclasses
import re
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from aaexport.data import load_images
from aaexport.errors import TrainingError
from aaexport.folder import ModelFolder, zoo_models
from aaexport.training import train

IMAGES = 1438  # of the training part of digits
TINY = {
    "channels": "[8, 8, 8]",
    "strides": "[2, 2, 1]",
    "kappa": "0.5",
    "upsilon": "0.5",
    "num_heads": "2",
    "epochs": "3",
    "batch_size": "256",
    "warmup_epochs": "1",
}
PLAIN = {key: TINY[key] for key in ("channels", "strides", "epochs", "batch_size", "warmup_epochs")}


def write_recipe(path, *, more="", **changes):
    """aa_cnn3_digits made tiny, as model.toml in a folder of its own; `more` are lines for the end of [training]."""
    return _write(path, "aa_cnn3_digits", TINY | changes, more)


def write_plain_recipe(path, *, more="", **changes):
    """Its twin without attention."""
    return _write(path, "conv_cnn3_digits", PLAIN | changes, more)


def _write(path, zoo_name, changes, more):
    text = zoo_models()[zoo_name].recipe_path.read_text(encoding="utf-8")
    for key, value in changes.items():  # of a repeated key the first is changed
        text, count = re.subn(rf"^{key} = .*$", f"{key} = {value}", text, count=1, flags=re.MULTILINE)
        assert count == 1, key
    before, training, after = text.partition("[training]\n")
    path.mkdir(parents=True, exist_ok=True)
    (path / "model.toml").write_text(f"{before}{training}{more}\n{after}", encoding="utf-8")
    return ModelFolder(path)


class Independent(nn.Module):
    """A network for digits whose images know nothing of each other, as there is no batch normalization."""

    def __init__(self):
        super().__init__()
        self.classifier = nn.Linear(64, 10)

    def forward(self, batch):
        return self.classifier(batch.flatten(1))


def build_independent(recipe):
    """Stands for `build_network`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        return Independent().eval()


class Recorder:
    """A watcher that writes down what it is told, and presses Ctrl-C after one epoch or one batch."""

    def __init__(self, *, stop_after=None, stop_in=None):
        self.stop_after, self.stop_in = stop_after, stop_in
        self.batches, self.epochs, self.notes = [], [], []

    def batch(self, epoch, images, loss, accuracy, images_per_second):
        self.batches.append((epoch, images))
        if epoch == self.stop_in:
            raise KeyboardInterrupt

    def epoch(self, record):
        self.epochs.append(record)
        if record.epoch == self.stop_after:
            raise KeyboardInterrupt

    def note(self, line):
        self.notes.append(line)


def first_images(**counts):
    """Stands for `load_images`: of the parts named, only so many images are there."""

    def load(recipe, part, **options):
        images = load_images(recipe, part, **options)
        count = counts.get(part, len(images))
        return dataclasses.replace(images, pixels=images.pixels[:count], labels=images.labels[:count])

    return load


def interrupt(folder, *, stop_after=None, stop_in=None, **options):
    """Trains until Ctrl-C, and returns the folder."""
    with pytest.raises(KeyboardInterrupt):
        train(folder, device="cpu", watcher=Recorder(stop_after=stop_after, stop_in=stop_in), **options)
    return folder


def weights(folder):
    """The bytes of weights.safetensors."""
    return folder.weights_path.read_bytes()


def complaint(folder, **options):
    """The text of the TrainingError that training ends with."""
    with pytest.raises(TrainingError) as refusal:
        train(folder, device="cpu", **options)
    return str(refusal.value)


@contextmanager
def one_thread():
    """Threads of such small products only wait for each other, for seconds where tests run side by side."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
