"""Images → batches on a device, decoded ahead by worker processes where they are not in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from aaexport.cores import usable_cores
from aaexport.data.images import DecodedImages, Images, StoredImages
from aaexport.data.views import DRAWS, normalised, varied
from aaexport.errors import DataError, first_line
from aaexport.recipe import Recipe

MAX_WORKERS = 8
CPU = torch.device("cpu")


def evaluation_batch(images: Images, recipe: Recipe, index: Tensor | None = None) -> Tensor:
    """What the network sees of all images, or those at `index`, when it is evaluated.

    The central `crop_share` of the sides, as far as the input's shape has it, resized (antialiased, bilinear) to the
    input's size, then (pixel − mean) / std. An image that has that size is not resized.

    Returns:
        (len(index), C, H, W), float32, on the CPU.

    Raises:
        DataError: an image cannot be decoded.
    """
    chosen = torch.arange(len(images)) if index is None else index
    return normalised(images.fitted(chosen, recipe, None), images.white, recipe.input)


def epoch_draws(images: Images, seed: int) -> Tensor:
    """(N, D) uniform numbers: all randomness of one epoch's training views, a row an image."""
    return torch.rand(len(images), DRAWS, generator=torch.Generator().manual_seed(seed))


def batches(
    images: Images,
    recipe: Recipe,
    indices: Sequence[Tensor],
    *,
    draws: Tensor | None = None,
    device: torch.device = CPU,
) -> Iterator[tuple[Tensor, Tensor]]:
    """For each index tensor, in order: normalised images and their labels, on `device`.

    Args:
        indices: (B,) int64 each, on the CPU.
        draws: all images' rows from `epoch_draws`, for the training view; None for the evaluation view.

    Yields:
        (B, C, H, W) float32, and (B,) int64.

    Raises:
        DataError: an image cannot be decoded, or a process that decodes images died.
    """
    for index, pixels in zip(indices, _fitted(images, recipe, indices, draws, device), strict=True):
        batch = normalised(pixels, images.white, recipe.input)
        if draws is not None:
            batch = varied(batch, recipe.data, draws[index].to(device))
        yield batch, images.labels[index].to(device)


def _fitted(
    images: Images, recipe: Recipe, indices: Sequence[Tensor], draws: Tensor | None, device: torch.device
) -> Iterator[Tensor]:
    if isinstance(images, DecodedImages):
        for pixels in _decoded_ahead(images, recipe, indices, draws, pinned=device.type == "cuda"):
            yield pixels.to(device, non_blocking=True)
        return
    here = images.on(device) if isinstance(images, StoredImages) else images
    for index in indices:
        rows = None if draws is None else draws[index].to(device)
        yield here.fitted(index.to(device), recipe, rows)


class _Batches(Dataset[Any]):
    """Numbers of images → their fitted pixels, or the DataError that one of them is.

    An error that is raised in a worker would come out with the worker's traceback as its text.
    """

    def __init__(self, images: DecodedImages, recipe: Recipe, draws: Tensor | None) -> None:
        self.images, self.recipe, self.draws = images, recipe, draws

    def __getitem__(self, numbers: list[int]) -> Tensor | DataError:
        index = torch.tensor(numbers, dtype=torch.int64)
        try:
            return self.images.fitted(index, self.recipe, None if self.draws is None else self.draws[index])
        except DataError as error:
            return error


def _decoded_ahead(
    images: DecodedImages, recipe: Recipe, indices: Sequence[Tensor], draws: Tensor | None, *, pinned: bool
) -> Iterator[Tensor]:
    loader = DataLoader(
        _Batches(images, recipe, draws),
        batch_size=None,
        sampler=[index.tolist() for index in indices],
        num_workers=min(MAX_WORKERS, usable_cores(), len(indices)),
        collate_fn=_as_it_is,
        pin_memory=pinned,
        generator=torch.Generator(),  # else the loader would draw its own seed from the training's randomness
    )
    loaded = iter(loader)
    try:
        while True:
            batch = next(loaded, None)
            if batch is None:
                return
            if isinstance(batch, DataError):
                raise batch
            yield batch
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        cause = f"{first_line(error)}; there may be too little memory, or shared memory (/dev/shm)"
        raise DataError(f"a process that decodes images died: {cause}") from error
    finally:
        # An error holds this frame and this frame the error. Left to the garbage collector, such a pair takes the
        # queues away before the workers are told to end, and ending them waits until it times out.
        del loaded


def _as_it_is(batch: Any) -> Any:
    return batch
