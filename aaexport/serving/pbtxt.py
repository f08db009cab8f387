"""Values → the text form of a protocol-buffer message, as a Triton server's config.pbtxt has it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

INDENT = "  "
ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
LAST_CONTROL, DELETE = 0x20, 0x7F


class Word(str):
    """A value of an enumeration, which stands without quotes."""

    __slots__ = ()


Scalar: TypeAlias = Word | str | bool | int | float
Value: TypeAlias = "Scalar | Message | Sequence[Scalar] | Sequence[Message]"
Message: TypeAlias = Mapping[str, "Value"]


def entries(values: Mapping[str, Scalar | Message]) -> list[Message]:
    """A map's field: messages of key and value."""
    return [{"key": key, "value": value} for key, value in values.items()]


def text_of(message: Message) -> str:
    """The message, one field a line; a sequence is a field that repeats, and an empty one is left out."""
    return "".join(f"{line}\n" for line in _lines(message))


def _lines(message: Message) -> Iterator[str]:
    for name, value in message.items():
        for one in value if isinstance(value, Sequence) and not isinstance(value, str) else (value,):
            if isinstance(one, Mapping):
                yield f"{name} {{"
                yield from (INDENT + line for line in _lines(one))
                yield "}"
            else:
                yield f"{name}: {_scalar(one)}"


def _scalar(value: Scalar) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and not isinstance(value, Word):
        return f'"{"".join(map(_escaped, value))}"'
    return str(value)


def _escaped(sign: str) -> str:
    if sign in ESCAPES:
        return ESCAPES[sign]
    number = ord(sign)
    return f"\\{number:03o}" if number < LAST_CONTROL or number == DELETE else sign
