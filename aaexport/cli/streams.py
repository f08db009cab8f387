"""The streams a process is given → streams that take whatever is written to them."""

from __future__ import annotations

import io
import os
import sys

from aaexport.report.printable import BY_SIGNS


def prepare_streams() -> None:
    """From here on a closed stream takes what is written and forgets it, and one of few characters gets others.

    Without it a file that is opened later would get the number of a closed stream, and with it what a library prints.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the smallest free number, which is this one
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=BY_SIGNS)
