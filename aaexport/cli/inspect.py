"""`aaexport inspect MODEL`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from aaexport.cli import options
from aaexport.cli.console import settings, show, show_json


class Pixel(click.ParamType[tuple[int, int]]):
    """A row and a column, separated by a comma."""

    name = "ROW,COLUMN"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Refuses anything but two whole numbers."""
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"(-?\d{1,9}),(-?\d{1,9})", str(value))
        if found is None:
            self.fail(f"query must be ROW,COLUMN in whole pixels, got {value!r}", param, ctx)
        return int(found[1]), int(found[2])


@click.command("inspect")
@options.model
@click.option("--attention", "image", type=click.Path(path_type=Path), metavar="IMAGE",
              help="Draw what MODEL attends to in this image file, into --out.")  # fmt: skip
@click.option("--layer", "layers", multiple=True, metavar="PATH",
              help="An augmented layer, such as features.6; the last by default. May be repeated.")  # fmt: skip
@click.option("--query", "queries", type=Pixel(), multiple=True,
              help="What attends: a pixel of the network's input, from 0,0 at the top left, that stands for the "
                   "position of a layer's map it lies in. The centre and the centres of the quarters by default. "
                   "May be repeated.")  # fmt: skip
@click.option("--head", "heads", type=int, multiple=True, metavar="N",
              help="A head to draw, from 0; all by default. May be repeated.")  # fmt: skip
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE.svg|FILE.png", help="The picture of --attention."
)
@options.as_json
def command(
    model: str,
    image: Path | None,
    layers: tuple[str, ...],
    queries: tuple[tuple[int, int], ...],
    heads: tuple[int, ...],
    out: Path | None,
    as_json: bool,
) -> None:
    """Show what is in MODEL: a folder, a zoo name, or any ONNX file.

    Writes nothing, but with --attention IMAGE a picture: a row for each query pixel, the image beside the map of each
    head, in one scale.
    """
    if image is not None:
        if out is None:
            raise click.UsageError("--attention needs --out FILE.png or FILE.svg")
        _draw(model, image, out, layers, queries, heads, as_json)
        return
    given = {"--layer": layers, "--query": queries, "--head": heads, "--out": out}
    for option, value in given.items():
        if value:
            raise click.UsageError(f"{option} needs --attention IMAGE")
    from aaexport.pipeline.look.inspect import inspect

    result = inspect(model)
    from aaexport.report.machine import inspect_json
    from aaexport.report.terminal import inspect_view

    if as_json:
        show_json(inspect_json(result))
    else:
        show(inspect_view(result, verbose=settings.verbose))


def _draw(
    model: str,
    image: Path,
    out: Path,
    layers: tuple[str, ...],
    queries: tuple[tuple[int, int], ...],
    heads: tuple[int, ...],
    as_json: bool,
) -> None:
    from aaexport.pipeline.look.options import check_picture

    check_picture(model, image, out, queries)
    from aaexport.pipeline.look.attention import draw_attention
    from aaexport.report.machine import attention_json
    from aaexport.report.terminal import attention_view

    picture = draw_attention(model, image, out, layers=layers, queries=queries, heads=heads)
    if as_json:
        show_json(attention_json(picture))
    else:
        show(attention_view(picture))
