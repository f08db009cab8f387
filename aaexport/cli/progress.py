"""A bar on stderr for what takes minutes, or one line where there is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aaexport.cli.console import console, say, settings


@contextmanager
def progress(otherwise: str) -> Iterator[Callable[[str, float], None]]:
    """Gives the function to be told each step, and the share that is done; `otherwise` is the one line."""
    if not sys.stderr.isatty() or settings.quiet:
        say(otherwise)
        yield lambda step, share: None
        return
    from rich.progress import Progress

    with Progress(console=console(sys.stderr), transient=True) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda step, share: bar.update(task, description=step, completed=share)
