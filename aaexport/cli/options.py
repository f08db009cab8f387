"""Options that several commands share, with one wording each."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from aaexport.recipe import DECOMPOSITION_NAMES, MAX_SEED

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class Batch(click.ParamType[int | str]):
    """`dynamic` or a number."""

    name = "dynamic|N"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | Literal["dynamic"]:
        """Refuses anything else."""
        if value == "dynamic":
            return "dynamic"
        if not str(value).isdecimal() or int(value) < 1:
            self.fail(f"batch must be dynamic or at least 1, got {value!r}", param, ctx)
        return int(value)


class ImageShape(click.ParamType[tuple[int, int, int]]):
    """`3x32x32`: channels, height and width."""

    name = "CxHxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int, int]:
        """Refuses anything but three numbers above 0."""
        if isinstance(value, tuple):
            return value
        sizes = re.split(r"[x×,]", str(value).strip().lower())
        if len(sizes) != 3 or not all(size.isdecimal() and int(size) >= 1 for size in sizes):
            self.fail(f"input-shape must be channels, height and width as 3x32x32, got {value!r}", param, ctx)
        return int(sizes[0]), int(sizes[1]), int(sizes[2])


class BatchSizes(click.ParamType[tuple[int, ...]]):
    """Numbers separated by commas."""

    name = "N,N,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Refuses anything but numbers above 0."""
        if isinstance(value, tuple):
            return value
        sizes = str(value).split(",")
        if not all(size.isdecimal() and int(size) >= 1 for size in sizes):
            option = "batch" if param is None or param.name == "batches" else param.name
            self.fail(f"{option} must be numbers ≥ 1 separated by commas, got {value!r}", param, ctx)
        return tuple(int(size) for size in sizes)


class Bound(click.ParamType[tuple[str, float]]):
    """A number for every output, or `NAME=X` for one of them: (name, or "" for every one, number)."""

    name = "X|NAME=X"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        """Refuses what is no number."""
        if isinstance(value, tuple):
            return value
        output, _, number = str(value).rpartition("=")
        try:
            return output, float(number)
        except ValueError:
            option = param.name if param is not None and param.name else "the bound"
            self.fail(f"{option} must be a number or NAME=NUMBER, got {value!r}", param, ctx)


class Names(click.ParamType[tuple[str, ...]]):
    """Names separated by commas."""

    name = "NAME,NAME,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Takes whatever stands between the commas; what is known is decided elsewhere."""
        return value if isinstance(value, tuple) else tuple(name.strip() for name in str(value).split(","))


model = click.argument("model", metavar="MODEL")
out = click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Work on a copy of MODEL in this folder; a zoo model goes to ./NAME by default.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
seed = click.option(
    "--seed", type=click.IntRange(0, MAX_SEED), default=0, show_default=True, help="Of all random inputs."
)
atol = click.option("--atol", type=float, help="Largest absolute error; the tolerance table's by default.")
each_atol = click.option(
    "--atol", type=Bound(), multiple=True, help="Largest absolute error, of every output or of one."
)
each_rtol = click.option("--rtol", type=Bound(), multiple=True, help="The same, relative to the largest output.")
rtol = click.option("--rtol", type=float, help="The same, relative to the largest output.")
size = click.option(
    "--size",
    type=click.IntRange(min=1),
    nargs=2,
    metavar="H W",
    help="Images of another size than the recipe's: trained relative tables are cut or interpolated.",
)
decomposition = click.option(
    "--decomposition",
    type=click.Choice(DECOMPOSITION_NAMES),
    help="How relative attention is written out; the recipe's by default. auto takes what `aaexport tune` found, "
    "where it was run, else what a cost model says.",
)

target = click.option(
    "--target",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Where the file is to run: what does not pay there is not applied.",
)


module = click.option(
    "--module",
    metavar="FILE.py:NAME",
    help="Of a folder made of your module: import it and take it for the truth, instead of golden vectors.",
)


def device(default: str | None, text: str) -> Callable[[Decorated], Decorated]:
    """`--device cpu|cuda[:N]`."""
    return click.option("--device", metavar="cpu|cuda[:N]", default=default, help=text)
