"""Where words go: results to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

import click

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


@dataclass
class Settings:
    """What `-v` and `-q` said; set once, before any command runs."""

    verbose: bool = False
    quiet: bool = False


settings = Settings()


def say(line: str) -> None:
    """One line of progress on stderr, unless `--quiet`; a part of a step begins with a blank, and needs `-v`."""
    if not settings.quiet and (settings.verbose or not line.startswith(" ")):
        click.echo(line, file=sys.stderr)


def say_error(line: str) -> None:
    """The one line that every failure ends with; where nobody reads it the exit code tells all the same."""
    with suppress(OSError):
        click.echo(f"Error: {' '.join(line.split())}", file=sys.stderr)


def show(view: RenderableType) -> None:
    """A result for people, on stdout; what is longer than a line is not cut there."""
    console(sys.stdout).print(view, crop=False)


def show_json(value: dict[str, Any]) -> None:
    """A result for machines, on stdout."""
    show_text(json.dumps(value, indent=2, allow_nan=False))


def show_text(text: str) -> None:
    """A result as it stands, on stdout."""
    # The stream by name: click would write UTF-8 by itself to one that is ASCII.
    click.echo(text, file=sys.stdout)


def console(file: TextIO) -> Console:
    """A rich console; wide enough for every table where there is no terminal to ask."""
    from rich.console import Console

    from aaexport.report.layout import WIDTH

    plain = not file.isatty()
    # No markup: a folder or a file's metadata may well hold [brackets].
    width = WIDTH if plain else None
    return Console(file=file, width=width, highlight=False, markup=False, emoji=False, soft_wrap=plain)
