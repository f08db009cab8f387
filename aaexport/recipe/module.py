"""The model.toml of a module that was brought along: where it came from, instead of a network of ours.

    schema = 1
    description = "…"

    [module]
    source = "mynets.py:Wide_ResNet"
    kwargs = ["depth=28", "widen_factor=10"]
    input_shape = [3, 32, 32]
    outputs = ["output"]

It is written by `aaexport convert`. Nothing imports the source but a command that is told it (`--module`).
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from aaexport.errors import ArgumentError, RecipeError, broken_rule
from aaexport.recipe.model import SCHEMA, read_toml
from aaexport.recipe.section import Section, parse


@dataclass(frozen=True, kw_only=True)
class Module(Section):
    """What was converted: `FILE.py:NAME`, `package.module:NAME` or `FILE.pt2`, and what it was called with.

    `kwargs` are as `--kwargs` takes them, `input_shape` is (C, H, W) of one image.
    """

    table: ClassVar[str] = "module"
    source: str
    input_shape: tuple[int, ...]
    outputs: tuple[str, ...]
    kwargs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._require(bool(self.source), "source", "name a module")
        is_image = len(self.input_shape) == 3 and min(self.input_shape) >= 1
        self._require(is_image, "input_shape", "be (C, H, W), each at least 1")
        self._require(bool(self.outputs), "outputs", "name at least one")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.input_shape
        return channels, height, width


@dataclass(frozen=True, kw_only=True)
class ModuleRecipe(Section):
    """A whole model.toml of that kind."""

    table: ClassVar[str] = ""
    schema: int
    description: str
    module: Module

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise RecipeError(broken_rule("schema", f"be {SCHEMA}", self.schema, "update aaexport"))


def read_module_recipe(path: Path) -> ModuleRecipe | None:
    """The recipe at `path` if it is of a module that was brought along, else None. RecipeError as `read_recipe`."""
    values = read_toml(path)
    if "module" not in values:
        return None
    try:
        return parse(ModuleRecipe, values, "")
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error


def module_toml(recipe: ModuleRecipe) -> str:
    """The text of its model.toml."""
    module = recipe.module
    values: dict[str, str | tuple[str, ...] | tuple[int, ...]] = {
        "source": module.source,
        "kwargs": module.kwargs,
        "input_shape": module.input_shape,
        "outputs": module.outputs,
    }
    head = f"schema = {recipe.schema}\ndescription = {_text(recipe.description)}\n"
    return head + "\n[module]\n" + "".join(f"{key} = {_value(value)}\n" for key, value in values.items())


def parse_kwargs(assignments: tuple[str, ...]) -> dict[str, Any]:
    """`("depth=28", 'act="relu"')` → the arguments; each value is TOML.

    Raises:
        ArgumentError: one is no `NAME=VALUE`, or given twice.
    """
    found: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        name = name.strip()
        if not equals or not name.isidentifier():
            raise ArgumentError(broken_rule("kwargs", "be NAME=VALUE", assignment))
        if name in found:
            raise ArgumentError(broken_rule("kwargs", "give every argument once", assignment))
        found[name] = _parsed(text.strip(), assignment)
    return found


def _parsed(text: str, assignment: str) -> Any:
    try:
        values: Mapping[str, Any] = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        values = {}
    if list(values) != ["value"]:
        name = assignment.partition("=")[0].strip()
        remedy = f"write a text as {name}={_text(text)}, in the shell '{name}={_text(text)}'"
        rule = 'have a TOML value (28, 0.3, true, "text", [1, 2])'
        raise ArgumentError(broken_rule("kwargs", rule, assignment, remedy))
    return values["value"]


def _value(value: str | tuple[str, ...] | tuple[int, ...]) -> str:
    if isinstance(value, str):
        return _text(value)
    return "[" + ", ".join(_text(one) if isinstance(one, str) else str(one) for one in value) + "]"


def _text(text: str) -> str:
    """A basic string of TOML, which has JSON's escapes; DEL is the one character that only JSON takes as it is."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
