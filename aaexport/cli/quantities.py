"""Numbers with a unit on the command line: `20ms`, `5%`, `2GiB`, `batch=4`."""

from __future__ import annotations

import re
from typing import Any

import click

_NUMBER = re.compile(r"(?P<number>\d+(\.\d*)?|\.\d+)\s*(?P<unit>[a-zA-Zµ%]*)")
_MILLISECONDS = {"": 1.0, "ms": 1.0, "s": 1000.0, "us": 0.001, "µs": 0.001}
_SHARES = {"": 1.0, "%": 0.01}
_BYTES = {"MiB": 2.0**20, "GiB": 2.0**30, "MB": 1e6, "GB": 1e9}


class Quantity(click.ParamType[float]):
    """A number with one of the units, multiplied by what the unit is worth."""

    def __init__(self, name: str, units: dict[str, float]) -> None:
        self.name, self.units = name, units

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Refuses another unit, and what is no number."""
        if isinstance(value, float):
            return value
        found = _NUMBER.fullmatch(str(value).strip())
        if found is None or found["unit"] not in self.units:
            option = (param.name if param is not None else None) or "the value"
            self.fail(f"{option} must be like {self.name}, got {value!r}", param, ctx)
        return float(found["number"]) * self.units[found["unit"]]


MILLISECONDS = Quantity("20ms", _MILLISECONDS)
SHARE = Quantity("5%", _SHARES)
BYTES = Quantity("2GiB", _BYTES)


class Dimension(click.ParamType[tuple[str, int]]):
    """`NAME=N`."""

    name = "NAME=N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        """Refuses what has no name, or no number."""
        if isinstance(value, tuple):
            return value
        name, _, size = str(value).rpartition("=")
        if not name or not size.isdecimal():
            self.fail(f"dim must be NAME=N, got {value!r}", param, ctx)
        return name, int(size)
