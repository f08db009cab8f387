"""A view → HTML for a cell of a notebook: the words that a terminal shows, in tables, on the notebook's ground."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path

from rich.console import Group
from rich.style import Style
from rich.table import Table
from rich.text import Text

from aaexport.report.page.markup import Html, element, join
from aaexport.report.plain import plain

# Legible on white and on black alike: notebooks are either, and a cell is not told which.
COLOURS = {"red": "#d1383d", "green": "#2a9150", "yellow": "#b07a00"}
TABLE = "border-collapse:collapse;margin:.4em 0;font-variant-numeric:tabular-nums"
CELL = "padding:.15em .8em .15em 0;vertical-align:top;white-space:pre-line;text-align:"
LINE = "margin:.3em 0;white-space:pre-line"
FRAME = "width:100%;height:42rem;border:1px solid rgba(128,128,128,.4);border-radius:.4rem"
PICTURES = {".png": "image/png", ".svg": "image/svg+xml"}


def fragment(view: object) -> Html:
    """Tables as tables, lines as lines; what is neither as the text it makes."""
    return element("div", _html(view), style="overflow-x:auto")


def framed_page(page: str) -> Html:
    """A whole page to unfold, in a frame of its own, so that its style does not reach the notebook."""
    frame = element("iframe", srcdoc=page, style=FRAME, sandbox="", title="the whole report")
    return element("details", element("summary", "The whole report"), frame)


def picture(path: Path) -> Html | None:
    """A picture file as it is now; None if it cannot be read."""
    try:
        data = base64.b64encode(path.read_bytes()).decode()
    except OSError:
        return None
    source = f"data:{PICTURES[path.suffix.lower()]};base64,{data}"
    return element("img", src=source, alt=path.name, style="max-width:100%;height:auto")


def _html(view: object) -> Html:
    if isinstance(view, Group):
        return join(map(_html, view.renderables))
    if isinstance(view, Table):
        return _table(view)
    if isinstance(view, str | Text):
        return element("div", *_inline(view), style=LINE) if str(view).strip() else Html("")
    return element("pre", *_lines(plain(view)))  # type: ignore[arg-type]  # rich takes what it takes


def _table(table: Table) -> Html:
    headers = [column.header for column in table.columns]
    head = [element("tr", *_cells(table, headers, "th"))] if table.show_header and any(map(str, headers)) else []
    rows = zip(*(column.cells for column in table.columns), strict=True)
    body = (
        element("tr", *_cells(table, row, "td"), style=_css(known.style) or None)
        for row, known in zip(rows, table.rows, strict=True)
    )
    return element("table", *head, *body, style=TABLE)


def _cells(table: Table, cells: Iterable[object], name: str) -> Iterable[Html]:
    for column, cell in zip(table.columns, cells, strict=True):
        side = "right" if column.justify == "right" else "left"
        dim = "" if name == "th" else _css(column.style)
        yield element(name, *_content(cell), style=f"{CELL}{side};{dim}".rstrip(";"))


def _content(cell: object) -> Iterable[Html]:
    return _inline(cell) if isinstance(cell, str | Text) else (_html(cell),)


def _inline(text: str | Text) -> Iterable[Html]:
    """The text with its one style, line by line."""
    words, style = (text, "") if isinstance(text, str) else (text.plain, _css(text.style))
    yield element("span", *_lines(words), style=style or None)


def _lines(text: str) -> Iterable[Html]:
    for number, line in enumerate(text.split("\n")):
        yield join([*([element("br")] if number else []), line])


def _css(style: str | Style | None) -> str:
    found = Style.parse(style or "") if isinstance(style, str | None) else style
    colour = None if found.color is None else COLOURS.get(found.color.name)
    rules = {
        "color": colour,
        "font-weight": "600" if found.bold else None,
        "opacity": ".7" if found.dim else None,
    }
    return ";".join(f"{name}:{value}" for name, value in rules.items() if value is not None)
