"""Sums of loss and hits, left on the device until somebody looks → an epoch's loss, accuracy and speed."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from aaexport.training.distributed import Processes


class Tally:
    """What an epoch has come to so far, over all processes.

    Attributes:
        steps, images: how many were looked at.
        unread: how many steps were added since the last look.
    """

    def __init__(self, processes: Processes) -> None:
        self.processes, self.began = processes, time.perf_counter()
        self.steps = self.images = 0
        self._loss = self._hits = 0.0
        self._sums: list[Tensor] = []
        self._sizes: list[int] = []

    @property
    def unread(self) -> int:
        """Steps since the last look."""
        return len(self._sums)

    def add(self, sums: Tensor, images: int) -> None:
        """Takes what `Learner.step` returned for a batch of `images`, without waiting for the device."""
        self._sums.append(sums)
        self._sizes.append(images)

    def look(self) -> list[float]:
        """Waits for the device; the mean loss of every step since the last look."""
        sums = self.processes.summed(torch.stack(self._sums)).tolist()
        losses = [loss / images for (loss, _), images in zip(sums, self._sizes, strict=True)]
        self._loss += sum(loss for loss, _ in sums)
        self._hits += sum(hits for _, hits in sums)
        self.images += sum(self._sizes)
        self.steps += len(self._sizes)
        self._sums, self._sizes = [], []
        return losses

    @property
    def loss(self) -> float:
        """The mean over the images looked at."""
        return self._loss / self.images

    @property
    def accuracy(self) -> float:
        """The share of the images looked at that were classified rightly."""
        return self._hits / self.images

    def images_per_second(self) -> float:
        """From the beginning of the epoch until now."""
        return self.images / (time.perf_counter() - self.began)
