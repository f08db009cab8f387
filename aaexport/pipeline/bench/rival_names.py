"""What a file may be compared with, by name: the network itself as one runs it otherwise, or another file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeGuard

from aaexport.errors import ArgumentError, FolderError, GraphError, broken_rule, did_you_mean, parameter
from aaexport.folder import DTYPES, Dtype, ModelFolder, find_model

IN_PROCESS = "in-process"  # the file that a live service serves, by a session of our own
RIVALS = ("eager", "compile", "skew", IN_PROCESS)
OTHERS = ("onnx", "folder")  # before a colon and a path
MAX_AUTOTUNE, CHANNELS_LAST, AUTOCAST = "max-autotune", "channels-last", "autocast"
# How PyTorch may run the network otherwise than by its defaults; several ways are joined by `+`.
WAYS = {"eager": (CHANNELS_LAST, AUTOCAST), "compile": (MAX_AUTOTUNE, CHANNELS_LAST, AUTOCAST)}
# Beside these the folder's files in another precision, by `DTYPES`.


def is_other_model(name: str) -> bool:
    """Whether it is another file, which needs no PyTorch and may well answer otherwise."""
    return name.partition(":")[0] in OTHERS and ":" in name


def is_dtype(name: str) -> TypeGuard[Dtype]:
    """Whether it is the folder's file in that precision."""
    return name in DTYPES


def torch_ways(name: str) -> tuple[str, tuple[str, ...]] | None:
    """`compile:max-autotune+autocast` → `compile` and how; None of what is no such name."""
    base, colon, told = name.partition(":")
    ways = tuple(told.split("+")) if colon else ()
    if base not in WAYS or len(set(ways)) < len(ways) or not set(ways) <= set(WAYS[base]):
        return None
    return base, ways


def is_autocast(name: str) -> bool:
    """Whether PyTorch computes part of it in float16, and so answers not quite as float32."""
    found = torch_ways(name)
    return found is not None and AUTOCAST in found[1]


def check_rivals(names: Sequence[str]) -> None:
    """ArgumentError unless it is a sequence of different names of `RIVALS`, `DTYPES`, `onnx:FILE`, `folder:PATH`."""
    rule = "be different names in a sequence"
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise ArgumentError(broken_rule("compare", rule, names, "as ('eager',), or () for none"))
    for name in names:
        kind, _, path = str(name).partition(":")
        if kind in OTHERS and not path:
            raise ArgumentError(broken_rule(f"{parameter('compare')} {kind}:", "be followed by a path", name))
        if name not in (*RIVALS, *DTYPES) and kind not in OTHERS and torch_ways(str(name)) is None:
            ways = (f"{base}:{way}" for base, ways in WAYS.items() for way in ways)
            known = (*RIVALS, *DTYPES, *ways, *(f"{other}:PATH" for other in OTHERS))
            raise ArgumentError(broken_rule("compare", "be known names", name, did_you_mean(str(name), known)))
    if len(set(names)) < len(names):
        raise ArgumentError(broken_rule("compare", rule, ",".join(names)))


def other_file(name: str) -> Path:
    """The file that `onnx:FILE` or `folder:PATH` names.

    Raises:
        GraphError: FILE is not there.
        FolderError: PATH is no model folder, or has no model.onnx.
    """
    kind, _, path = name.partition(":")
    if kind == "onnx":
        if not Path(path).is_file():
            raise GraphError(f"{parameter('compare')} {name}: there is no such file")
        return Path(path)
    return file_in(find_model(path), "float32")


def file_in(folder: ModelFolder, dtype: Dtype) -> Path:
    """The folder's file in that precision. FolderError if it is not there."""
    path = folder.onnx_of(dtype)
    if not path.is_file():
        command = f"aaexport convert {folder.path}" + ("" if dtype == "float32" else f" --dtype {dtype}")
        raise FolderError(f"{folder.path} has no {path.name} yet; write it with `{command}`")
    return path
