"""Records → torch tensors of the input's size, from memory or decoded one by one: what training takes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from aaexport.data.decoding import Files, decoded
from aaexport.data.records import EncodedRecords, Records, StoredRecords
from aaexport.data.views import random_boxes, resized, resized_boxes
from aaexport.pixels import central_box
from aaexport.recipe import Recipe


class Images(Protocol):
    """Labelled images, however they are kept."""

    @property
    def labels(self) -> Tensor:
        """(N,), int64; −1 where a recipe without classes asked for a data set without labels."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user must be told about them, a sentence each."""

    @property
    def white(self) -> int:
        """The pixel value that stands for 1.0."""

    def __len__(self) -> int: ...

    def fitted(self, index: Tensor, recipe: Recipe, draws: Tensor | None) -> Tensor:
        """The images at `index`, cropped and resized to the recipe's input size, neither normalised nor padded.

        Args:
            index: (B,), int64.
            draws: (B, DRAWS) for the training view, None for the evaluation view.

        Returns:
            (B, C, H, W), uint8 or float32, from 0 to `white`.

        Raises:
            DataError: an image cannot be decoded.
        """


@dataclass(frozen=True, eq=False)
class StoredImages:
    """Images of one size as they were recorded, all in memory.

    Attributes:
        pixels: (N, C, H, W), uint8.
        labels: (N,), int64.
        white: the pixel value that stands for 1.0.
        notes: what a user must be told.
    """

    pixels: Tensor
    labels: Tensor
    white: int
    notes: tuple[str, ...] = ()
    _copies: dict[torch.device, StoredImages] = field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def on(self, device: torch.device) -> StoredImages:
        """The same images on `device`, copied there at the first call only."""
        if device not in self._copies:
            self._copies[device] = replace(self, pixels=self.pixels.to(device), labels=self.labels.to(device))
        return self._copies[device]

    def fitted(self, index: Tensor, recipe: Recipe, draws: Tensor | None) -> Tensor:
        """As `Images.fitted`; `index` and `draws` are where the images are."""
        chosen, size = self.pixels[index], recipe.input.size
        height, width = chosen.shape[-2:]
        if draws is not None and recipe.data.random_resized_crop:
            return resized_boxes(chosen, random_boxes(draws, height, width), size)
        share = recipe.data.crop_share if draws is None else 1.0
        top, left, height, width = central_box(height, width, size, share)
        return resized(chosen[..., top : top + height, left : left + width].to(torch.float32), size)


@dataclass(frozen=True, eq=False)
class DecodedImages:
    """Encoded images of any sizes, decoded whenever they are asked for.

    Attributes:
        files: where each is.
        labels: (N,), int64.
        channels: 1 (converted to gray) or 3 (to RGB).
        notes: what a user must be told.
    """

    files: Files
    labels: Tensor
    channels: int
    notes: tuple[str, ...] = ()
    white: int = field(default=255, init=False)

    def __len__(self) -> int:
        return len(self.labels)

    def fitted(self, index: Tensor, recipe: Recipe, draws: Tensor | None) -> Tensor:
        """As `Images.fitted`; uint8."""
        fitted = torch.empty(len(index), self.channels, *recipe.input.size, dtype=torch.uint8)
        for place, number in enumerate(index.tolist()):
            pixels = torch.from_numpy(decoded(self.files, number, self.channels))
            height, width = pixels.shape[-2:]
            if draws is not None and recipe.data.random_resized_crop:
                top, left, height, width = random_boxes(draws[place : place + 1], height, width)[0].tolist()
            else:
                share = recipe.data.crop_share if draws is None else 1.0
                top, left, height, width = central_box(height, width, recipe.input.size, share)
            part = pixels[None, :, top : top + height, left : left + width]
            fitted[place] = resized(part, recipe.input.size)[0]
        return fitted


def as_images(records: Records) -> Images:
    """The same as tensors, which share the memory of the arrays."""
    labels = torch.from_numpy(records.labels)
    if isinstance(records, StoredRecords):
        return StoredImages(torch.from_numpy(records.pixels), labels, records.white, records.notes)
    assert isinstance(records, EncodedRecords)
    return DecodedImages(records.files, labels, records.channels, records.notes)
