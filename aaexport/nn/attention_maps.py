"""(network, images) → the attention weights of every augmented layer, beside what the network returns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from aaexport.errors import ArgumentError, broken_rule
from aaexport.nn.augmented import AugmentedConv2d, augmented_layers
from aaexport.nn.outputs import tensors_of
from aaexport.recipe.words import ATTENTION_OUTPUTS


def attention_weights(module: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """What every augmented layer of `module` attends to, by the layer's path.

    `weights[path][b, head, h, w, i, j]` is how much query position (h, w) of image b takes from key position (i, j);
    over (i, j) they sum to 1. They come from the decomposition that each layer computes; a layer that would use a
    fused kernel, which gives none away, computes the same as `fold`. The module runs in the mode that it is in.

    Args:
        module: any module with `AugmentedConv2d` layers in it, or one itself; its path is then "".
        images: (B, C, height, width), normalised, on the module's device.

    Returns:
        (B, Nh, H, W, H, W) for each layer, H × W being the layer's `attention_size`.

    Raises:
        ArgumentError: there is no augmented layer, or one ran more than once, or not at all.
    """
    return outputs_and_attention(module, images)[1]


@torch.no_grad()
def outputs_and_attention(
    module: nn.Module, images: Tensor, only: str | None = None
) -> tuple[Any, dict[str, Tensor]]:
    """What `module` returns, and `attention_weights`, of one run; of the layer `only`, if one is named."""
    layers = require_augmented_layers(module)
    layers = layers if only is None else {only: layers[only]}
    with _told(layers) as weights:
        outputs = module(images)
    return outputs, {path: weights[path].unflatten(3, layer.attention_size).unflatten(2, layer.attention_size)
                     for path, layer in layers.items()}  # fmt: skip


class WithAttention(nn.Module):
    """A network that also returns the attention weights of its augmented layers, for an export.

    Returns what `network` returns, as a flat tuple, and after it one tensor a head, in the order of
    `attention_outputs`: (B, H, W, H, W), [b, h, w, i, j] as in `attention_weights`. One tensor a layer would need
    six dimensions, and runtimes choke on more than five.

    Raises:
        ArgumentError: as `attention_weights`.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        require_augmented_layers(network)
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The network's outputs, then the heads' weights."""
        layers = augmented_layers(self.network)
        with _told(layers) as weights:
            outputs = tensors_of(self.network(x))
        maps = [
            head.reshape(-1, *layer.attention_size, *layer.attention_size)
            for path, layer in layers.items()
            for head in weights[path].split(1, dim=1)
        ]
        return (*outputs, *maps)


def attention_outputs(module: nn.Module) -> tuple[str, ...]:
    """`attention.<path of the layer>.head<number>` for every head of every augmented layer."""
    return tuple(
        ".".join(filter(None, (ATTENTION_OUTPUTS, path, f"head{head}")))
        for path, layer in augmented_layers(module).items()
        for head in range(layer.num_heads)
    )


def require_augmented_layers(module: nn.Module) -> dict[str, AugmentedConv2d]:
    """The augmented layers by their paths; ArgumentError if there is none."""
    layers = augmented_layers(module)
    if not layers:
        raise ArgumentError(f"the model must have augmented layers, got a {type(module).__name__} without attention")
    return layers


@contextmanager
def _told(layers: dict[str, AugmentedConv2d]) -> Iterator[dict[str, Tensor]]:
    """Fills a dict with the weights of each layer, (B, Nh, N, N), while the block runs; complete when it has."""
    told: dict[str, list[Tensor]] = {path: [] for path in layers}
    weights: dict[str, Tensor] = {}
    for path, layer in layers.items():
        layer.tell_weights = told[path].append
    try:
        yield weights
    finally:
        for layer in layers.values():
            layer.tell_weights = None
    for path, calls in told.items():
        if len(calls) != 1:
            raise ArgumentError(broken_rule(f"layer {path!r}", "run once for its attention to be told", len(calls)))
        weights[path] = calls[0]
