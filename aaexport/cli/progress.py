"""What a command does at the moment, on stderr: live on a terminal, as plain lines where there is none."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from aaexport.cli.console import console, say, settings

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

Say = Callable[[str], None]
REFRESHES = 8  # a second
DUMB_TERMINALS = ("dumb", "unknown")  # as rich has them


@contextmanager
def progress(otherwise: str) -> Iterator[Callable[[str, float], None]]:
    """Gives the function to be told each step, and the share that is done; `otherwise` is the one line."""
    if not is_live():
        say(otherwise)
        yield lambda step, share: None
        return
    from rich.progress import Progress

    with Progress(console=console(sys.stderr), transient=True) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda step, share: bar.update(task, description=step, completed=share)


@contextmanager
def steps(first: str) -> Iterator[Say]:
    """Gives the `say` of a verb that tells each step as it begins, and its parts as lines that begin with a blank.

    On a terminal the step stands in a live line with its part and the seconds it has been running, and stays with
    the seconds it took. `first` is what that line says until the verb is there: loading PyTorch takes seconds.
    """
    if not is_live():
        say(f" {first}")
        yield say
        return
    from rich.live import Live

    log = _Log(console(sys.stderr))
    log.begin(first)
    # The words of somebody's module go above the line; results are no business of it.
    with Live(console=log.console, get_renderable=log.line, auto_refresh=False, transient=True,
              redirect_stdout=False) as live:  # fmt: skip
        live.refresh()  # now, before whatever comes next keeps Python busy
        with _again_and_again(live.refresh):
            try:
                yield log.begin
            except BaseException:
                log.break_off()
                raise
            log.end()


@contextmanager
def _again_and_again(refresh: Callable[[], None]) -> Iterator[None]:
    """Calls it from a thread, which is at its end with the block: rich's own may live a little longer."""
    done = threading.Event()

    def run() -> None:
        while not done.wait(1 / REFRESHES):
            refresh()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def is_live() -> bool:
    """Whether lines may change once they are written: on a terminal, unless `--quiet`."""
    return sys.stderr.isatty() and os.environ.get("TERM") not in DUMB_TERMINALS and not settings.quiet


class _Log:
    """The steps that are done as lines that stay, and the one that is not as a line that changes."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.console, self._clock = console, clock
        self._step, self._part, self._began = "", "", clock()

    def begin(self, line: str) -> None:
        """The next step, or the next part of this one if the line begins with a blank."""
        if line.startswith(" "):
            self._part = line.strip()
            return
        self.end()
        self._step, self._began = line, self._clock()

    def end(self) -> None:
        """The step is done."""
        if self._step:
            self.console.print(f"{self._step}  {self._clock() - self._began:.1f} s")
        self._step = self._part = ""

    def break_off(self) -> None:
        """The step is the one that failed: it stays, but not as one that is done."""
        if self._step:
            self.console.print(self._step)
        self._step = self._part = ""

    def line(self) -> Text:
        """What is being done, on one line however narrow the terminal is."""
        from rich.cells import cell_len, set_cell_size
        from rich.text import Text

        doing = f"{self._step}: {self._part}" if self._part else self._step
        seconds = f"  {self._clock() - self._began:.0f} s"
        room = max(self.console.width - len(seconds) - 1, 1)
        shown = doing if cell_len(doing) <= room else f"{set_cell_size(doing, room - 1)}…"
        return Text(shown + seconds if doing else "", no_wrap=True)
