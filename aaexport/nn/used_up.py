"""A module that holds an iterator → what copies of it hold instead, which says so as soon as somebody takes from it.

A generator, a `map` or a `zip` gives everything once. A forward that takes layers from one runs them in the first
call alone, and every look at the module would be such a call: copies, and the caller's own, would answer as what is
left.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NoReturn

from torch import nn

from aaexport.errors import ModuleError

MAKERS = ("builtins", "itertools")  # of iterators whose state nobody can put back
ENDLESS = (itertools.count, itertools.cycle, itertools.repeat)
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


def endless(module: nn.Module) -> str | None:
    """An iterator without an end that a layer holds, as it is told; None if there is none."""
    held = (one for layer in module.modules() for one in vars(layer).values() if isinstance(one, ENDLESS))
    first = next(held, None)
    return None if first is None else told(first, module)


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
