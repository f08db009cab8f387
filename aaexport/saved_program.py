"""A .pt2 file that torch.export saved → its program as an nn.Module, without running any code that the file brings.

torch.export.load unpickles what it finds, and evaluates expressions and operator names as Python. So the archive is
read first: tensors must be raw or plain, operators must be PyTorch's, expressions must be arithmetic.
"""

from __future__ import annotations

import ast
import io
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from aaexport.errors import ModuleError, broken_rule, first_line

REMEDY = "save it again with torch.export.save from the module itself, or convert FILE.py:NAME"
OPERATORS = re.compile(r"(torch\.ops\.[\w.]+|_operator\.\w+|torch\.sym_\w+|math\.\w+|torch\._C\._set_grad_enabled)")
OWN_PICKLES = ("custom_obj_", "opaque_obj_")
# What sizes are written with: `Mul(Integer(4), Symbol('s31', positive=True, integer=True))`.
ARITHMETIC = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Constant, ast.Name, ast.Load, ast.Call,
    ast.keyword, ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
)  # fmt: skip
FUNCTIONS = {
    "Symbol", "Integer", "Rational", "Float", "Add", "Mul", "Pow", "Mod", "PythonMod", "FloorDiv", "CleanDiv",
    "CeilDiv", "IntTrueDiv", "FloatTrueDiv", "Max", "Min", "Abs", "Where", "Eq", "Ne", "Lt", "Le", "Gt", "Ge",
    "Equality", "Unequality", "StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan", "And", "Or", "Not",
    "ceiling", "floor", "CeilToInt", "FloorToInt", "RoundToInt", "TruncToInt", "ToFloat", "ModularIndexing",
}  # fmt: skip


class SavedProgram(nn.Module):
    """A program as a module in evaluation mode, which it cannot leave.

    Attributes:
        input_shape: (C, H, W) of one image.
        batch: "dynamic", or the only one it was exported for.
    """

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__()
        self.training = False
        example = _example(program)
        batch, *shape = tuple(example.shape)
        self.input_shape = (shape[0], shape[1], shape[2])
        self.batch: int | Literal["dynamic"] = batch if _fixes_its_batch(program) else "dynamic"
        # Its guards are Python in text; `_require_data_only` has not read them, so they are not run.
        self.program = program.module(check_guards=False)

    def train(self, mode: bool = True) -> SavedProgram:
        """A program has no modes: it stays as it was exported."""
        self.training = False
        return self

    def forward(self, images: Tensor) -> Any:
        """What the program returns."""
        return self.program(images)


def load_program(path: Path) -> SavedProgram:
    """Reads a .pt2 file.

    Raises:
        ModuleError: it is not there or not whole, would run code of its own, or takes something else than one batch
            of images.
    """
    try:
        _require_data_only(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return SavedProgram(torch.export.load(path))
    except ModuleError:
        raise
    # The reader and the deserializer raise whatever they meet: there is no common base.
    except Exception as error:
        raise ModuleError(f"{path} must be a whole program of torch.export.save, but: {first_line(error)}") from error


def _example(program: ExportedProgram) -> Tensor:
    given: tuple[tuple[Any, ...], dict[str, Any]] = program.example_inputs or ((), {})
    inputs, named = given
    if len(inputs) != 1 or named or not isinstance(inputs[0], Tensor) or inputs[0].dim() != 4:
        kinds = ", ".join(type(one).__name__ for one in (*inputs, *named.values())) or "none"
        raise ModuleError(broken_rule("the program", "take one batch of images (B, C, H, W)", kinds))
    example: Tensor = inputs[0]
    return example


def _fixes_its_batch(program: ExportedProgram) -> bool:
    (name,) = program.graph_signature.user_inputs
    (node,) = (node for node in program.graph.nodes if node.op == "placeholder" and node.name == name)
    return isinstance(node.meta["val"].shape[0], int)


def _require_data_only(path: Path) -> None:
    """ModuleError unless all that the file brings is numbers, names of PyTorch's operators, and arithmetic."""
    if not path.is_file():
        raise ModuleError(broken_rule("the program", "be in a file that is there", str(path)))
    if not zipfile.is_zipfile(path):
        raise ModuleError(f"{path} must be a whole program of torch.export.save, but: it is no zip archive")
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            for fault in _faults(name, archive):
                raise ModuleError(f"{path} is refused, because {fault}; {REMEDY}")


def _faults(name: str, archive: zipfile.ZipFile) -> Iterator[str]:
    base = name.rpartition("/")[2]
    if "/aotinductor/" in name or base.endswith((".so", ".dll", ".dylib")):
        yield f"{base} is machine code"
    elif base.startswith(OWN_PICKLES):
        yield f"{base} is a pickled object, which may run code when it is read"
    elif base.endswith(".pt"):
        yield from _pickle_faults(base, archive.read(name))
    elif base.endswith(".json"):
        yield from _json_faults(base, json.loads(archive.read(name)))


def _pickle_faults(name: str, content: bytes) -> Iterator[str]:
    """torch itself falls back to unpickling anything where this fails."""
    try:
        if content:
            torch.load(io.BytesIO(content), weights_only=True)
    except pickle.UnpicklingError as error:
        yield f"{name} holds more than tensors ({first_line(error)})"


def _json_faults(name: str, value: Any) -> Iterator[str]:
    for key, entry in _entries(value):
        if key == "use_pickle" and entry:
            yield f"{name} names a pickled tensor, which may run code when it is read"
        elif key == "target" and isinstance(entry, str) and not OPERATORS.fullmatch(entry):
            yield f"{name} names {entry!r}, which is no operator of PyTorch's"
        elif key == "expr_str" and not _is_arithmetic(str(entry)):
            yield f"{name} has the expression {entry!r}, which is no arithmetic"


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key of every object inside, with its value."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield from one.items()
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


def _is_arithmetic(text: str) -> bool:
    try:
        nodes = [*ast.walk(ast.parse(text, mode="eval"))]
    except (SyntaxError, ValueError, RecursionError):
        return False
    calls = [node.func for node in nodes if isinstance(node, ast.Call)]
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return (
        all(isinstance(node, ARITHMETIC) for node in nodes)
        and all(isinstance(called, ast.Name) and called.id in FUNCTIONS for called in calls)
        and all(text.isidentifier() for text in texts)
    )
