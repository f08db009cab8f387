"""`aaexport inspect MODEL`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aaexport.cli import options
from aaexport.cli.collector import loading
from aaexport.cli.command import Command
from aaexport.cli.console import settings, show, show_json
from aaexport.cli.page import check_page, write_page
from aaexport.cli.page import page as page_option
from aaexport.cli.types import PathTo, Pixel

if TYPE_CHECKING:
    from aaexport.results import InspectResult

SECTIONS = {"A picture of the attention": ("image", "layers", "queries", "heads", "out")}
EXAMPLES = (
    ("aaexport inspect aa_cnn3_digits", "Shows the network, and the graph where it was converted."),
    ("aaexport -v inspect model.onnx", "Shows any ONNX file, with all of its metadata."),
    (
        "aaexport inspect aa_cnn3_digits --attention seven.png --query 2,4 --out heads.png",
        "Draws what each head attends to from the pixel in row 2, column 4.",
    ),
    ("aaexport inspect aa_cnn3_digits --page digits.html", "Draws all of it as a page, layer by layer."),
)


@click.command("inspect", cls=Command, sections=SECTIONS, examples=EXAMPLES)
@options.model
@click.option("--attention", "image", metavar="IMAGE|sample:N", shell_complete=PathTo("IMAGE").shell_complete,
              help="Draw what MODEL attends to, into --out, in this image file or in held-out image N of its data "
                   "set.")  # fmt: skip
@click.option("--layer", "layers", multiple=True, metavar="PATH",
              help="An augmented layer, such as features.6; the last by default. May be repeated.")  # fmt: skip
@click.option("--query", "queries", type=Pixel(), multiple=True,
              help="What attends: a pixel of the network's input, from 0,0 at the top left, that stands for the "
                   "position of a layer's map it lies in. The centre and the centres of the quarters by default. "
                   "May be repeated.")  # fmt: skip
@click.option("--head", "heads", type=int, multiple=True, metavar="N",
              help="A head to draw, from 0; all by default. May be repeated.")  # fmt: skip
@click.option("--out", type=PathTo("FILE.svg|FILE.png"), help="The picture of --attention.")
@page_option
@options.as_json
def command(
    model: str,
    image: str | None,
    layers: tuple[str, ...],
    queries: tuple[tuple[int, int], ...],
    heads: tuple[int, ...],
    out: Path | None,
    page: Path | None,
    as_json: bool,
) -> None:
    """Show what is in MODEL: a folder, a zoo name, or any ONNX file.

    Writes nothing, but with --attention IMAGE a picture: a row for each query pixel, the image beside the map of each
    head, in one scale; and with --page all of it as one page, with the attention in a held-out image, or in IMAGE.
    """
    _require_attention(image, out, page, {"--layer": layers, "--query": queries, "--head": heads})
    if page is not None:
        _paint(model, image, page, layers, queries, heads, as_json)
        return
    if image is not None:
        assert out is not None
        _draw(model, image, out, layers, queries, heads, as_json)
        return
    with loading():
        from aaexport.pipeline.look.inspect import inspect

    _show(inspect(model), as_json)


def _require_attention(
    image: str | None, out: Path | None, page: Path | None, of_attention: Mapping[str, tuple[object, ...]]
) -> None:
    """UsageError for options that say what to draw where nothing is drawn, or not where."""
    if page is not None and out is not None:
        raise click.UsageError("--out must be left out with --page, which has the picture in it")
    if image is not None and out is None and page is None:
        raise click.UsageError("--attention needs --out FILE.png or FILE.svg, or --page FILE.html")
    if image is not None or page is not None:
        return
    for option, value in {**of_attention, "--out": out}.items():
        if value:
            raise click.UsageError(f"{option} needs --attention IMAGE")


def _show(result: InspectResult, as_json: bool) -> None:
    from aaexport.report.machine import inspect_json
    from aaexport.report.terminal import inspect_view

    if as_json:
        show_json(inspect_json(result))
    else:
        show(inspect_view(result, verbose=settings.verbose))


def _paint(
    model: str,
    image: str | None,
    page: Path,
    layers: tuple[str, ...],
    queries: tuple[tuple[int, int], ...],
    heads: tuple[int, ...],
    as_json: bool,
) -> None:
    """The page, below what the terminal shows without one."""
    from aaexport.pipeline.look.options import sample_number

    read = [Path(model)] if Path(model).is_file() else []
    if image is not None and sample_number(image) is None:
        read.append(Path(image))
    check_page(page, *read)
    with loading():
        from aaexport.pipeline.look.portrait import portray
    from aaexport.report.model.model_page import model_html

    portrait = portray(model, image, layers=layers, queries=queries, heads=heads)
    _show(portrait.inspected, as_json)
    write_page(page, model_html(portrait))


def _draw(
    model: str,
    image: str,
    out: Path,
    layers: tuple[str, ...],
    queries: tuple[tuple[int, int], ...],
    heads: tuple[int, ...],
    as_json: bool,
) -> None:
    from aaexport.pipeline.look.options import check_picture

    check_picture(model, image, out, queries)
    with loading():
        from aaexport.pipeline.look.attention import draw_attention
    from aaexport.report.machine import attention_json
    from aaexport.report.terminal import attention_view

    picture = draw_attention(model, image, out, layers=layers, queries=queries, heads=heads)
    if as_json:
        show_json(attention_json(picture))
    else:
        show(attention_view(picture))
