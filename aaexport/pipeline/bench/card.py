"""(ONNX file, its folder) → what a report says the measured file is, and whether it was verified."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aaexport.errors import GraphError
from aaexport.folder import Dtype, ModelFolder
from aaexport.graph.files import GraphSummary, file_digest, parse_onnx, read_data_files
from aaexport.graph.precision.kinds import kind_of, read_origin
from aaexport.load.measurement import GuardRecord, KeptPart, ModelCard
from aaexport.parity.by_layer import by_layer
from aaexport.parity.guard import TensorLoss
from aaexport.parity.kept import least_sqnr
from aaexport.parity.thresholds import REDUCED
from aaexport.pipeline.subject.parity_record import parity_record


@dataclass(frozen=True)
class FileKind:
    """What a file computes in, and what of it stays in float32: read before the file may go away."""

    kind: str
    kept: tuple[KeptPart, ...]


def file_kind(path: Path) -> FileKind:
    """What the file says of itself."""
    model = parse_onnx(path)
    origin = read_origin(model)
    kept = () if origin is None else tuple(KeptPart(path or node, reason) for path, node, _, reason in origin.kept)
    return FileKind(kind_of(model), kept)


def model_card(
    summary: GraphSummary, of: FileKind, onnx_sha256: str, folder: ModelFolder | None, dtype: Dtype = "float32"
) -> ModelCard:
    """Of the file with that summary, kind and digest, which is the folder's in `dtype`.

    Parity, and the guard's verdict, are what the folder keeps of the file's last verification.
    """
    record = None if folder is None else parity_record(folder.parity_of(dtype), onnx_sha256)
    guard = None if folder is None else guard_record(folder.parity_of(dtype), onnx_sha256)
    return ModelCard(
        operators=summary.operators,
        opset=summary.opset,
        bytes=summary.bytes,
        parameters=summary.parameters,
        macs=summary.macs,
        parity=record,
        kind=of.kind,
        guard=guard,
        kept=of.kept,
    )


def guard_record(path: Path, onnx_sha256: str) -> GuardRecord | None:
    """The guard's verdict in a parity.json; None if it has none on the file with that digest."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        guard = value["guard"]
        if guard is None or value["onnx_sha256"] != onnx_sha256:
            return None
        accuracy = guard["accuracy"] or {}
        return GuardRecord(
            kind=str(guard["kind"]),
            data=str(guard["data"]),
            sqnr_db=least_sqnr(guard),
            layers=by_layer(map(_tensor, guard.get("tensors", ()))),
            **{name: int(accuracy[name]) for name in ("images", "float32", "reduced") if name in accuracy},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def known_accuracy(folder: ModelFolder, dtype: Dtype) -> tuple[float, int] | None:
    """The share of labelled images that the folder's file in `dtype` classifies rightly, and of how many.

    As the guard saw it of the file that lies there; that of model.onnx is known by a file that was made of it.
    """
    for kind in REDUCED if dtype == "float32" else (dtype,):
        path = folder.onnx_of(kind)
        try:
            record = guard_record(folder.parity_of(kind), file_digest(path, read_data_files(path)))
            if record is None or record.images is None or record.float32 is None or record.reduced is None:
                continue
            if dtype != "float32":
                return record.reduced / record.images, record.images
            origin, source = read_origin(parse_onnx(path)), folder.onnx_path
            if origin is not None and origin.source == file_digest(source, read_data_files(source)):
                return record.float32 / record.images, record.images
        except GraphError:
            continue  # it is not there, or is none: nothing is known of it
    return None


def _tensor(value: Mapping[str, Any]) -> TensorLoss:
    """As JSON has it, where a number that is not finite is a word."""
    known, excess = value["sqnr_db"], float(value["excess_db"])
    sqnr_db = None if known is None else float(known)
    return TensorLoss(value["path"], value["node"], value["tensor"], value["what"], sqnr_db, excess)
