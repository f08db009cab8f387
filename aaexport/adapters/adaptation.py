"""(module, an example of its input) → a copy whose augmented layers are AugmentedConv2d, and why some are not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.utils import parametrize

from aaexport.adapters.adapter import Adapter, DeclinedError
from aaexport.adapters.build import replacement_of
from aaexport.adapters.calls import Calls
from aaexport.adapters.check import Checks, Pair
from aaexport.adapters.d_li14 import D_LI14
from aaexport.adapters.legendong import LEGENDONG
from aaexport.adapters.lucidrains import LUCIDRAINS
from aaexport.adapters.reference import REFERENCE
from aaexport.adapters.timm import TIMM
from aaexport.errors import first_line
from aaexport.nn import AugmentedConv2d
from aaexport.nn.copies import copied_by, shared_parameters

ADAPTERS: tuple[Adapter, ...] = (REFERENCE, LEGENDONG, D_LI14, TIMM, LUCIDRAINS)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True)
class Adaptation:
    """A module with its augmented layers replaced.

    module: a copy over the same parameter memory; where nothing was replaced, the given module itself.
    replaced: path of each replaced layer → the title of the adapter that read it.
    kept: path of each layer that only looks like one → why it was left as it is, in one line.
    """

    module: nn.Module
    replaced: dict[str, str]
    kept: dict[str, str]


@dataclass(frozen=True)
class Candidate:
    """A layer with the structure of an adapter's, at one path or several."""

    layer: nn.Module
    adapter: Adapter
    paths: list[str]


@torch.no_grad()
def adapt(module: nn.Module, example: Tensor) -> Adaptation:
    """Replaces, on a copy, every layer that an adapter recognises and whose numbers agree.

    The given module is run, and otherwise left alone: the copy has its own parameters, over the same memory.

    Args:
        module: any module, in evaluation mode.
        example: one batch that it takes, (B, C, height, width); replacements hold for the sizes that come of it.

    Raises:
        ArgumentError: the module does not take the example.
    """
    candidates = _candidates(module)
    if not candidates:
        return Adaptation(module, {}, {})
    devices = [example.device] if example.is_cuda else []
    with torch.random.fork_rng(devices):  # layers that draw random numbers take none of the user's
        return _adapted(module, candidates, example)


def _adapted(module: nn.Module, candidates: list[Candidate], example: Tensor) -> Adaptation:
    calls = Calls(module, [candidate.layer for candidate in candidates], example)
    checks, memo = Checks(), shared_parameters(module)
    replaced: dict[str, str] = {}
    kept: dict[str, str] = {}
    for candidate in candidates:
        try:
            memo[id(candidate.layer)] = _replacement(candidate, calls, checks, memo)
        except DeclinedError as declined:
            kept |= dict.fromkeys(candidate.paths, str(declined))
        except Exception as error:  # noqa: BLE001  # reading and running a stranger's layer can raise anything
            kept |= dict.fromkeys(candidate.paths, f"it cannot be replaced: {first_line(error)}")
        else:
            replaced |= dict.fromkeys(candidate.paths, candidate.adapter.title)
    if not replaced:
        return Adaptation(module, {}, kept)
    try:
        adapted = copied_by(module, memo)
        adapted(example)
    except Exception as error:  # noqa: BLE001  # the code of a stranger's module can raise anything; it is told
        reason = f"the module does not run with replaced layers: {first_line(error)}"
        return Adaptation(module, {}, kept | dict.fromkeys(replaced, reason))
    return Adaptation(adapted, replaced, kept)


def _candidates(module: nn.Module) -> list[Candidate]:
    found: dict[nn.Module, Candidate] = {}
    for path, layer in module.named_modules(remove_duplicate=False):
        if layer in found:
            found[layer].paths.append(path)
        elif adapter := _adapter_of(layer):
            found[layer] = Candidate(layer, adapter, [path])
    return list(found.values())


def _adapter_of(layer: nn.Module) -> Adapter | None:
    if isinstance(layer, AugmentedConv2d):
        return None
    return next((adapter for adapter in ADAPTERS if _recognises(adapter, layer)), None)


def _recognises(adapter: Adapter, layer: nn.Module) -> bool:
    try:
        return adapter.recognises(layer)
    except Exception:  # noqa: BLE001  # looking at an attribute of a stranger's layer can run any code of its class
        return False


def _replacement(candidate: Candidate, calls: Calls, checks: Checks, memo: dict[int, Any]) -> nn.Module:
    """The checked replacement, whose parameters are those of the copy that is to come; or DeclinedError."""
    layer, adapter = candidate.layer, candidate.adapter
    _require_no_more_than(adapter, layer)
    parts = adapter.read(layer)
    size = calls.size(layer)
    replacement = replacement_of(parts, size, memo)
    checks.require_same(Pair(adapter, layer, replacement, (parts.qkv.in_channels, *size)))
    return replacement


def _require_no_more_than(adapter: Adapter, layer: nn.Module) -> None:
    """Nothing beside the adapter's parts: what else there is, a replacement would lose."""
    for name, module in layer.named_modules():
        its = f"its {name}" if name else "it"
        if any(getattr(module, hooks) for hooks in HOOKS):
            raise DeclinedError(f"{its} has hooks, which a replacement would not call")
        if parametrize.is_parametrized(module):
            raise DeclinedError(f"{its} is parametrized")
        if module.training:
            raise DeclinedError(f"{its} is in training mode")
        if isinstance(module, _DropoutNd) and module.p > 0:
            raise DeclinedError(f"{its} is a {type(module).__name__}, which training would lose")
    tensors = (*layer.named_parameters(), *layer.named_buffers())
    further = [name for name, _ in tensors if not adapter.knows(name)]
    if further:
        raise DeclinedError(f"it has further parameters or buffers: {', '.join(further)}")
