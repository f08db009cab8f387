"""Numbers with a unit on the command line: `20ms`, `2 min`, `5%`, `2GiB`, in capitals or not."""

from __future__ import annotations

import re
from typing import Any

import click

from aaexport.cli.types import Typed

_QUANTITY = re.compile(r"(?P<number>[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?)\s*(?P<unit>[a-zµμ%]*)", re.IGNORECASE)
_OF_A_SECOND = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
_BYTES = {"b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30}


class Quantity(Typed[float]):
    """A number with one of the units; `plain` is what a number without one is given in.

    The value is in that unit too. What range it must lie in is decided where its meaning is known.
    """

    def __init__(self, example: str, units: dict[str, float], plain: str) -> None:
        self.name, self.plain = example, plain
        self.units = {unit: worth / units[plain.lower()] for unit, worth in units.items()}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Refuses another unit, and what is no number."""
        if isinstance(value, float):
            return value
        found = _QUANTITY.fullmatch(str(value).strip())
        unit = "" if found is None else found["unit"].lower().replace("\N{GREEK SMALL LETTER MU}", "\N{MICRO SIGN}")
        if found is None or (unit and unit not in self.units):
            known = ", ".join(filter(None, self.units))
            self.refuse(f"be like {self.name}", value, param, ctx, remedy=f"units are {known}")
        return float(found["number"]) * self.units[unit or self.plain.lower()]


SECONDS = Quantity("6s", _OF_A_SECOND, "s")
MILLISECONDS = Quantity("20ms", _OF_A_SECOND, "ms")
SHARE = Quantity("5%", {"%": 0.01, "": 1.0}, "")
BYTES = Quantity("2GiB", _BYTES, "b")
MEBIBYTES = Quantity("64MiB", _BYTES, "MiB")
