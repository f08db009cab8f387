"""`FILE.py:NAME`, `package.module:NAME` or `FILE.pt2` → what the user named; nothing of it is imported here."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

from aaexport.errors import ModuleError, broken_rule, first_few

NAMED = 8


@dataclass(frozen=True)
class Source:
    """What the user named: where Python or a program is, and what in it; `name` is empty for a .pt2 program."""

    text: str
    place: str
    name: str

    @property
    def is_file(self) -> bool:
        """Whether it is a file, not a module on Python's path."""
        return self.place.endswith((".py", ".pt2"))

    @property
    def is_program(self) -> bool:
        """Whether it is a program that torch.export saved."""
        return self.place.endswith(".pt2")

    @property
    def folder_name(self) -> str:
        """What the model folder is called where nobody says otherwise."""
        return Path(self.place).stem if self.is_program else self.name.rpartition(".")[2]


def read_source(text: str) -> Source | None:
    """The source that `text` names; None if it has another form, as the name of a zoo model has.

    Raises:
        ModuleError: a Python file without a name behind it.
    """
    if text.endswith(".pt2"):
        return Source(text, text, "")
    place, colon, name = text.rpartition(":")
    if not colon and text.endswith(".py"):
        raise ModuleError(broken_rule("the module", "be FILE.py:NAME", text, _names_in(Path(text))))
    named = all(part.isidentifier() for part in name.split("."))
    dotted = all(part.isidentifier() for part in place.split("."))
    return Source(text, place, name) if colon and named and (place.endswith(".py") or dotted) else None


def require_source(text: str) -> Source:
    """As `read_source`; ModuleError if `text` names none."""
    source = read_source(text)
    if source is None:
        raise ModuleError(broken_rule("the module", "be FILE.py:NAME, package.module:NAME or FILE.pt2", text))
    return source


def require_file(source: Source) -> Source:
    """Returns `source`; ModuleError if it is a file that is not there."""
    if source.is_file and not Path(source.place).is_file():
        raise ModuleError(broken_rule("the module", "be in a file that is there", source.place))
    return source


def _names_in(path: Path) -> str:
    """What the file defines, read without running it."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return "name the class or function in it"
    names = [node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    return f"it defines {first_few(names, NAMED)}" if names else "it defines no class or function"
