"""Any text → text that a terminal, a page and XML can stand, in the characters that an output has."""

from __future__ import annotations

import codecs
import re

# What neither a terminal nor XML can stand: names come from files of anybody.
_UNPRINTABLE = re.compile("[^\\x20-\\x7e\\xa0-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")
# The signs that our own texts are written with, for outputs that lack them.
_SIGNS = {
    "×": "x", "÷": "/", "·": "*", "−": "-", "–": "-", "—": "-", "─": "-", "━": "-", "│": "|", "…": "...", "→": "->",
    "↔": "<->", "≥": ">=", "≤": "<=", "±": "+/-", "√": "sqrt", "°": " deg ", "²": "^2", "³": "^3", "½": "1/2",
    "ᵀ": "^T", "µ": "u", "μ": "u", "κ": "kappa", "υ": "upsilon", "σ": "sigma", "ε": "epsilon", "Σ": "sum", "█": "#",
}  # fmt: skip
BY_SIGNS = "aaexport.signs"  # this way to handle errors, as codecs and streams know it


def printable(text: str) -> str:
    """One line without control characters."""
    return _UNPRINTABLE.sub("", " ".join(text.split()))


def encodable(text: str, encoding: str) -> str:
    """The same in the characters of an encoding: our signs as ASCII where it lacks them, anything else escaped."""
    return text.encode(encoding, BY_SIGNS).decode(encoding)


def _by_signs(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(
        _SIGNS.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in lacking
    ), error.end


codecs.register_error(BY_SIGNS, _by_signs)
