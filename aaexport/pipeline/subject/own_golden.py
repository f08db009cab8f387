"""(file in float16 or int8, golden vectors) → the same questions with what the file itself answers here.

A file in fewer bits does not answer as PyTorch, and how far off it may be is what its guard has judged, once, on
images. Whoever serves it must give what that very file gives: a bound that leaves room for what float16 or int8 loses
would let through whatever is smaller, such as the answers of an older calibration.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from aaexport.errors import FolderError, broken_rule
from aaexport.folder import Dtype, ModelFolder
from aaexport.runners.base import Runner
from aaexport.serving.facts import ModelFacts


def with_own_answers(facts: ModelFacts, runner: Runner) -> ModelFacts:
    """The facts, whose golden vectors say what `runner`, a session of the file, answers. RunnerError if none."""
    asked = [replace(query, outputs=runner.infer(dict(query.inputs))) for query in facts.golden]
    return facts.with_golden(asked)


def require_guarded(folder: ModelFolder, dtype: Dtype, onnx_sha256: str) -> None:
    """FolderError unless the folder's record says that the guard passed that very file; of float32 nobody asks."""
    fault = why_unguarded(folder, dtype, onnx_sha256)
    if fault is not None:
        raise FolderError(fault)


def why_unguarded(folder: ModelFolder, dtype: Dtype, onnx_sha256: str) -> str | None:
    """Why nobody knows that the folder's file in `dtype` lost no more than it may; None if it is known."""
    if dtype == "float32":
        return None
    path = folder.parity_of(dtype)
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        passed, of_this = record["passed"] is True, record["onnx_sha256"] == onnx_sha256
        is_judged = record["guard"] is not None
    except (OSError, ValueError, LookupError, TypeError):
        passed = of_this = is_judged = False
    if passed and of_this and is_judged:
        return None
    got = "a verdict that it fails" if of_this and is_judged else "no verdict on this file"
    remedy = f"run `aaexport verify {folder.path} --dtype {dtype}`"
    return broken_rule(str(folder.onnx_of(dtype)), "have passed its guard", got, remedy)
