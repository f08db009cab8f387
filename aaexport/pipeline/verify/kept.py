"""(module, its file) → what it answers to a few inputs: golden vectors, where no verification has asked for any."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aaexport.graph.alive import bytes_alive
from aaexport.graph.files import read_onnx, summarize_model
from aaexport.parity import Truth, made_up_cases
from aaexport.pipeline.subject.subject import Subject
from aaexport.pipeline.verify.computations import Judge
from aaexport.pipeline.verify.feeding import fixed_batch
from aaexport.pipeline.verify.memory import Memory
from aaexport.pipeline.verify.options import VerifyOptions
from aaexport.runners.torch import TorchRunner

BATCHES = (2, 1)
Say = Callable[[str], None]


@dataclass(frozen=True)
class Kept:
    """Cases with their truths, what a user should know of these, and what was left out."""

    truths: tuple[Truth, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]


def answers_to_keep(subject: Subject, path: Path, options: VerifyOptions, say: Say = lambda step: None) -> Kept:
    """As many as `options` leave time and memory for: one image alone where that is little.

    Args:
        subject: somebody's module, which was seen to answer alike when it is asked again.
        path: its file, by which is known what an image takes.
        options: `most_macs`, `max_memory` and `seed` count.
        say: as of `Judge`.

    Raises:
        RunnerError: PyTorch cannot compute a case.
    """
    model = read_onnx(path)
    summary = summarize_model(model, path)
    fixed = fixed_batch(summary)
    memory = Memory(options.most_bytes(summary.bytes), bytes_alive(model, fixed or 1), fixed)
    del model  # which may be large
    judge = Judge(subject, say, asks_twice=False)
    sizes, notes = BATCHES if fixed is None else (fixed,), list[str]()
    macs = summary.macs or 0
    if fixed is None and options.most_macs is not None and macs * sum(sizes) > options.most_macs:
        sizes = (1,)
        notes.append(f"{macs / 1e9:.0f} G MACs an image: the golden vectors are of one image alone")
    assert isinstance(judge.baseline, TorchRunner)  # somebody's module stands for itself
    if memory.in_blocks(max(sizes), judge.baseline, judge.limit, subject.input_shape) and len(sizes) > 1:
        sizes = (1,)
        notes.append("the golden vectors are of one image alone, for the memory that more of them take")
    truths = []
    for case in made_up_cases(subject.input_shape, sizes, 1, options.seed):
        if case.kind == "ordinary" and not case.degenerate:
            say(f" PyTorch in float64, {case.name}")
            truths.append(judge.truth(case))
    return Kept(tuple(truths), tuple(judge.warnings), (*notes, *memory.all_notes()))
