"""Text → HTML and SVG in which nothing that is not markup can pass for it."""

from __future__ import annotations

import html
from collections.abc import Iterable

from aaexport.report.printable import printable

EMPTY = frozenset({"br", "img", "link", "meta"})


class Html(str):
    """Text that is markup already; any other text is escaped when it meets an element."""

    __slots__ = ()


def element(name: str, /, *content: str | None, **attributes: str | float | None) -> Html:
    """`<name attributes>content</name>`.

    What is None is left out; `stroke_width` stands for `stroke-width`, and `class_` for `class`, which Python keeps.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_attribute(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in EMPTY:
        return Html(f"<{name}{written}/>")
    return Html(f"<{name}{written}>{join(content)}</{name}>")


def join(parts: Iterable[str | None]) -> Html:
    """One after the other, escaped where they are not markup."""
    return Html("".join(part if isinstance(part, Html) else escape(part) for part in parts if part is not None))


def escape(text: str) -> Html:
    """Text of anybody as text of a page, without control characters."""
    return Html(html.escape(printable(text)))


def _attribute(value: str | float) -> str:
    return escape(value) if isinstance(value, str) else f"{value:g}"
