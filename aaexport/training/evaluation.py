"""A network and the test part → the shares it classifies rightly, and golden vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aaexport.data import Images, batches, evaluation_batch
from aaexport.recipe import Recipe
from aaexport.training.distributed import Processes

GOLDEN_IMAGES = 4
EVALUATION_BATCH = 256
TOP = 5


def accuracy(module: nn.Module, images: Images, recipe: Recipe, device: torch.device) -> float:
    """The share of `images` that `module` classifies rightly, in evaluation mode."""
    return accuracies(module, images, recipe, Processes(device))[0]


@torch.no_grad()
def accuracies(module: nn.Module, images: Images, recipe: Recipe, processes: Processes) -> tuple[float, float]:
    """The shares of `images` whose class is the likeliest, and among the five likeliest (or all), to `module`.

    Each process evaluates its share of the images; all get the same answer. The module is left in evaluation mode.
    """
    module.eval()
    top = min(TOP, recipe.input.classes)
    hits = torch.zeros(2, dtype=torch.int64, device=processes.device)
    indices = processes.share_of(torch.arange(len(images))).split(EVALUATION_BATCH)
    for batch, labels in batches(images, recipe, indices, device=processes.device):
        right = module(batch).topk(top).indices == labels.unsqueeze(1)  # (B, top)
        hits += torch.stack((right[:, 0].sum(), right.sum()))
    first, among = processes.summed(hits).tolist()
    return first / len(images), among / len(images)


@torch.no_grad()
def golden_vectors(module: nn.Module, images: Images, recipe: Recipe) -> dict[str, Tensor]:
    """The first test images as inputs (N, C, H, W) and what `module`, in evaluation mode, makes of them."""
    inputs = evaluation_batch(images, recipe, torch.arange(min(GOLDEN_IMAGES, len(images))))
    return {"input": inputs, "logits": module(inputs)}
