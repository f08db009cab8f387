"""What went wrong with a query → whose fault it is, and what its client is told; inside Triton's Python backend too.

A client's own mistake is told as it is, but for paths; it is the protocol's 400, and asking again does not help. What
is the server's is told in a sentence, its cause is in the server's log alone, and clients may ask again (500, 503).
It imports nothing of aaexport.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

# A path in quotes ends with them, whatever is in it. One without ends with its clause's last folder, whose names may
# have blanks, and the word behind it: rather a word too many than a folder's name.
_BEGINS = r"(?:[A-Za-z]:[\\/]|\\\\|~?/)"
QUOTED = re.compile("|".join(rf"{quote}{_BEGINS}[^{quote}\n]*{quote}" for quote in "'\"`"))
_WORD = r"[^\s:;,'\"`()<>]*"
OPEN = re.compile(rf"(?<![\w.\\/~]){_BEGINS}[\\/]*(?=[^\s\\/])(?:[^:;'\"`<>|\n]*[\\/]{_WORD}|{_WORD}\.\w+)")
# What a lack of memory calls itself, in Python, onnxruntime, CUDA and Triton's own shared memory.
SCARCE = (
    "bad_alloc",
    "bad allocation",
    "allocate",
    "out of memory",
    "ALLOC_FAILED",
    "shared memory",
    "No space left",
)
NO_MEMORY = "there is too little memory for this query at present"
BROKEN = "the model could not be run; the server's log tells why"


# What onnxruntime calls a query that the file does not take, and what it calls a node that does not take a size.
NOT_TAKEN, NOT_RUN = ("InvalidArgument",), ("RuntimeException", "Fail")
OF_A_GPU = ("CUDA", "CUDNN", "CUBLAS", "TensorRT")


class RefusedError(Exception):
    """A query that breaks a rule of ours."""


def places_of(folder: Path) -> tuple[str, ...]:
    """A folder, what is in it, and where its links lead: what a client need not know, the longest first."""
    inside = [folder, *folder.rglob("*")]
    found = {
        str(place) for path in inside for place in (path, path.absolute(), path.resolve(), path.resolve().parent)
    }
    return tuple(sorted((place for place in found if len(Path(place).parts) > 1), key=len, reverse=True))


def masked(text: str, places: Sequence[str] = ()) -> str:
    """The same without paths: those of `places`, and what looks like one."""
    for place in places:
        if Path(place).is_absolute():
            text = text.replace(place, "/…/…")  # which is masked with what stands behind it
    return OPEN.sub("…", QUOTED.sub("…", text))


def told_of_run(error: Exception, *, has_open_sizes: bool, places: Sequence[str] = ()) -> tuple[str, str]:
    """As `told`, of what onnxruntime raised for a query whose sizes are right wherever the file fixes them."""
    kind = type(error).__name__
    at_fault = isinstance(error, RefusedError) or kind in NOT_TAKEN
    by_size = has_open_sizes and kind in NOT_RUN and not any(word in str(error) for word in OF_A_GPU)
    return told(error, is_clients=at_fault or by_size, places=places)


def cause_of(error: BaseException) -> str:
    """Its first line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def told(error: BaseException, *, is_clients: bool, places: Sequence[str] = ()) -> tuple[str, str]:
    """The name of Triton's code, and the text; `is_clients` unless memory was lacking.

    `places` are paths that are known, whatever is in their names.
    """
    if isinstance(error, MemoryError) or any(word in str(error) for word in SCARCE):
        code, text = "UNAVAILABLE", NO_MEMORY
    elif is_clients:
        return "INVALID_ARG", masked(cause_of(error), places)
    else:
        code, text = "INTERNAL", BROKEN
    print(f"{code}: {type(error).__name__}: {cause_of(error)}", file=sys.stderr, flush=True)  # noqa: T201  its log
    return code, text
