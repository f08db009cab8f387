"""(value, what it may be) → every way in which it is something else: keys, types and choices, strictly.

What clusters take is described by a value: a type, a tuple of words of which it is one, a list of one description for
a list of such, a Keys for a mapping with those keys and no others, a Many for a mapping with any keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from aaexport.errors import did_you_mean


@dataclass(frozen=True)
class Keys:
    """A mapping: each key with its description; `needs` are those that must be there."""

    known: Mapping[str, Any]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Many:
    """A mapping with any keys, each value of one description."""

    value: Any = field(default=str)


def faults(value: Any, wanted: Any, place: str = "") -> Iterator[str]:
    """What is wrong, a line each, with the place of it."""
    if isinstance(wanted, Keys):
        yield from _of_keys(value, wanted, place)
    elif isinstance(wanted, Many):
        if not isinstance(value, dict):
            yield _other(place, "a mapping", value)
            return
        for key, inner in value.items():
            yield from faults(inner, wanted.value, f"{place}.{key}")
    elif isinstance(wanted, list):
        if not isinstance(value, list):
            yield _other(place, "a list", value)
            return
        for number, inner in enumerate(value):
            yield from faults(inner, wanted[0], f"{place}[{number}]")
    elif isinstance(wanted, tuple) and all(isinstance(word, str) for word in wanted):
        if value not in wanted:
            yield _other(place, f"one of {', '.join(wanted)}", value)
    elif not _is(value, wanted):
        kinds = wanted if isinstance(wanted, tuple) else (wanted,)
        yield _other(place, " or ".join(kind.__name__ for kind in kinds), value)


def _of_keys(value: Any, wanted: Keys, place: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield _other(place, "a mapping", value)
        return
    for key in wanted.needs:
        if key not in value:
            yield f"{_inside(place, key)} must be there, got none"
    for key, inner in value.items():
        if key in wanted.known:
            yield from faults(inner, wanted.known[key], _inside(place, key))
        else:
            remedy = did_you_mean(str(key), wanted.known)
            yield f"{place or 'the file'} must have keys that are known, got {key!r}; {remedy}"


def _is(value: Any, wanted: Any) -> bool:
    """A bool is no number, although Python takes it for one."""
    kinds = wanted if isinstance(wanted, tuple) else (wanted,)
    return isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds)


def _inside(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key


def _other(place: str, rule: str, value: Any) -> str:
    return f"{place or 'the file'} must be {rule}, got {value!r}"
