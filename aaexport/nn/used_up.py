"""A module that holds an iterator → what copies of it hold instead, which says so as soon as somebody takes from it.

A generator, a `map` or a `zip` gives everything once. A forward that takes layers from one runs them in the first
call alone, and every look at the module would be such a call: copies, and the caller's own, would answer as what is
left.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from aaexport.errors import ModuleError
from aaexport.nn.outputs import tensors_of

MAKERS = ("builtins", "itertools")  # of iterators whose state nobody can put back
ENDLESS = (itertools.count, itertools.cycle, itertools.repeat)
GOING_ON = (itertools.count, itertools.cycle)  # a repeat gives the same each time
REMEDY = "keep what it gives in a list, and layers in an nn.ModuleList"


class UsedUp(Iterator[Any]):
    """Stands for an iterator in copies of a module; it is told as `what`.

    Raises:
        ModuleError: something is taken from it.
    """

    def __init__(self, what: str) -> None:
        self.what = what

    def __next__(self) -> NoReturn:
        raise ModuleError(f"it takes from {self.what}, which the first call uses up; {REMEDY}")

    def send(self, _value: Any) -> NoReturn:
        """As `next`."""
        self.__next__()


def is_used_up(held: Any) -> bool:
    """Whether it is an iterator of Python's own that comes to an end."""
    is_pythons = isinstance(held, Iterator) and type(held).__module__ in MAKERS
    return is_pythons and not isinstance(held, ENDLESS)


def endless(module: nn.Module, run: Callable[[], object]) -> str | None:
    """An iterator without an end, as it is told, that a layer holds and that makes `run` answer otherwise each time.

    That is: what it gave given once more, the answers are the same, and with what it gives next they are others. None
    if there is none such, or if it cannot be tried out. Those of the module are further on afterwards.
    """
    held = [
        (vars(layer), name, _Again(one))
        for layer in module.modules()
        for name, one in vars(layer).items()
        if isinstance(one, GOING_ON)
    ]
    if not held:
        return None
    for own, name, again in held:
        own[name] = again
    try:
        first = _answers(run)
        asked = [again for _, _, again in held if again.given]
        if not asked:
            return None
        for again in asked:
            again.place = 0
        is_it = _are_same(first, _answers(run)) and not _are_same(first, _answers(run))
    except Exception:  # noqa: BLE001  # whatever a stranger's module raises: the cause is another one then
        return None
    finally:
        for own, name, again in held:
            own[name] = again.held
    return told(asked[0].held, module) if is_it else None


class _Again(Iterator[Any]):
    """Gives what `held` gives, from `place` on of what it has given already."""

    def __init__(self, held: Iterator[Any]) -> None:
        self.held, self.given, self.place = held, list[Any](), 0

    def __next__(self) -> Any:
        if self.place == len(self.given):
            self.given.append(next(self.held))
        self.place += 1
        return self.given[self.place - 1]


def _answers(run: Callable[[], object]) -> list[Tensor]:
    with torch.no_grad():
        return [one.clone() for one in tensors_of(run()) if isinstance(one, Tensor)]


def _are_same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(
        a.shape == b.shape and torch.allclose(a, b, equal_nan=True) for a, b in zip(one, other, strict=True)
    )


def instead_of(held: Any, module: nn.Module) -> UsedUp:
    """What stands for the iterator `held` in copies of `module`."""
    return UsedUp(told(held, module))


def told(held: Any, module: nn.Module) -> str:
    """`self.layers (generator)`, by the attribute that holds the iterator, or that holds what it is in."""
    kind = type(held).__name__.rpartition("_")[2]
    kind = "iterator" if kind.endswith("iterator") else kind
    for path, layer in module.named_modules():
        for name, value in vars(layer).items():
            inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
            if value is held or any(one is held for one in inside):
                return f"{path or 'self'}.{name} ({kind})"
    return f"a {kind} that it holds"
