"""Code → every message that a command can end with, read off the places where they are raised.

A message is written as `broken_rule(name, rule, got, remedy)` or as an f-string. What is only known when it happens
stands as the name of the variable in ‹›.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tables import PACKAGE, table

from aaexport import errors
from aaexport.cli.command import options_by_name
from aaexport.cli.main import COMMANDS

CLASSES = {
    name: one.exit_code
    for name, one in inspect.getmembers(errors, inspect.isclass)
    if issubclass(one, errors.AaexportError)
} | {"UsageError": 2}
GOT = 2  # where broken_rule is told what was given


@dataclass(frozen=True, order=True)
class Message:
    """One message, the error that carries it, and the file that raises it."""

    marked: str  # parameters within it are marked, as in `aaexport.errors`
    error: str
    path: Path

    @property
    def text(self) -> str:
        """As Python has it, with the names of parameters."""
        return str(errors.AaexportError(self.marked))

    @property
    def typed(self) -> str:
        """As the command line says it, with options."""
        return errors.AaexportError(self.marked).worded(_options())

    @property
    def code(self) -> int:
        """The exit code that it ends a command with."""
        return CLASSES[self.error]


def messages() -> list[Message]:
    """All of them, in the order of exit codes, then of files."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE.parent)
        for error, text in _in_file(ast.parse(path.read_text(encoding="utf-8"))):
            found[text] = Message(text, error, relative)
    return sorted(found.values(), key=lambda one: (one.code, str(one.path), one.typed))


@cache
def _options() -> dict[str, str]:
    """What a user types, by the parameter's name, of all commands."""
    named: dict[str, str] = {}
    for module, _ in COMMANDS.values():
        named |= options_by_name(importlib.import_module(module).command)
    return named


def as_markdown() -> str:
    """A table for each file that raises any."""
    text = []
    by_file: dict[Path, list[Message]] = {}
    for one in messages():
        by_file.setdefault(one.path, []).append(one)
    for path in sorted(by_file):
        text.append(f"## `{path}`\n")
        text.append(table(("message", "exit code"), ((_code(one.typed), one.code) for one in by_file[path])))
    return "\n".join(text)


def _code(text: str) -> str:
    fence = "``" if "`" in text else "`"
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _in_file(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        known = _strings(function)
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and (error := _name(node.func)) in CLASSES and node.args:
                text = _text(node.args[0], known)
                if len(re.sub("‹[^›]*›", "", text).strip(" :;,")) > 12:
                    yield error, text
            elif isinstance(node, ast.Call) and _name(node.func) == "_require" and len(node.args) >= 3:
                yield _of_require(node, known)
            elif isinstance(node, ast.Yield) and isinstance(node.value, ast.Tuple) and len(node.value.elts) == 4:
                yield _of_rule(node.value.elts, known)


def _of_require(node: ast.Call, known: dict[str, ast.expr]) -> tuple[str, str]:
    """`_require(holds, name, rule, …)` of recipes and of the layer."""
    name, rule = (_text(one, known) for one in node.args[1:3])
    in_recipe = isinstance(node.func, ast.Attribute)
    return (
        "RecipeError" if in_recipe else "ArgumentError"
    ), f"{'[‹table›] ' * in_recipe}{name} must {rule}, got ‹value›"


def _of_rule(rule: list[ast.expr], known: dict[str, ast.expr]) -> tuple[str, str]:
    """`yield holds, name, rule, got`, one of many rules of an option."""
    name, text = (_text(one, known) for one in rule[1:3])
    return "ArgumentError", f"{name} must {text}, got {_given(rule[3])}"


def _strings(function: ast.FunctionDef) -> dict[str, ast.expr]:
    """The variables of the function that are given a text once, so that it can be told."""
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            found.setdefault(node.targets[0].id, []).append(node.value)
    return {name: values[0] for name, values in found.items() if len(values) == 1 and _is_text(values[0])}


def _is_text(node: ast.expr) -> bool:
    if isinstance(node, ast.IfExp):
        return _is_text(node.body) or _is_text(node.orelse)
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _text(node: ast.expr, known: dict[str, ast.expr]) -> str:
    """What an expression of text says, with ‹variable› for what is not known before it happens."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(one, known) for one in node.values)
    if isinstance(node, ast.FormattedValue):
        return _text(node.value, known)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left, known) + _text(node.right, known)
    if isinstance(node, ast.IfExp):
        return _text(node.body if _is_text(node.body) else node.orelse, known)
    if isinstance(node, ast.Call) and _name(node.func) == "broken_rule":
        return _of_broken_rule(node, known)
    if isinstance(node, ast.Call) and _name(node.func) == "parameter":
        return errors.parameter(_text(node.args[0], known))
    if isinstance(node, ast.Name) and node.id in known:
        return _text(known[node.id], {name: value for name, value in known.items() if name != node.id})
    return f"‹{_word(node)}›"


def _of_broken_rule(node: ast.Call, known: dict[str, ast.expr]) -> str:
    name, rule, *rest = (_text(one, known) for one in node.args)
    got = node.args[GOT] if len(node.args) > GOT else None
    given = "‹value›" if got is None else _given(got)
    remedy = f"; {rest[1]}" if len(rest) > 1 else ""
    return f"{name} must {rule}, got {given}{remedy}"


def _given(node: ast.expr) -> str:
    return repr(node.value) if isinstance(node, ast.Constant) else "‹value›"


def _word(node: ast.expr) -> str:
    """The last name in an expression, which says best what it is."""
    names = [_name(one) for one in ast.walk(node) if isinstance(one, ast.Name | ast.Attribute)]
    plain = [name for name in names if name not in ("str", "repr", "join", "len", "self", "error", "type")]
    word = plain[0] if plain else "cause" if names else "value"
    return {"first_line": "cause", "root_cause": "cause", "strerror": "cause", "did_you_mean": "did you mean …"}.get(
        word, word
    ).replace("_", " ")
