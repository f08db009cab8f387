"""(folder whose model.onnx is verified and fresh, options) → its file in fewer bits, without PyTorch.

All that PyTorch would be asked is known: the weights are those of the file, and what it answers in float64 to the
images of the guard was kept when the file was verified (`aaexport.pipeline.subject.known_truth`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from aaexport.errors import ArgumentError
from aaexport.folder import Dtype, ModelFolder
from aaexport.graph.files import converted_size
from aaexport.pipeline.convert.options import ConvertOptions
from aaexport.pipeline.reduce.fresh import differs, is_verified
from aaexport.pipeline.subject.facts import Facts, facts_of
from aaexport.pipeline.subject.float32_file import why_stale
from aaexport.pipeline.verify.looked import kept
from aaexport.results import ConvertResult
from aaexport.writing import remove

Say = Callable[[str], None]


def reduced_at_once(
    folder: ModelFolder,
    size: tuple[int, int] | None,
    options: ConvertOptions,
    say: Say = lambda step: None,
) -> ConvertResult | None:
    """As `aaexport.convert` with a dtype of fewer bits; None where model.onnx is not what it is made of yet.

    Raises as `reduce_file`, and ArgumentError for an option that breaks its rule.
    """
    from aaexport.pipeline.reduce.reduce import reduce_file  # what a file in float32 needs nothing of

    options.check()
    assert options.reduction is not None
    facts = facts_of(folder, size or size_of(folder))
    if facts is None or why_stale(folder, facts) is not None or not is_verified(folder):
        return None
    if differs(folder, asked_for(facts, options)) is not None:
        return None
    result = reduce_file(facts, folder.onnx_path, folder.onnx_of(options.dtype), options.reduction, say)
    return recorded(result, folder, options)


def recorded(result: ConvertResult, folder: ModelFolder | None, options: ConvertOptions) -> ConvertResult:
    """The result, which the folder keeps if the file is its own."""
    if folder is None or result.path != folder.onnx_of(options.dtype):
        return result
    assert result.parity is not None
    remove(folder.bench_of(options.dtype))  # what was measured is of the file before
    return dataclasses.replace(result, parity=kept(result.parity, folder, options.dtype))


def size_of(folder: ModelFolder) -> tuple[int, int] | None:
    """(H, W) that the folder's model.onnx was converted for, if it is not the recipe's."""
    return converted_size(folder.onnx_path) if folder.onnx_path.is_file() else None


def destination_of(facts: Facts, path: str | Path | None, dtype: Dtype) -> Path:
    """Where the file is written. ArgumentError if nobody says so, and the model has no folder of the user's."""
    if path is not None:
        return Path(path)
    if facts.folder is None or facts.folder.is_zoo:
        raise ArgumentError("path must be given for a module or a zoo model, got None; name the file to write")
    return facts.folder.onnx_of(dtype)


def asked_for(facts: Facts, options: ConvertOptions) -> dict[str, object]:
    """What was asked for of the float32 file, by the fields of its provenance; None where nobody has asked."""
    return {
        "opset": options.opset,
        "decomposition": options.decomposition,
        "batch": options.batch,
        "max_attention_memory": options.max_attention_memory,
        "target": options.target,
        "with_attention": options.with_attention or None,
        "size": facts.own_size,
    }
