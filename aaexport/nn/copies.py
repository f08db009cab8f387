"""Copies of a module that can be set and moved apart from it, and take no second memory for its parameters."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn


def copied(module: nn.Module) -> nn.Module:
    """A copy of `module` with parameters of its own over the memory of the given ones, and its own buffers.

    What is set on it, or where it is moved to, does not reach the given module; writing into a parameter would.
    """
    return copy.deepcopy(module, shared_parameters(module))


def shared_parameters(module: nn.Module) -> dict[int, Any]:
    """A memo for `copy.deepcopy`, by which copies have their own parameters over the memory of the given ones.

    Their own, because `to` and `requires_grad_` would reach the given module through shared ones.
    """
    return {
        id(parameter): nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
        for parameter in module.parameters()
        if type(parameter) is nn.Parameter
    }
