"""Parts → one HTML page that needs nothing else: no script, and a policy under which a browser fetches nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

from aaexport.report.page.markup import Html, element, join

FITS = 4  # columns in a narrow card, as on a phone
GENERATOR = element("meta", name="generator", content="aaexport")  # by which a page of ours is known again
HEAD_BYTES = 4096  # of a page, within which that stands


def page(title: str, *content: Html | None, sheet: str = "") -> str:
    """The whole page, to be written in UTF-8; `sheet` is a style sheet of its own, behind that of all pages."""
    body = element("body", element("main", *content))
    return f"<!DOCTYPE html>\n{element('html', _head(title, Html(style() + sheet)), body, lang='en')}\n"


def is_page(path: Path) -> bool:
    """Whether such a page lies there; False too for what cannot be read."""
    try:
        with path.open("rb") as file:
            return GENERATOR.encode() in file.read(HEAD_BYTES)
    except OSError:
        return False


def card(title: str, *content: Html | None) -> Html:
    """A part of the page with a heading."""
    return element("section", element("h2", title), *content)


def halves(*content: Html) -> Html:
    """Beside each other where there is room."""
    return element("div", *content, class_="halves")


def figure(drawn: Html, *caption: str) -> Html:
    """A chart with words below it."""
    return element("figure", drawn, element("figcaption", *caption))


def folded(summary: str, content: Html) -> Html:
    """What a reader opens who wants it."""
    return element("details", element("summary", summary), content)


def notes(lines: Iterable[str | None]) -> Html:
    """Small print, a line each."""
    return join(element("p", line, class_="note") for line in lines if line)


def facts(rows: Mapping[str, str]) -> Html:
    """Names and values."""
    entries = (join([element("dt", name), element("dd", value)]) for name, value in rows.items())
    return element("dl", *entries, class_="facts")


def table(
    caption: str,
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    words: Sequence[str] = (),
    wrong: str | None = None,
) -> Html:
    """Figures. Where there is little room, a row of many columns becomes a block, each figure beside its heading.

    Columns in `words` hold text that may wrap; a cell that says `wrong` stands out.
    """
    kinds = ["words" if heading in words else None for heading in headings]
    head = element("tr", *(_heading(name, kind) for name, kind in zip(headings, kinds, strict=True)))
    body = []
    for first, *cells in rows:
        rest = (
            element("td", cell, class_="wrong" if cell == wrong else kind, data_heading=heading)
            for cell, kind, heading in zip(cells, kinds[1:], headings[1:], strict=True)
        )
        body.append(element("tr", element("th", first, scope="row", data_heading=headings[0]), *rest))
    parts = (element("caption", caption), element("thead", head), element("tbody", *body))
    kinds_of_table = [*(["named"] if headings[0] in words else []), *(["wide"] if len(headings) > FITS else [])]
    whole = element("table", *parts, class_=" ".join(kinds_of_table) or None)
    return element("div", whole, class_="scroll", role="region", aria_label=caption, tabindex="0")


def _heading(name: str, kind: str | None) -> Html:
    return element("th", name, scope="col", class_=kind) if name else element("td")


def _head(title: str, sheet: Html) -> Html:
    """Its policy lets a browser apply this one style, and fetch, run and send nothing."""
    digest = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    return element(
        "head",
        element("meta", charset="utf-8"),
        GENERATOR,
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("link", rel="icon", href="data:,"),  # else a browser asks its server for one
        element("title", title),
        element("style", sheet),
    )


@cache
def style() -> Html:
    """The style sheet that all pages have."""
    return Html(files("aaexport.report.page").joinpath("page.css").read_text(encoding="utf-8"))
