"""A view → text without colours, as a command prints it into a pipe."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType

WIDTH = 110  # wide enough for every table


def plain(view: RenderableType) -> str:
    """Lines without blanks at their ends, and without a line break after the last."""
    console = Console(
        file=io.StringIO(),
        width=WIDTH,
        color_system=None,
        force_terminal=False,
        force_jupyter=False,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=True,
    )
    with console.capture() as capture:
        console.print(view)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()).rstrip("\n")
