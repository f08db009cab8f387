"""(network, size of an image) → its layers in the order in which they run, with their sizes and costs."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from aaexport.nn.augmented import AugmentedConv2d, augmented_layers, set_decomposition


@dataclass(frozen=True)
class Layer:
    """One layer; an augmented convolution is one, with all that is in it.

    Attributes:
        path: in the network; that of its first call, where it is called several times.
        kind: its class.
        reads, writes: shapes for one image; None where it takes or gives no tensor.
        parameters: numbers.
        macs: of one image, of all its calls, as `aaexport.nn.build.measure_cost` counts.
    """

    path: str
    kind: str
    reads: tuple[int, ...] | None
    writes: tuple[int, ...] | None
    parameters: int
    macs: int


def described_layers(module: nn.Module, input_shape: tuple[int, int, int]) -> tuple[Layer, ...]:
    """The layers that run on one image (C, H, W); on the device `meta` nothing is computed.

    What a network computes between its layers, such as a sum, is none.
    """
    module = copy.deepcopy(module).eval()
    set_decomposition(module, "table")
    seen: dict[str, tuple[nn.Module, Any, Any]] = {}

    def follow(layer: nn.Module, given: tuple[Any, ...], returned: Any, *, path: str) -> None:
        seen.setdefault(path, (layer, given[0] if given else None, returned))

    for path, layer in _layers(module).items():
        layer.register_forward_hook(partial(follow, path=path))
    counter = FlopCounterMode(display=False)
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    with torch.no_grad(), counter:
        module(torch.zeros(1, *input_shape, device=device))
    counts = counter.get_flop_counts()
    whole = type(module).__name__

    def macs_of(path: str) -> int:
        return sum(counts.get(f"{whole}.{path}" if path else whole, {}).values()) // 2

    return tuple(
        Layer(
            path,
            type(layer).__name__,
            _shape(given),
            _shape(returned),
            sum(parameter.numel() for parameter in layer.parameters()),
            macs_of(path),
        )
        for path, (layer, given, returned) in seen.items()
    )


def _layers(module: nn.Module) -> dict[str, nn.Module]:
    """Augmented convolutions, and what else has no layers in it and is in none of them."""
    augmented = tuple(f"{path}." if path else "" for path in augmented_layers(module))
    return {
        path: layer
        for path, layer in module.named_modules()
        if isinstance(layer, AugmentedConv2d) or not (any(layer.children()) or path.startswith(augmented))
    }


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None
