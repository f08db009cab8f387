"""`--page FILE.html`: refused before any work where it cannot be written, and written last."""

from __future__ import annotations

from pathlib import Path

import click

from aaexport.cli.types import PathTo
from aaexport.errors import broken_rule
from aaexport.writing import atomic_path, check_writable, exists

page = click.option(
    "--page",
    type=PathTo("FILE.html", dir_okay=False),
    help="Write one self-contained HTML page: layers as boxes, and what the graph rules did.",
)


def check_page(page: Path | None, *others: Path) -> None:
    """UsageError for a page in the place of one of the `others`, FolderError where it cannot be written."""
    if page is None:
        return
    for other in others:
        if page.resolve() == other.resolve() or (exists(page) and exists(other) and page.samefile(other)):
            raise click.UsageError(broken_rule("--page", f"be another file than {other}", str(page)))
    check_writable(page)


def write_page(path: Path, page: str) -> None:
    """Whole or not at all. FolderError if it cannot be written."""
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
