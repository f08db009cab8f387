"""A view → HTML for a cell of a notebook: the words that a terminal shows, in tables, on the notebook's ground."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Group
from rich.style import Style
from rich.text import Text

from aaexport.report.layout import Cell, Either, Facts, Table, Words
from aaexport.report.page.markup import Html, element, join

# Legible on white and on black alike: notebooks are either, and a cell is not told which.
COLOURS = {"red": "#d1383d", "green": "#2a9150", "yellow": "#b07a00"}
TABLE = "border-collapse:collapse;margin:.4em 0;font-variant-numeric:tabular-nums"
CELL = "padding:.15em .8em .15em 0;vertical-align:top;white-space:pre-line;text-align:"
HEAD = "border-bottom:1px solid rgba(128,128,128,.5)"
LINE = "margin:.3em 0;white-space:pre-line"
FRAME = "width:100%;height:42rem;border:1px solid rgba(128,128,128,.4);border-radius:.4rem"
PICTURES = {".png": "image/png", ".svg": "image/svg+xml"}


def fragment(view: object) -> Html:
    """Tables as tables, lines as lines, a text that is laid out already as it is."""
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
    if isinstance(view, Either):
        return _html(view.wide)
    if isinstance(view, Table):
        kinds = ["left" if column in view.texts else "right" for column in range(len(view.headers))]
        return _table(kinds, [(HEAD, view.headers), *(("", row) for row in view.rows)])
    if isinstance(view, Facts):
        rows = [("", (Text(name, "dim"), _styled(value))) for name, value in view.rows.items()]
        return _table(("left;white-space:nowrap", "left"), rows)
    if isinstance(view, Words):
        return element("div", _inline(view.text), style=LINE) if view.text else Html("")
    if isinstance(view, str):
        return element("pre", *_lines(view))
    raise TypeError(f"a notebook cannot show a {type(view).__name__}")


def _styled(cell: Cell) -> Text:
    """A cell as what it is drawn as."""
    return Text(cell) if isinstance(cell, str) else cell


def _table(sides: Sequence[str], rows: Iterable[tuple[str, Sequence[Text]]]) -> Html:
    """Each row has its own style, each column its side."""
    drawn = []
    for style, row in rows:
        cells = zip(sides, row, strict=True)
        drawn.append(
            element(
                "tr",
                *(element("td", _inline(cell), style=f"{CELL}{side}") for side, cell in cells),
                style=style or None,
            )
        )
    return element("table", element("tbody", *drawn), style=TABLE)


def _inline(text: Text) -> Html:
    """The text in its one style, line by line."""
    return element("span", *_lines(text.plain), style=_css(text.style) or None)


def _lines(text: str) -> Iterable[Html]:
    for number, line in enumerate(text.split("\n")):
        yield join([*([element("br")] if number else []), line])


def _css(style: str | Style) -> str:
    found = Style.parse(style) if isinstance(style, str) else style
    rules = {
        "color": None if found.color is None else COLOURS.get(found.color.name),
        "font-weight": "600" if found.bold else None,
        "opacity": ".7" if found.dim else None,
    }
    return ";".join(f"{name}:{value}" for name, value in rules.items() if value is not None)
