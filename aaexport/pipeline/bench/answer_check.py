"""Contenders → what their answers are compared with while they are measured, and whether they answer alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aaexport.pipeline.bench.contender import Contender
from aaexport.pipeline.bench.feeding import ANSWERS_AGREE, disagreement, relative_error
from aaexport.pipeline.bench.rival_names import is_other_model
from aaexport.pipeline.bench.worker_models import WorkerSpec

TRUTH_BATCH = 8
THE_FILES_OWN = "the file's own, in small batches"


@dataclass(frozen=True)
class Truth:
    """Expected answers, in `path`.

    `against` says whose they are; `fault` is why a measurement cannot be valid, and `notes` what cannot be seen.
    """

    path: Path
    against: str
    fault: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether no output has an entry for each sample."""
        with np.load(self.path) as expected:
            return not expected.files


def expected_answers(
    ours: Contender, eager: Contender | None, torch: WorkerSpec | None, count: int, fixed: int | None, path: Path
) -> Truth:
    """What PyTorch answers to the samples, by the process `eager` or by one that is gone before the measurement.

    Without PyTorch, if `torch` is None, it is what the file itself answers in small batches: then queries that got
    each other's answers are found, a wrong file is not.
    """
    batch = fixed or TRUTH_BATCH
    if torch is None:
        return _truth(ours, THE_FILES_OWN, path, count, batch)
    if eager is not None:
        return _truth(eager, eager.label, path, count, batch)
    with Contender(torch) as other:
        return _truth(other, other.label, path, count, batch)


def agreement(
    name: str, rival: Contender, truth: Truth, count: int, fixed: int | None
) -> tuple[bool | None, str | None]:
    """Whether a rival answers as expected, None where it need not, being another model; and a note if it does not."""
    path = truth.path.with_name("answers.npz")
    rival.answers(path, count, fixed or TRUTH_BATCH)
    error = disagreement(path, truth.path)
    if error <= ANSWERS_AGREE:
        return True, None
    if is_other_model(name):
        return None, f"{name} answers otherwise ({error:.1e} of the largest output): another model"
    return False, None


def _truth(contender: Contender, against: str, path: Path, count: int, batch: int) -> Truth:
    told = contender.answers(path, count, batch)
    notes = [f"answers were compared for {told.count} of {count} samples"] if told.count < count else []
    if told.left_out:
        notes.append(f"not compared, having no entry for each sample: {', '.join(told.left_out)}")
    with np.load(path) as expected:
        if expected.files and told.count > 1 and _is_blind(expected):
            notes.append("expected answers hardly differ between samples: queries that got each other's go unseen")
    fault = None
    if not told.finite:
        fault = f"the answers of {against} must be finite, got NaN or infinity; look at `aaexport verify`"
    return Truth(path, against, fault, tuple(notes))


def _is_blind(expected: Mapping[str, np.ndarray]) -> bool:
    """Whether the answer to any sample would pass for that to the first."""
    return all(
        relative_error(array[number], array[0]) <= ANSWERS_AGREE
        for array in expected.values()
        for number in range(1, len(array))
    )
