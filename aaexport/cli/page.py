"""`--page FILE.html` and its kin: refused before any work where a page cannot be written, and written last."""

from __future__ import annotations

from pathlib import Path

import click

from aaexport.cli.types import PathTo
from aaexport.errors import ArgumentError, broken_rule
from aaexport.writing import check_writable, exists, is_stream, write_text

SUFFIX = ".html"
page = click.option(
    "--page",
    type=PathTo("FILE.html", dir_okay=False),
    help="Write one self-contained HTML page: layers as boxes, and what the graph rules did.",
)


def check_page(page: Path | None, *others: Path, option: str = "--page") -> None:
    """Whether a page may come to lie there.

    Raises:
        UsageError: it would take the place of one of the `others`, or its name does not end as a page's.
        ArgumentError: it would take the place of what is no page of ours.
        FolderError: it cannot be written.
    """
    if page is None:
        return
    for other in others:
        if page.resolve() == other.resolve() or (exists(page) and exists(other) and page.samefile(other)):
            raise click.UsageError(broken_rule(option, f"be another file than {other}", str(page)))
    if page.suffix.lower() != SUFFIX and not is_stream(page):
        raise click.UsageError(broken_rule(option, f"name a {SUFFIX} file", str(page)))
    check_writable(page)
    _require_ours(page, option)


def write_page(path: Path, page: str, option: str = "--page") -> None:
    """Whole or not at all. FolderError if it cannot be written, ArgumentError if it would replace no page of ours."""
    _require_ours(path, option)
    write_text(path, page)


def _require_ours(path: Path, option: str) -> None:
    """A page is replaced by a newer one, and nothing else that somebody has is."""
    from aaexport.report.page.page import is_page

    if exists(path) and path.is_file() and path.stat().st_size and not is_page(path):
        rule = "name a new file or a page of aaexport to replace"
        remedy = "it holds something else: choose another name"
        raise ArgumentError(broken_rule(option, rule, str(path), remedy))
