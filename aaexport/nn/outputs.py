"""What a module returns → its tensors in order, each with the way to it: of dicts, tuples and dataclasses too."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

Way = tuple[str | int, ...]


def leaves(output: Any) -> list[tuple[Way, Any]]:
    """Everything that is no container, with the keys, names of fields and numbers that lead to it.

    Of None, which fills the fields that a network does not use, nothing is told.
    """
    return list(_walk(output, ()))


def tensors_of(output: Any) -> list[Any]:
    """The same without the way."""
    return [leaf for _, leaf in _walk(output, ())]


def names_of(output: Any, own: Sequence[str] = (), taken: Sequence[str] = ()) -> tuple[str, ...]:
    """A name for each tensor: `output`, or the way to it, `boxes.scores`; `output_0` … where there is no other.

    Args:
        output: what the module returned.
        own: what the module itself calls its outputs; counts if there are as many, each with a name of its own.
        taken: names that no output may have.
    """
    ways = [way for way, _ in leaves(output)]
    names = [_name(way) for way in ways]
    if len(own) == len(ways) and not isinstance(output, Mapping) and _are_names(own, taken):
        return tuple(own)
    if not _are_names(names, taken):
        return tuple(f"output_{number}" for number in range(len(ways)))
    plain = isinstance(output, list | tuple) and not hasattr(output, "_fields")
    return ("output",) if len(names) == 1 and (plain or not ways[0]) else tuple(names)


def needs_flattening(output: Any) -> bool:
    """Whether a file cannot return it as it is: None is in it, or a container of a kind that torch.export does not
    know, such as a dataclass or a class of somebody's made from dict.
    """
    return not all(isinstance(leaf, Tensor) for leaf in tree_leaves(output))


class Flattened(nn.Module):
    """A network that returns its tensors as a flat tuple, for an export."""

    INSIDE = "network."  # what the paths of its layers begin with

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The network's outputs."""
        return tuple(tensors_of(self.network(x)))


def without_flattening(module: nn.Module) -> nn.Module:
    """The network that somebody wrote, by whose name and paths they know it."""
    return module.network if isinstance(module, Flattened) else module


def _walk(output: Any, way: Way) -> Iterator[tuple[Way, Any]]:
    if isinstance(output, Mapping):
        for key, value in output.items():
            yield from _walk(value, (*way, key))
    elif isinstance(output, list | tuple):
        fields: Sequence[str | int] = getattr(output, "_fields", range(len(output)))
        for name, value in zip(fields, output, strict=True):
            yield from _walk(value, (*way, name))
    elif _is_dataclass(output):
        for field in dataclasses.fields(output):
            yield from _walk(getattr(output, field.name), (*way, field.name))
    elif output is not None:
        yield way, output


def _is_dataclass(output: Any) -> bool:
    return dataclasses.is_dataclass(output) and not isinstance(output, type | Mapping)


def _are_names(names: Sequence[str], taken: Sequence[str]) -> bool:
    return len(set(names)) == len(names) and not set(names) & set(taken) and all(names)


def _name(way: Way) -> str:
    """`output_1.scores` where it begins with a number, which is no name."""
    if not way:
        return "output"
    first = way[0] if isinstance(way[0], str) else f"output_{way[0]}"
    return ".".join(map(str, (first, *way[1:])))
