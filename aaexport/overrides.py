"""(options, keywords) → the options with these changes: the one way in which verbs take what is asked of them.

A verb's options are a frozen dataclass; its keywords are a TypedDict of the same names and types, so that an editor
completes them and a type checker finds a misspelt one. A test holds that both agree.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import Field, fields, replace
from typing import Any, ClassVar, Protocol, TypeVar

from aaexport.errors import ArgumentError, broken_rule, did_you_mean


class Dataclass(Protocol):
    """Whatever `@dataclass` made."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


Options = TypeVar("Options", bound=Dataclass)


def overridden(options: Options, overrides: Mapping[str, Any], verb: Callable[..., object]) -> Options:
    """`options` with the fields that `overrides` names changed.

    Raises:
        ArgumentError: a keyword that `verb` does not have, with the nearest one that it has; or a value that the
            options themselves refuse.
    """
    of_options = {field.name for field in fields(options)}
    for name in overrides:
        if name not in of_options:
            known = of_options | _keywords(verb)
            raise ArgumentError(
                broken_rule(f"an argument of {verb.__name__}", "be one that it has", name, did_you_mean(name, known))
            )
    return replace(options, **overrides)


def _keywords(verb: Callable[..., object]) -> set[str]:
    """Of the verb itself."""
    parameters = inspect.signature(verb).parameters.values()
    return {each.name for each in parameters if each.kind is not inspect.Parameter.VAR_KEYWORD}
