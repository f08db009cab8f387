"""(network as it trains, a few held-out images) → where one of its augmented layers looks, epoch by epoch.

The layer is the last one whose map has places enough to see something, and whose weights do not take too much memory.
What is kept of an epoch is small: of a few images and heads the weights of one query, the middle of the map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from aaexport.data import Images, evaluation_batch
from aaexport.errors import ArgumentError, RunnerError, broken_rule
from aaexport.nn.attention_maps import outputs_and_attention
from aaexport.nn.augmented import AugmentedConv2d, augmented_layers
from aaexport.nn.memory import BYTES_IN_FLOAT32
from aaexport.pixels import WHITE
from aaexport.recipe import Recipe

MOST_IMAGES, MOST_HEADS, MOST_EPOCHS = 3, 4, 9
LEAST_POSITIONS = 16  # of a map, where the network has such a layer
MOST_BYTES = 2**28  # of all weights of the layer for one image: a glance is not to need more memory than training


@dataclass(frozen=True, eq=False)
class Glimpse:
    """What an epoch's weights make of the images.

    Attributes:
        epoch: counted from 1; 0 before the training.
        weights: (images, heads, H, W): how much the query takes from each position; over H and W they sum to 1.
        classes: (images,): what each image is taken for.
        probabilities: (images,): of that class.
    """

    epoch: int
    weights: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class AttentionCourse:
    """Where one layer looks in a few held-out images, as the network trains.

    Attributes:
        layer: its path in the network.
        num_heads: how many it has; the first of them are looked at.
        images: (images, H, W, channels), 0 to 255, what the network sees; its map has other sizes.
        labels: the class of each image, in words; empty of images without one.
        names: of all classes; empty where they have none but their numbers.
        glimpses: of some epochs, the earliest first.
    """

    layer: str
    num_heads: int
    images: npt.NDArray[np.uint8]
    labels: tuple[str, ...]
    names: tuple[str, ...]
    glimpses: tuple[Glimpse, ...]

    @property
    def map_size(self) -> tuple[int, int]:
        """(H, W) of the map."""
        height, width = self.glimpses[0].weights.shape[-2:]
        return height, width

    @property
    def query(self) -> tuple[int, int]:
        """(row, column) of the position that is looked from."""
        return _middle(self.map_size)

    def taken_for(self, glimpse: Glimpse, image: int) -> str:
        """The class of one image by the weights of then, in words."""
        return _named(self.names, int(glimpse.classes[image]))


class Onlooker:
    """Glances at a network between two epochs, and remembers what it saw.

    Attributes:
        glimpses: of the epochs so far.
        is_blind: whether it has given up.
    """

    def __init__(self, recipe: Recipe, images: Images) -> None:
        self.recipe, self.images = recipe, images
        self.glimpses: list[Glimpse] = []
        self.is_blind = recipe.attention is None
        self._layer, self._num_heads = "", 0

    def wants(self, epoch: int) -> bool:
        """Whether the epoch is one of those to be looked at."""
        return not self.is_blind and epoch in looked_at(self.recipe.training.epochs)

    @torch.no_grad()
    def look(self, network: nn.Module, epoch: int, device: torch.device) -> None:
        """Runs the images, one after the other. The network is left in evaluation mode.

        Raises:
            ArgumentError: every layer has more weights than are worth a glance.
            RunnerError: it attends with NaN or infinity.
            DataError: an image cannot be decoded.
        """
        network.eval()
        name, layer = _last(augmented_layers(network))
        row, column = _middle(layer.attention_size)
        maps, classes, shares = [], [], []
        for image in evaluation_batch(self.images, self.recipe, self._chosen).split(1):
            logits, weights = outputs_and_attention(network, image.to(device), name)
            maps.append(weights[name][0, :MOST_HEADS, row, column].float().cpu())
            share, best = logits[0].float().softmax(0).cpu().max(0)
            classes.append(int(best))
            shares.append(float(share))
        seen = torch.stack(maps)
        if not seen.isfinite().all():
            raise RunnerError(f"{name} attends with NaN or infinity")
        self._layer, self._num_heads = name, layer.num_heads
        self.glimpses.append(Glimpse(epoch, seen.numpy(), np.array(classes, np.int64), np.array(shares, np.float32)))

    @property
    def course(self) -> AttentionCourse | None:
        """What it saw so far; None if nothing."""
        if not self.glimpses:
            return None
        recipe_names = tuple(self.recipe.input.names)
        labels = [int(label) for label in self.images.labels[self._chosen]]
        told = tuple(_named(recipe_names, label) if label >= 0 else "" for label in labels)
        return AttentionCourse(self._layer, self._num_heads, self._pixels, told, recipe_names, tuple(self.glimpses))

    def state(self) -> list[dict[str, Any]]:
        """For a checkpoint."""
        return [
            {
                "layer": self._layer,
                "num_heads": self._num_heads,
                "epoch": each.epoch,
                "weights": torch.from_numpy(each.weights),
                "classes": each.classes.tolist(),
                "probabilities": each.probabilities.tolist(),
            }
            for each in self.glimpses
        ]

    def load_state(self, state: Sequence[dict[str, Any]]) -> None:
        """Goes back to a `state`. KeyError, TypeError or ValueError if it is none."""
        self.glimpses = [
            Glimpse(
                int(each["epoch"]),
                np.asarray(each["weights"], np.float32),
                np.asarray(each["classes"], np.int64),
                np.asarray(each["probabilities"], np.float32),
            )
            for each in state
        ]
        for each in state:
            self._layer, self._num_heads = str(each["layer"]), int(each["num_heads"])

    @cached_property
    def _chosen(self) -> Tensor:
        """The first images of the first few classes."""
        first: dict[int, int] = {}
        for number, label in enumerate(self.images.labels.tolist()):
            first.setdefault(label, number)
            if len(first) == MOST_IMAGES:
                break
        return torch.tensor(list(first.values()))

    @cached_property
    def _pixels(self) -> npt.NDArray[np.uint8]:
        pixels = self.images.fitted(self._chosen, self.recipe, None).to(torch.float32) * (WHITE / self.images.white)
        return pixels.round().clamp(0, WHITE).to(torch.uint8).permute(0, 2, 3, 1).numpy()


def looked_at(epochs: int) -> frozenset[int]:
    """Of so many epochs a few: 0, the first and the last, and between them at first all, then fewer and fewer."""
    if epochs < MOST_EPOCHS:
        return frozenset(range(epochs + 1))
    return frozenset({0, *(round(epochs ** (place / (MOST_EPOCHS - 2))) for place in range(MOST_EPOCHS - 1))})


def _last(layers: Mapping[str, AugmentedConv2d]) -> tuple[str, AugmentedConv2d]:
    small = {name: layer for name, layer in layers.items() if layer.sizes.logits * BYTES_IN_FLOAT32 <= MOST_BYTES}
    if not small:
        rule = f"have a layer whose attention is at most {MOST_BYTES:,} bytes an image for a picture by epoch"
        raise ArgumentError(broken_rule("the network", rule, f"none of {len(layers)}"))
    telling = {name: layer for name, layer in small.items() if layer.sizes.positions >= LEAST_POSITIONS}
    return next(reversed((telling or small).items()))


def _middle(size: tuple[int, int]) -> tuple[int, int]:
    return size[0] // 2, size[1] // 2


def _named(names: Sequence[str], number: int) -> str:
    return names[number] if names else str(number)
