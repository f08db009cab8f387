"""What every verb's result is beside its own figures: of which call and when, and shown as the commands show it.

A result knows its own one line. What it looks like is the report room's business, which stands below the rooms that
define results; so the package's front door, where all rooms meet, says who shows them (`shown_by`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import wraps
from typing import Any, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Call:
    """A verb at work: the command line as it was typed, or `aaexport.NAME`, and when it began."""

    command: str
    date: str


_CALL: ContextVar[Call | None] = ContextVar("call", default=None)


@contextmanager
def called(command: str) -> Iterator[None]:
    """Every result that comes about inside says that it is of this call, unless an outer one says so already."""
    if _CALL.get() is not None:
        yield
        return
    token = _CALL.set(Call(command, _now()))
    try:
        yield
    finally:
        _CALL.reset(token)


def verb(function: Callable[P, R]) -> Callable[P, R]:
    """The function, whose results say that they are of `aaexport.NAME`."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with called(f"aaexport.{function.__name__}"):
            return function(*args, **kwargs)

    return call


class Presenter(Protocol):
    """Who shows results. Each raises TypeError for a result that its format is not made for."""

    def text(self, result: Outcome) -> str:
        """As the command prints it into a pipe."""

    def values(self, result: Outcome) -> dict[str, Any]:
        """As the command's --json has it."""

    def raw_values(self, result: Outcome) -> dict[str, Any]:
        """The same with the times of every query."""

    def markdown(self, result: Outcome) -> str:
        """As the command's --markdown or --compare prints it."""

    def junit(self, result: Outcome) -> str:
        """As the command's --junit writes it."""

    def page(self, result: Outcome) -> str:
        """As the command's --report writes it, or `train` its train.html."""

    def fragment(self, result: Outcome) -> str:
        """For a cell of a notebook."""


_FINDERS: list[Callable[[], Presenter]] = []


def shown_by(find: Callable[[], Presenter]) -> None:
    """Says who shows results from now on; `find` is called when the first one is to be shown."""
    _FINDERS[:] = [find]


def presenter() -> Presenter:
    """Who shows results."""
    return _FINDERS[0]()


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _date() -> str:
    call = _CALL.get()
    return _now() if call is None else call.date


def _command() -> str | None:
    call = _CALL.get()
    return None if call is None else call.command


@dataclass(frozen=True, repr=False, eq=False, kw_only=True)
class Outcome:
    """What the results of all verbs have in common.

    `repr` is one line, `str` what the command prints (plain text), and a notebook shows a table.

    Attributes:
        date: when the call began that it is of, in ISO 8601 and UTC: `2026-01-31T09:30:00Z`.
        command: that call: the command line as it was typed, without the values of --kwargs, or the name of the
            Python function, `aaexport.verify`; None if it was made by hand.
    """

    date: str = field(default_factory=_date, compare=False)
    command: str | None = field(default_factory=_command, compare=False)

    @property
    def headline(self) -> str:
        """The result in a few words, for `repr`."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {' '.join(self.headline.split())}>"

    def __str__(self) -> str:
        return presenter().text(self)

    def to_dict(self) -> dict[str, Any]:
        """What the command prints with --json: values that JSON has, the schema's name first."""
        return presenter().values(self)

    def _repr_html_(self) -> str:
        """For a notebook."""
        return presenter().fragment(self)
