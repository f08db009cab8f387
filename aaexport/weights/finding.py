"""What a checkpoint holds → the state_dicts in it, each with the keys that lead to it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
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
AVERAGE = 1  # its rank
EXTRA = "_extra_state"  # what a module's `get_extra_state` returned, of any type


@dataclass(frozen=True)
class StateDict:
    """A dict of tensors at contents[keys[0]][keys[1]] …; `keys` is empty where it is the whole file.

    Of one whose names begin with `prefix` only in part, what does not is `left_out`.
    """

    keys: tuple[str, ...]
    tensors: dict[str, Tensor]
    extra: dict[str, Any]
    prefix: str = ""
    left_out: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """Its keys as a user would write them."""
        place = "".join(f"[{key!r}]" for key in self.keys) or "the whole file"
        return f"{place} under {self.prefix!r}" if self.prefix else place

    @property
    def rank(self) -> int:
        """By the names of its keys: 0 for the trained weights, AVERAGE for one of them, 2 where they do not tell."""
        names = (*self.keys, *filter(None, self.prefix.split(".")))
        if any(AVERAGED.search(name) for name in names):
            return AVERAGE
        return 0 if all(key in TRAINED for key in self.keys) else 2

    @property
    def is_named_trained(self) -> bool:
        """Whether its keys and its prefix say that it is the trained network."""
        return all(name in TRAINED for name in (*self.keys, *filter(None, self.prefix.split("."))))

    def parts(self) -> Iterator[StateDict]:
        """What begins with one prefix, where other names lie beside it, by every prefix, the shortest first."""
        names = [*self.tensors, *self.extra]
        ends = {name[: at + 1] for name in names for at, letter in enumerate(name) if letter == "."}
        for prefix in sorted(ends, key=lambda prefix: (prefix.count("."), prefix)):
            left_out = tuple(name for name in names if not name.startswith(prefix))
            if left_out:
                yield replace(
                    self,
                    tensors=_below(prefix, self.tensors),
                    extra=_below(prefix, self.extra),
                    prefix=prefix,
                    left_out=left_out,
                )


def _below(prefix: str, named: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}


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
    names = {*(found.prefix + name for name in (*found.tensors, *found.extra)), *found.left_out}
    for key in found.keys or ("",):
        rest = {name: value for name, value in contents.items() if name != key and name not in names}
        others += [_told(name, value) for name, value in rest.items()]
        contents = contents.get(key)
    return others


def _told(name: Any, value: Any) -> str:
    if isinstance(value, np.generic) or (isinstance(value, Tensor) and value.numel() == 1):
        value = value.item()
    told = f"{value:.6g}" if isinstance(value, float) else repr(value)
    plain = isinstance(value, int | float | str) and len(told) <= MOST_CHARACTERS
    label = name if isinstance(name, str) and name.isprintable() else repr(name)
    return f"{label} = {told}" if plain else label
