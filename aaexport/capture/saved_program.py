"""A .pt2 file that torch.export saved → its program as an nn.Module, without running any code that the file brings.

torch.export.load unpickles what it finds, imports what trees of values name, evaluates expressions and operator
names, and writes names into Python source. So the archive is read first, entry by entry of a list of known names, and
what was read is what torch gets: a fresh archive in memory, so that no two readers can see two different files.
"""

from __future__ import annotations

import ast
import io
import json
import pickle
import re
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from aaexport.errors import ModuleError, broken_rule, first_line

REMEDY = "save it again with torch.export.save from the module itself, or convert FILE.py:NAME"
TENSOR = re.compile(r"(weight|tensor)_\d{1,9}")
# What torch.export.save writes for a program whose constants are all tensors.
PART = re.compile(
    r"models/model\.json|data/sample_inputs/model\.pt|archive_format|archive_version|byteorder|version"
    r"|\.data/(version|serialization_id)|data/weights/(model_weights_config\.json|weight_\d{1,9})"
    r"|data/constants/(model_constants_config\.json|tensor_\d{1,9})"
)
TENSOR_OPERATOR = re.compile(r"torch\.ops\.(aten|prims)\.(\w+)\.(\w+)")
OTHER_OPERATOR = re.compile(
    r"torch\.ops\.higher_order\.(cond|while_loop|map_impl|scan|associative_scan|wrap_with_(set_grad_enabled|autocast))"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|pow|neg|pos|eq|ne|lt|le|gt|ge|and_|or_|not_|xor|[lr]shift)"
    r"|torch\.sym_\w+|torch\._sym_sqrt|math\.\w+|torch\._C\._set_grad_enabled"
)
TREES = {
    "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict",
    "torch.fx.immutable_collections.immutable_list", "torch.fx.immutable_collections.immutable_dict",
}  # fmt: skip
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
        # Its guards are Python in text; `_vetted` has not read them, so they are not run.
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
        archive = _vetted(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return SavedProgram(torch.export.load(archive))
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


def _vetted(path: Path) -> io.BytesIO:
    """The archive anew; ModuleError unless it holds only numbers, names of operators that compute, and arithmetic."""
    if not path.is_file():
        raise ModuleError(broken_rule("the program", "be in a file that is there", str(path)))
    if not zipfile.is_zipfile(path):
        raise ModuleError(f"{path} must be a whole program of torch.export.save, but: it is no zip archive")
    fresh = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(fresh, "w") as copy:
        for fault in _layout_faults(archive.infolist(), path.stat().st_size):
            raise _refusal(path, fault)
        for entry in archive.infolist():
            part = _part(entry)
            # Files of the caller's own beside the program: torch would only hand them back.
            if part.startswith("extra/"):
                continue
            for fault in _copy_faults(part, entry, archive, copy):
                raise _refusal(path, fault)
    fresh.seek(0)
    return fresh


def _refusal(path: Path, fault: str) -> ModuleError:
    return ModuleError(f"{path} is refused, because {fault}; {REMEDY}")


def _part(entry: zipfile.ZipInfo) -> str:
    """The name below the one root folder."""
    return entry.filename.partition("/")[2]


def _layout_faults(entries: list[zipfile.ZipInfo], size: int) -> Iterator[str]:
    names = [entry.filename for entry in entries]
    if len(set(names)) < len(names):
        yield "it holds two entries of one name"
    if len({name.partition("/")[0] for name in names}) > 1:
        yield "it has more than one root folder"
    # Entries that overlap could make a small file a huge one.
    if sum(entry.file_size for entry in entries) > size:
        yield "its entries are larger than itself"
    for entry in entries:
        if entry.flag_bits & 1 or entry.compress_type != zipfile.ZIP_STORED:
            yield f"{entry.filename[:80]!r} is encrypted or compressed"
        if not PART.fullmatch(_part(entry)) and not _part(entry).startswith("extra/"):
            yield f"{entry.filename[:80]!r} is no part of a program of tensors: it may run code when it is read"


def _copy_faults(part: str, entry: zipfile.ZipInfo, archive: zipfile.ZipFile, copy: zipfile.ZipFile) -> Iterator[str]:
    """Copies one part unless it has a fault. The root is the name that torch gives to an archive in memory."""
    target = zipfile.ZipInfo(f"archive/{part}")
    target.file_size = entry.file_size
    if part.endswith(".json"):
        program = json.loads(archive.read(entry))
        yield from _json_faults(part, program)
        copy.writestr(target, json.dumps(program))
    elif part.endswith(".pt"):
        content = archive.read(entry)
        yield from _pickle_faults(part, content)
        copy.writestr(target, content)
    else:
        with archive.open(entry) as source, copy.open(target, "w") as sink:
            shutil.copyfileobj(source, sink)


def _pickle_faults(name: str, content: bytes) -> Iterator[str]:
    """torch itself falls back to unpickling anything where this fails."""
    try:
        if content:
            torch.load(io.BytesIO(content), weights_only=True)
    except pickle.UnpicklingError as error:
        yield f"{name} holds more than tensors ({first_line(error)})"


def _json_faults(name: str, program: Any) -> Iterator[str]:
    for place, key, value in _values(program):
        if key == "use_pickle" and value is not False:
            yield f"{name} names a pickled tensor, which may run code when it is read"
        elif key == "expr_str" and not isinstance(value, str):
            yield f"{name} has an expression that is no text"
        elif key in RULES and isinstance(value, str):
            holds, kind = RULES[key]
            if not holds(value):
                yield f"{name} names {value[:80]!r} as {key}, which is no {kind}"
        elif isinstance(value, str) and key not in FREE_TEXTS and place != "metadata" and not _is_quotable(value):
            yield f"{name} has the text {value[:80]!r}, which could end a quotation"
        if not _is_quotable(key):
            yield f"{name} has the key {key[:80]!r}, which could end a quotation"


def _values(value: Any, key: str = "", place: str = "") -> Iterator[tuple[str, str, Any]]:
    """Everything inside: the key of the object that it stands in, its own key, and itself."""
    yield place, key, value
    if isinstance(value, dict):
        for inner, entry in value.items():
            yield from _values(entry, inner, key)
    elif isinstance(value, list):
        for entry in value:
            # The entries of a list are of its key, except objects, which have keys of their own.
            yield from _values(entry, key, place)


def _is_quotable(text: str) -> bool:
    """torch writes names between double quotes into the source of the module's forward."""
    return text.isprintable() and not set(text) & set("\"'\\")


def _is_name(text: str) -> bool:
    return text.isidentifier() or not text


def _is_operator(text: str) -> bool:
    if not (found := TENSOR_OPERATOR.fullmatch(text)):
        return OTHER_OPERATOR.fullmatch(text) is not None
    space, packet, overload = found.groups()
    operator = getattr(getattr(getattr(torch.ops, space), packet, None), overload, None)
    # from_file and save would open whatever file the program names.
    return isinstance(operator, torch._ops.OpOverload) and all(
        argument.name != "filename" for argument in operator._schema.arguments
    )


def _is_tree(text: str, is_key: Callable[[str], bool] = _is_quotable) -> bool:
    """Other kinds of trees import modules by name: a defaultdict its factory, any tree an enum among its keys."""
    _, root = json.loads(text)
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if node["type"] is not None and node["type"] not in TREES:
            return False
        keys = json.loads(node["context"] or "null") or []
        if not isinstance(keys, list) or not all(
            type(key) is int or (type(key) is str and is_key(key)) for key in keys
        ):
            return False
        waiting += node["children_spec"]
    return True


def _is_tree_of_inputs(text: str) -> bool:
    """Its keys become names of parameters in the source of the module's forward."""
    return _is_tree(text, _is_name)


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


RULES: dict[str, tuple[Callable[[str], bool], str]] = {
    "target": (_is_operator, "operator of PyTorch's that only computes"),
    "as_operator": (_is_operator, "operator of PyTorch's that only computes"),
    "expr_str": (_is_arithmetic, "arithmetic"),
    "in_spec": (_is_tree_of_inputs, "tree of tuples, lists and dicts"),
    "out_spec": (_is_tree, "tree of tuples, lists and dicts"),
    "path_name": (lambda text: TENSOR.fullmatch(text) is not None, "tensor of the archive"),
    "name": (_is_name, "plain name"),
    "as_name": (_is_name, "plain name"),
    "forward_arg_names": (_is_name, "plain name"),
}
FREE_TEXTS = ("as_string", "as_strings", "guards_code")
