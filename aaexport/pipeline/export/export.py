"""(module, settings) → ONNX model, as the exporter wrote it and after the graph rules.

`convert` writes the result; `verify` makes it anew when a file is wrong, to see which stage broke it and where.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn
from torch.export import ExportedProgram

from aaexport.capture.program import export_program, fast_tracing
from aaexport.device import TARGETS, Target
from aaexport.graph.check import check_model, check_operators
from aaexport.graph.convert import to_onnx
from aaexport.graph.files import OnnxModel
from aaexport.graph.metadata import Provenance
from aaexport.graph.optimize import RuleReport, optimize_model
from aaexport.graph.outside import Room
from aaexport.graph.rules import FILE_RULES, RULES, AttentionInBlocks, SkewedRelativeAttention, within
from aaexport.nn.augmented import augmented_layers
from aaexport.nn.choice import read_choice
from aaexport.pipeline.subject.subject import Subject, with_decomposition
from aaexport.recipe import Batch

Say = Callable[[str], None]


@dataclass(frozen=True)
class Exported:
    """The traced program, the model in both forms, how often each graph rule was applied, and what to know of it.

    `left` has the paths of the modules whose attention looks augmented and is not written as ours → why.
    """

    program: ExportedProgram
    written_by_torch: OnnxModel
    model: OnnxModel
    rules: dict[str, int]
    notes: tuple[str, ...]
    left: dict[str, str]


def export(
    subject: Subject,
    module: nn.Module,
    *,
    opset: int,
    batch: Batch,
    target: Target,
    max_attention_memory: float | None = None,
    room: Room | None = None,
    say: Say = lambda step: None,
) -> Exported:
    """`module`, the subject's own with its layers set as they are to be written out, as a checked ONNX model.

    `room` is for the weights of a model above protobuf's limit, and has to be there as long as the result is used.
    Of attention that is not ours, `max_attention_memory` MiB are the limit (`AttentionInBlocks`), kept or told.

    Raises:
        ExportError, GraphError: PyTorch cannot capture or convert the module, or not into plain ONNX.
    """
    with fast_tracing():
        say("capturing the module with torch.export")
        program = export_program(subject.runnable(module), subject.input_shape, batch)
        say(f"converting to ONNX opset {opset}")
        written = to_onnx(program, opset=opset, output_names=subject.output_names, room=room)
    say("applying the graph rules")
    # Attention that is not ours, such as a saved program's, is rewritten like a stranger's file.
    known = FILE_RULES if subject.original is not None and not augmented_layers(module) else RULES
    first, then = within(known, max_attention_memory, target)
    model, rules = optimize_model(written.model, target=target, rules=first, then=then, room=room)
    check_model(model, opset=opset)
    notes = (*check_operators(model, ours=subject.recipe is not None), *_above_the_limit(rules))
    applied = {rule.title: rule.applied for rule in rules if rule.applied}
    left = {path: why for rule in rules if rule.title == SkewedRelativeAttention.title
            for path, why in rule.left.items()}  # fmt: skip
    return Exported(written.program, written.model, model, applied, notes, left)


def _above_the_limit(rules: Sequence[RuleReport]) -> tuple[str, ...]:
    """Which attention does not keep the limit, and why."""
    left = next((rule for rule in rules if rule.title == AttentionInBlocks.title), None)
    if left is None:
        return ()
    elsewhere = {reason: count for reason, count in left.refused.items() if reason not in left.left.values()}
    places = [*left.left.items(), *((f"{count} of the file's", reason) for reason, count in elsewhere.items())]
    return tuple(f"the attention of {place} is above the limit on its memory: {reason}" for place, reason in places)


def as_converted(subject: Subject, provenance: Provenance | None) -> nn.Module | None:
    """The subject's module with its layers written out as a file's metadata tell; None where they do not."""
    layers = augmented_layers(subject.module)
    written = {} if provenance is None else {path: read_choice(how) for path, how in provenance.layers.items()}
    if written.keys() != layers.keys() or None in written.values():
        return None
    module = with_decomposition(subject.module, None)
    for path, layer in augmented_layers(module).items():
        choice = written[path]
        assert choice is not None
        layer.decomposition, layer.blocks = choice.decomposition, choice.blocks
    return module


def export_again(subject: Subject, provenance: Provenance | None, room: Room | None = None) -> Exported | None:
    """What `convert` would write with the settings in a file's metadata; None where they are not all there.

    `room` as of `export`.

    Raises:
        As `export`.
    """
    module = as_converted(subject, provenance)
    if module is None or provenance is None or provenance.batch is None or provenance.target not in TARGETS:
        return None
    batch: Batch = "dynamic" if provenance.batch == "dynamic" else int(provenance.batch)
    target: Target = "cuda" if provenance.target == "cuda" else "cpu"
    return export(
        subject,
        module.requires_grad_(False),
        opset=provenance.opset,
        batch=batch,
        target=target,
        max_attention_memory=provenance.max_attention_memory,
        room=room,
    )
