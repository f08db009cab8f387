"""What a model takes → how many bytes a query of it may have; and a body that is read no further than that."""

from __future__ import annotations

import math
from collections.abc import AsyncIterable, Iterable, Sequence

from aaexport.errors import ProtocolError, broken_rule

HEAD = 2**16  # bytes of a query beside its tensors
IN_JSON = 32  # bytes of a number, a comma and a blank, at the most
OPEN = 2**28  # bytes of a query whose images may have any size
DIGITS = 18  # of a number of bytes, at the most: no body has more, and Python reads no number of thousands
SHOWN = 40  # characters of a header that are passed on


class TooLargeError(ProtocolError):
    """A query with more bytes than any of the model's has."""


def largest_query(shapes: Iterable[Sequence[int]], batch: int) -> int:
    """Bytes of the largest query, in JSON, of tensors of these shapes; a first dimension of -1 is the batch."""
    numbers = 0
    for shape in shapes:
        first, rest = (shape[0], shape[1:]) if shape else (1, ())
        if any(size < 0 for size in rest):
            return OPEN
        numbers += (batch if first < 0 else first) * math.prod(rest)
    return HEAD + IN_JSON * numbers


def byte_count(header: str, said: str, where: str = "") -> int:
    """The number of bytes that a header says, with `where` it came from. ProtocolError if that is none."""
    if len(said) > DIGITS or not (said.isascii() and said.isdecimal()):
        shown = said if len(said) <= SHOWN else f"{said[:SHOWN]}…"
        raise ProtocolError(broken_rule(header, "be a number of bytes", shown) + where)
    return int(said)


async def read_bounded(parts: AsyncIterable[bytes], length: str | None, most: int) -> bytes:
    """A body of at most so many bytes, of which `length` tells how many it says it has.

    Raises:
        TooLargeError: it says that it has more, or has more.
        ProtocolError: it says what is no number.
    """
    if length is not None and byte_count("Content-Length", length) > most:
        raise TooLargeError(broken_rule("the query", f"have at most {most} bytes", length))
    held = bytearray()
    async for part in parts:
        held += part
        if len(held) > most:
            raise TooLargeError(broken_rule("the query", f"have at most {most} bytes", "more"))
    return bytes(held)
