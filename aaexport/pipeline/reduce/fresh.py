"""(folder, what was asked) → whether its model.onnx is the verified float32 file that others may be made of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from aaexport.errors import GraphError
from aaexport.folder import ModelFolder
from aaexport.graph.files import file_digest, parse_onnx, read_data_files, read_onnx
from aaexport.graph.metadata import Provenance, provenance_of
from aaexport.graph.precision.kinds import read_origin
from aaexport.parity.thresholds import REDUCED
from aaexport.writing import remove

Asked = Mapping[str, object]  # field of the file's provenance → what it must be, of what was asked for


def is_verified(folder: ModelFolder) -> bool:
    """Whether parity.json says that this very model.onnx passed."""
    try:
        record = json.loads(folder.parity_path.read_text(encoding="utf-8"))
        digest = file_digest(folder.onnx_path, read_data_files(folder.onnx_path))
        return record["passed"] is True and record["onnx_sha256"] == digest
    except (OSError, ValueError, LookupError, TypeError):
        return False


def differs(folder: ModelFolder, asked: Asked) -> str | None:
    """What was asked for and model.onnx is not: `opset 20 instead of 23`; None if it is all of that."""
    provenance = _provenance(folder)
    for name, wanted in asked.items():
        got = getattr(provenance, name)
        if name == "target" and got is None:  # of older files, which knew no other
            got = "cpu"
        if wanted is not None and got != wanted:
            return f"{name} {_shown(got)} instead of {_shown(wanted)}"
    return None


def _shown(value: object) -> str:
    """Of an option, in words."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value is None else str(value)


def outdated(folder: ModelFolder) -> tuple[str, ...]:
    """A note for each file of the folder that was made of another model.onnx; what parity.json said of it goes."""
    notes = []
    for kind in REDUCED:
        path = folder.onnx_of(kind)
        if not path.is_file():
            continue
        if not _is_of(path, folder):
            remove(folder.parity_of(kind))
            again = f"aaexport convert {folder.path} --dtype {kind}"
            notes.append(f"{path.name} was made of another model.onnx; write it anew with `{again}`")
    return tuple(notes)


def _is_of(path: Path, folder: ModelFolder) -> bool:
    """Whether the file is in fewer bits what model.onnx is.

    One that names no source is of another opset, target or the like, and was made of a float32 file that was not
    kept: of the same weights and recipe.
    """
    try:
        model = parse_onnx(path)
    except GraphError:
        return False
    origin, own, now = read_origin(model), provenance_of(model), _provenance(folder)
    if origin is None or own is None:
        return False
    if origin.source:
        return origin.source == file_digest(folder.onnx_path, read_data_files(folder.onnx_path))
    return (own.weights_digest, own.recipe_digest) == (now.weights_digest, now.recipe_digest)


def _provenance(folder: ModelFolder) -> Provenance:
    model = read_onnx(folder.onnx_path)
    found = provenance_of(model)
    assert found is not None  # or it would be stale
    return found
