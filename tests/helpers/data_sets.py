"""Small data sets in real formats, for the tests of the data room."""

import dataclasses
import io
from dataclasses import dataclass

import numpy as np
import torch

from aaexport.data import DecodedImages, EncodedRecords
from aaexport.folder import zoo_models
from aaexport.recipe import ResNet
from aaexport.recipe.model import NO_TRAINING

DIGITS = zoo_models()["aa_cnn3_digits"].recipe
CIFAR100 = zoo_models()["aa_cnn3_cifar100"].recipe


def with_input(recipe, **changes):
    return dataclasses.replace(recipe, input=dataclasses.replace(recipe.input, **changes))


def with_data(recipe, **changes):
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, **changes))


def of_features(recipe):
    """The same images for a network without a classifier."""
    network = ResNet(family="resnet", block="basic", blocks=(1, 1), width=8, stem="3x3", features=(1, 2))
    bare = dataclasses.replace(recipe.input, labels=())
    return dataclasses.replace(recipe, network=network, attention=None, input=bare, training=NO_TRAINING)


def for_pictures(size=(8, 8), classes=2, channels=3, **data):
    """A recipe for photographs of any size that are neither shifted nor scaled by normalisation."""
    recipe = with_data(CIFAR100, **{"dataset": "imagefolder", "crop_padding": 0, "flip": False, **data})
    height, width = size
    plain = {"mean": (0.0,) * channels, "std": (1.0,) * channels}
    return with_input(recipe, height=height, width=width, channels=channels, labels=classes, **plain)


def encoded(pixels, image_format="PNG", **options):
    """An array (H, W) or (H, W, 3), or an image of Pillow's, as the bytes of a file."""
    from PIL import Image

    file = io.BytesIO()
    image = Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels
    image.save(file, format=image_format, **options)
    return file.getvalue()


@dataclass(frozen=True)
class Encoded:
    """Files that are in memory."""

    contents: tuple[bytes, ...]

    def __len__(self):
        return len(self.contents)

    def content(self, number):
        return self.contents[number]

    def name(self, number):
        return f"image {number}"


def encoded_records(contents, channels=3):
    files = Encoded(tuple(contents))
    return EncodedRecords(files, np.arange(len(files)), channels)


def decoded_images(contents, channels=3):
    files = Encoded(tuple(contents))
    return DecodedImages(files, torch.arange(len(files)), channels)
