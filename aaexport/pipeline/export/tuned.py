"""tuning.json of a model folder → what `auto` means for the layers that are converted now, if it fits them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aaexport.device import Target
from aaexport.nn.augmented import augmented_layers
from aaexport.nn.choice import MAX_BLOCKS, AttentionSizes, Choice
from aaexport.nn.relative import DECOMPOSITIONS
from aaexport.pipeline.export.plan import ATTENTION_OPSET
from aaexport.pipeline.subject.subject import Subject
from aaexport.recipe import DEFAULT_DECOMPOSITION, OPSETS, Batch, DecompositionName


@dataclass(frozen=True)
class Tuning:
    """What `convert` needs of a tuning.json.

    Attributes:
        device: says in words what was measured.
        target: the kind of it.
        opset: of the file that the choices are for.
        timed_opset: of the files that were timed.
        batch: images a query.
        choices: by the sizes of a layer's attention.
    """

    device: str
    target: Target
    opset: int
    timed_opset: int
    batch: int
    choices: dict[AttentionSizes, Choice]


def tuned_choices(
    subject: Subject, decomposition: DecompositionName | None, opset: int, batch: Batch, target: Target
) -> tuple[dict[AttentionSizes, Choice], tuple[str, ...]]:
    """The measured choices that hold for this conversion, and a note on them or on why there are none.

    FolderError if there is a tuning.json that `tune` did not write so.
    """
    path = None if subject.folder is None else subject.folder.tuning_path
    sizes = [layer.sizes for layer in augmented_layers(subject.module).values()]
    if decomposition != DEFAULT_DECOMPOSITION:
        return {}, ()
    return tuned_for(path, sizes, opset, batch, target)


def tuned_for(
    path: Path | None, sizes: Sequence[AttentionSizes], opset: int, batch: Batch, target: Target
) -> tuple[dict[AttentionSizes, Choice], tuple[str, ...]]:
    """The same of a tuning.json that may be there, for layers of these sizes that are written out by `auto`."""
    if path is None or not sizes or not path.exists():
        return {}, ()
    tuning = read_tuning(path)
    reason = _why_not(tuning, opset, batch, target)
    if reason is None and not set(sizes) & tuning.choices.keys():
        reason = "it is for attention of other sizes"
    if reason is not None:
        return {}, (f"{path.name} is left aside: {reason}; run `aaexport tune` again to use it",)
    known = sum(size in tuning.choices for size in sizes)
    note = f"auto is what {path.name} measured on {tuning.device}, batch {tuning.batch}"
    if known < len(sizes):
        note += f", for {known} of {len(sizes)} layers; the others are of other sizes"
    return tuning.choices, (note,)


def tuned_opset(
    subject: Subject, decomposition: DecompositionName | None, batch: Batch, target: Target
) -> int | None:
    """The opset that a tuning on a GPU decided for, where it holds for this conversion, which names none; else None.

    On the CPU tuning does not look at opsets. FolderError as `tuned_choices`.
    """
    path = None if subject.folder is None else subject.folder.tuning_path
    if target == "cpu" or path is None or decomposition != DEFAULT_DECOMPOSITION or not path.exists():
        return None
    opset = read_tuning(path).opset
    choices, _ = tuned_choices(subject, decomposition, opset, batch, target)
    return opset if choices else None


def read_tuning(path: Path) -> Tuning:
    """FolderError if the file cannot be read, or holds something else than `aaexport tune` writes."""
    from aaexport.report.tuned import not_as_written, tuning_values  # with what reports are made of: few have a file

    value = tuning_values(path)
    try:
        return _parsed(value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise not_as_written(path, error) from error


def _why_not(tuning: Tuning, opset: int, batch: Batch, target: Target) -> str | None:
    if target != tuning.target:
        return f"it is for {tuning.target}"
    # What was timed with the operator Attention at hand, and came out without it, holds with and without.
    has_operator = opset >= ATTENTION_OPSET
    if has_operator not in (tuning.opset >= ATTENTION_OPSET, tuning.timed_opset >= ATTENTION_OPSET):
        return f"it is for opset {tuning.opset}, and {opset} has other candidates"
    if batch not in ("dynamic", tuning.batch):
        return f"it is for batch {tuning.batch}"
    return None


def _parsed(value: dict[str, Any]) -> Tuning:
    opset, batch = _whole(value["opset"], "opset"), _whole(value["batch"], "batch")
    timed_opset = _whole(value.get("timed_opset", opset), "timed_opset")
    _require(opset in OPSETS and timed_opset in OPSETS and timed_opset >= opset, "opset", opset)
    choices = {AttentionSizes(**layer["sizes"]): _choice(layer["chosen"], opset) for layer in value["layers"]}
    device = f"{value['device']}, {value['environment']['cpu']}"
    return Tuning(device, "cuda" if "CUDA" in value["provider"] else "cpu", opset, timed_opset, batch, choices)


def _choice(value: dict[str, Any], opset: int) -> Choice:
    choice = Choice(value["decomposition"], _whole(value["blocks"], "blocks"))
    known = choice.decomposition in DECOMPOSITIONS
    _require(known and (choice.decomposition != "fused" or opset >= ATTENTION_OPSET), "chosen", choice.decomposition)
    _require(choice.blocks <= MAX_BLOCKS, "blocks", choice.blocks)
    return choice


def _whole(value: object, name: str) -> int:
    _require(isinstance(value, int) and not isinstance(value, bool) and value >= 1, name, value)
    assert isinstance(value, int)
    return value


def _require(holds: bool, name: str, got: object) -> None:
    if not holds:
        raise ValueError(f"its {name} is {got!r}")
