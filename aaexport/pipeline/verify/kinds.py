"""(file, the dtype that was asked for) → which kind of file is judged, by which rule, and what goes with it."""

from __future__ import annotations

from pathlib import Path
from typing import TypeGuard

from aaexport.errors import ArgumentError, FolderError, as_given, broken_rule, parameter
from aaexport.folder import DTYPES, ModelFolder
from aaexport.graph.files import OnnxModel
from aaexport.graph.precision.kinds import kind_of, read_origin
from aaexport.parity.thresholds import REDUCED, ReducedKind
from aaexport.pipeline.verify.options import FileDtype, VerifyOptions

# From the finest to the coarsest: a file may be held to what is finer than itself, and fails.
FINEST: tuple[FileDtype, ...] = ("float32", "float16", "bfloat16", "int8")
OF_THE_MATRIX = ("atol", "rtol", "batch", "runtimes")


def is_reduced(kind: FileDtype) -> TypeGuard[ReducedKind]:
    """Whether the guard judges it."""
    return kind in REDUCED


def judged_as(model: OnnxModel, asked: FileDtype | None) -> FileDtype:
    """What the file is judged as: what was asked for, else what it says that it is, else float32.

    A file that says nothing and is coarser than float32 may be one that some tool has spoilt: it takes somebody's
    word that it is meant to be.

    Raises:
        ArgumentError: the file is finer than what was asked for.
    """
    held = kind_of(model)
    computes: FileDtype = "int8" if held == "quantized" else held
    if asked is None:
        origin = read_origin(model)
        return "float32" if origin is None else origin.kind
    if FINEST.index(asked) > FINEST.index(computes):
        raise ArgumentError(broken_rule("dtype", f"be {computes}, in which the file computes", asked))
    return asked


def hint_of_kind(model: OnnxModel, judged: FileDtype) -> tuple[str, ...]:
    """A note where a file is coarser than what it is judged as, and nobody has said that it is meant to be."""
    held = kind_of(model)
    if judged != "float32" or held == "float32":
        return ()
    what = "int8" if held == "quantized" else held
    return (f"the file holds numbers in {what}, and is judged as float32: --dtype {what} says that it is meant to",)


def folder_file(folder: ModelFolder, asked: FileDtype | None) -> Path:
    """The folder's ONNX file of that dtype; model.onnx where none was asked for.

    Raises:
        ArgumentError: folders have no such files.
        FolderError: it is not there.
    """
    dtype = "float32" if asked is None else asked
    if dtype == "bfloat16":
        rule = f"be {', '.join(DTYPES)} for a file of the folder's own"
        raise ArgumentError(broken_rule("dtype", rule, dtype, f"name the file with {parameter('onnx')}"))
    path = folder.onnx_of(dtype)
    if not path.is_file():
        how = "" if dtype == "float32" else f" --dtype {dtype}"
        raise FolderError(
            f"{folder.path} has no {path.name} yet; write it with `aaexport convert {folder.path}{how}`"
        )
    return path


def check_guarded(options: VerifyOptions, kind: ReducedKind) -> None:
    """ArgumentError for options of the matrix, which has no part in judging such a file."""
    for name in OF_THE_MATRIX:
        value = getattr(options, name)
        if value is not None and value != ():
            rule = f"be left out for a file in {kind}"
            raise ArgumentError(broken_rule(name, rule, as_given(value), "the guard has thresholds of its own"))


def others_of(folder: ModelFolder, path: Path) -> tuple[str, ...]:
    """A note for each file of another precision beside the one that is judged."""
    if path != folder.onnx_path:
        return ()
    return tuple(
        f"{folder.onnx_of(kind).name} lies beside it: `aaexport verify {folder.path} --dtype {kind}` judges that"
        for kind in REDUCED
        if folder.onnx_of(kind).is_file()
    )
