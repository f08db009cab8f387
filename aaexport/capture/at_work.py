"""A run of a module in evaluation mode → the layer that ran as in training all the same, in one line with the remedy.

`eval()` reaches only what is registered, and only until somebody calls `train()`: so it is looked at when layers run.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.module import register_module_forward_pre_hook

from aaexport.capture.failures import place_of
from aaexport.errors import ModuleError
from aaexport.nn.copies import held_by


def trains(layer: nn.Module) -> bool:
    """Whether it is a normalization or dropout that answers as in training."""
    return layer.training and isinstance(layer, _BatchNorm | _DropoutNd) and bool(getattr(layer, "p", 1))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """ModuleError if a layer that runs within is a normalization or dropout in training mode."""
    told: list[tuple[str, str]] = []

    def look(layer: nn.Module, _inputs: Any) -> None:
        if not told and trains(layer):
            told.append(_told(module, layer))

    hook = register_module_forward_pre_hook(look)
    try:
        yield
    finally:
        hook.remove()
    if told:
        who, remedy = told[0]
        raise ModuleError(f"{who}, must be in evaluation mode there, got training mode; {remedy}")


def _told(module: nn.Module, layer: nn.Module) -> tuple[str, str]:
    """Which layer it is and where it runs, and what to do about how it came to be in training mode."""
    kind = type(layer).__name__
    place = place_of(module, list(traceback.walk_stack(sys._getframe(1)))[::-1])
    at = f"which runs at {place.line}" if place is not None and place.line else "which runs"
    paths = {id(one): path for path, one in module.named_modules()}
    if id(layer) in paths:
        return f"{paths[id(layer)] or 'the module'} ({kind}), {at}", "call no train() in forward"
    if (name := _where_it_lies(module, layer)) is not None:
        remedy = (
            "eval() reaches no layer in a plain list, tuple or dict; keep it in an nn.ModuleList or nn.ModuleDict"
        )
        return f"the {kind} in {name}, {at}", remedy
    return f"a new {kind} of every call, {at}", "make it once, in __init__"


def _where_it_lies(module: nn.Module, layer: nn.Module) -> str | None:
    """The attribute in which a layer that is not registered is held."""
    for path, owner in module.named_modules():
        for name, held in vars(owner).items():
            if name not in vars(nn.Module()) and any(one is layer for one in held_by(held)):
                return f"{path}.{name}".removeprefix(".")
    return None
