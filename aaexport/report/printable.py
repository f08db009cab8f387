"""Any text → text that a terminal, a page and XML can stand."""

from __future__ import annotations

import re

# What neither a terminal nor XML can stand: names come from files of anybody.
_UNPRINTABLE = re.compile("[^\\x20-\\x7e\\xa0-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")


def printable(text: str) -> str:
    """One line without control characters."""
    return _UNPRINTABLE.sub("", " ".join(text.split()))
