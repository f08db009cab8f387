"""What a checkpoint holds → the state_dicts in it, each with the keys that lead to it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

MOST_KEYS = 3
MOST_CHARACTERS = 24
TRAINED = (
    *("model", "state_dict", "net", "model_state_dict", "model_state", "module", "network", "weights", "params"),
    "learner",  # of our own checkpoint.pt
)
AVERAGED = re.compile(r"(^|_)(ema|swa|avg|averaged?)(_|$)")
EXTRA = "_extra_state"  # what a module's `get_extra_state` returned, of any type


@dataclass(frozen=True)
class StateDict:
    """A dict of tensors at contents[keys[0]][keys[1]] …; `keys` is empty where it is the whole file."""

    keys: tuple[str, ...]
    tensors: dict[str, Tensor]
    extra: dict[str, Any]

    @property
    def place(self) -> str:
        """Its keys as a user would write them."""
        return "".join(f"[{key!r}]" for key in self.keys) or "the whole file"

    @property
    def rank(self) -> int:
        """By the names of its keys: 0 for the trained weights, 1 for an average of them, 2 where they do not tell."""
        if any(AVERAGED.search(key) for key in self.keys):
            return 1
        return 0 if all(key in TRAINED for key in self.keys) else 2


def state_dicts(contents: Any) -> list[StateDict]:
    """All of them, each once even if several keys lead to it."""
    return list(_walk(contents, (), set()))


def _walk(contents: Any, keys: tuple[str, ...], seen: set[int]) -> Iterator[StateDict]:
    if not isinstance(contents, dict) or id(contents) in seen:
        return
    seen.add(id(contents))
    named = {name: value for name, value in contents.items() if isinstance(name, str)}
    extra = {name: value for name, value in named.items() if name.endswith(EXTRA)}
    tensors = {name: value for name, value in named.items() if isinstance(value, Tensor) and name not in extra}
    if tensors:
        yield StateDict(keys, tensors, extra)
    for name, value in named.items():
        if len(keys) < MOST_KEYS:
            yield from _walk(value, (*keys, name), seen)


def beside(contents: Any, found: StateDict) -> list[str]:
    """What else the file holds, `acc = 61.6` of a number, only the key of anything larger."""
    others: list[str] = []
    for key in found.keys or ("",):
        rest = {name: value for name, value in contents.items() if name != key and name not in found.tensors}
        others += [_told(name, value) for name, value in rest.items() if name not in found.extra]
        contents = contents.get(key)
    return others


def _told(name: Any, value: Any) -> str:
    if isinstance(value, np.generic) or (isinstance(value, Tensor) and value.numel() == 1):
        value = value.item()
    told = f"{value:.6g}" if isinstance(value, float) else repr(value)
    plain = isinstance(value, int | float | str) and len(told) <= MOST_CHARACTERS
    label = name if isinstance(name, str) and name.isprintable() else repr(name)
    return f"{label} = {told}" if plain else label
