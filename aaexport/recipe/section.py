"""A TOML table → a frozen dataclass of the same keys; every complaint names the table, the key and the value."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

from aaexport.errors import RecipeError, broken_rule, did_you_mean

SectionT = TypeVar("SectionT", bound="Section")


@dataclass(frozen=True, kw_only=True)
class Section:
    """One table of model.toml; subclasses list its keys and check their values."""

    table: ClassVar[str]

    def _require(self, holds: bool, key: str, rule: str) -> None:
        if not holds:
            raise RecipeError(broken_rule(f"[{self.table}] {key}", rule, getattr(self, key)))

    def stated(self) -> dict[str, Any]:
        """The keys whose values are not the default: what stays the same when a later version adds a key."""
        fields = dataclasses.fields(self)
        return {f.name: getattr(self, f.name) for f in fields if getattr(self, f.name) != f.default}


class Choice:
    """Sections of one table that differ in keys, told apart by the text under `key`, such as a network's family.

    Stands in an annotation: `Annotated[A | B, Choice("family", {"a": A, "b": B})]`.
    """

    def __init__(self, key: str, sections: dict[str, type[Section]]) -> None:
        self.key, self.sections = key, sections

    def parse(self, values: Any, table: str) -> Section:
        """The section that `values` choose; RecipeError if they choose none or do not fit it."""
        if not isinstance(values, dict) or self.key not in values:
            raise RecipeError(f"[{table}] {self.key} is missing; known: {', '.join(sorted(self.sections))}")
        chosen = values[self.key]
        if not isinstance(chosen, str) or chosen not in self.sections:
            remedy = did_you_mean(str(chosen), self.sections)
            raise RecipeError(broken_rule(f"[{table}] {self.key}", f"be a known {self.key}", chosen, remedy))
        return parse(self.sections[chosen], values, table)


def parse(section: type[SectionT], values: dict[str, Any], table: str) -> SectionT:
    """`values` as `section`. RecipeError for a key that is unknown, missing, or whose value is of another type."""
    types_of = typing.get_type_hints(section, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(section)}
    for key in (key for key in values if key not in fields):
        raise RecipeError(f"{_named(table, key)} is not a key; {did_you_mean(key, fields)}")
    for name, field in fields.items():
        if name not in values and field.default is dataclasses.MISSING:
            raise RecipeError(f"{_named(table, name)} is missing")
    return section(**{key: _value(types_of[key], value, table, key) for key, value in values.items()})


def _value(wanted: Any, value: Any, table: str, key: str) -> Any:
    """`value` as the type hint `wanted` has it; RecipeError if it is of another type."""
    origin = typing.get_origin(wanted)
    if origin is typing.Annotated:
        choice: Choice = typing.get_args(wanted)[1]
        return choice.parse(value, key)
    if origin in (types.UnionType, typing.Union):
        return _one_of(typing.get_args(wanted), value, table, key)
    if origin is Literal:
        choices = typing.get_args(wanted)
        if value in choices:
            return value
        raise RecipeError(broken_rule(_named(table, key), f"be one of {', '.join(map(str, choices))}", value))
    if origin is tuple:
        item = typing.get_args(wanted)[0]
        if isinstance(value, list):
            return tuple(_value(item, entry, table, key) for entry in value)
        raise RecipeError(broken_rule(_named(table, key), "be a list", value))
    if isinstance(wanted, type) and issubclass(wanted, Section):
        if isinstance(value, dict):
            return parse(wanted, value, wanted.table)
        raise RecipeError(broken_rule(key, f"be a table [{key}]", value))
    return _scalar(wanted, value, table, key)


def _scalar(wanted: type, value: Any, table: str, key: str) -> Any:
    # bool is an int to Python and an integer is a fine float to a person; neither slip may pass for the other.
    if wanted is float and type(value) is int:
        value = float(value) if abs(value) < 2**1000 else math.inf
    if type(value) is wanted:
        if isinstance(value, float) and not math.isfinite(value):
            raise RecipeError(broken_rule(_named(table, key), "be finite", value))
        return value
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    raise RecipeError(broken_rule(_named(table, key), f"be {names[wanted]}", value))


def _one_of(choices: tuple[Any, ...], value: Any, table: str, key: str) -> Any:
    refusals = []
    choices = tuple(choice for choice in choices if choice is not type(None))
    # A list with one wrong entry is a list all the same: only the list's own complaint helps.
    of_lists = tuple(choice for choice in choices if typing.get_origin(choice) is tuple)
    for choice in of_lists if of_lists and isinstance(value, list) else choices:
        try:
            return _value(choice, value, table, key)
        except RecipeError as refusal:
            refusals.append(refusal)
    if len(refusals) == 1:
        raise refusals[0]
    rules = " or ".join(str(refusal).split(" must ")[1].split(", got ")[0] for refusal in refusals)
    raise RecipeError(broken_rule(_named(table, key), rules, value)) from refusals[0]


def _named(table: str, key: str) -> str:
    return f"[{table}] {key}" if table else key
