"""Tries at a version that could not take over → when it is tried again, and what of it is worth a line."""

from __future__ import annotations

import re
import time

from aaexport.errors import AaexportError, FolderError, GraphError, ParityError, UnprovedError

FIRST, MOST = 30.0, 600.0  # seconds until the second try, and at the most: each pause is twice the one before
OF_THE_FILE = (FolderError, GraphError, ParityError, UnprovedError)  # stays so until the file changes
NUMBERS = re.compile(r"\d+")  # a line that differs in them alone, as in how much memory there is, tells nothing new


class Again:
    """The tries at one version, by what has become of them so far."""

    def __init__(self) -> None:
        self._why = ""
        self._pause, self._wait, self._at = FIRST, FIRST, float("inf")

    def failed(self, why: str) -> bool:
        """One was in vain → whether that is for another reason than the one before."""
        now, before = NUMBERS.sub("#", why), self._why
        self._why, self._wait, self._at = now, self._pause, time.monotonic() + self._pause
        self._pause = min(2 * self._pause, MOST)
        return now != before

    @property
    def plan(self) -> str:
        """When the next is made that was decided last, for a line."""
        return f"; it is tried again in {self._wait:.0f} s, and then less often"

    def is_due(self) -> bool:
        """Whether the next is to be made now."""
        return time.monotonic() >= self._at


def is_passing(error: AaexportError) -> bool:
    """Whether a new conversion may yet be right that could not be looked at to the end."""
    return not isinstance(error, OF_THE_FILE)
