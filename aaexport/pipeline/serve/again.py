"""Tries at a version that could not take over → when it is tried again, and what of it is worth a line."""

from __future__ import annotations

import re
import time

from aaexport.errors import AaexportError, FolderError, GraphError, ParityError, UnprovedError

FIRST, MOST = 30.0, 600.0  # seconds until the second try, and at the most: each pause is twice the one before
PLAN = f"; it is tried again in {FIRST:.0f} s, and then less often"
OF_THE_FILE = (FolderError, GraphError, ParityError, UnprovedError)  # stays so until the file changes
NUMBERS = re.compile(r"\d+")  # a line that differs in them alone, as in how much memory there is, tells nothing new


class Again:
    """The tries at one version, by what has become of them so far."""

    def __init__(self) -> None:
        self._why = ""
        self._pause, self._at = FIRST, float("inf")

    def failed(self, why: str) -> bool:
        """One was in vain → whether that is for another reason than the one before."""
        now, before = NUMBERS.sub("#", why), self._why
        self._why, self._at = now, time.monotonic() + self._pause
        self._pause = min(2 * self._pause, MOST)
        return now != before

    def is_due(self) -> bool:
        """Whether the next is to be made now."""
        return time.monotonic() >= self._at


def is_passing(error: AaexportError) -> bool:
    """Whether a new conversion may yet be right that could not be looked at to the end."""
    return not isinstance(error, OF_THE_FILE)
