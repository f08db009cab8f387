"""Contenders → what their answers are compared with while they are measured, and whether they answer alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from aaexport.load.measurement import Loss
from aaexport.parity.thresholds import REDUCED
from aaexport.pipeline.bench.contender import OURS, Contender, blaming
from aaexport.pipeline.bench.feeding import ANSWERS_AGREE, disagreement, relative_error
from aaexport.pipeline.bench.losses import Found, loss_of
from aaexport.pipeline.bench.rival_names import IN_PROCESS, is_autocast, is_dtype, is_other_model
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


@dataclass(frozen=True)
class Terms:
    """By what contenders' losses are measured.

    Attributes:
        kinds: what each of them computes in, by name.
        scores: the outputs that are scores of classes; None for whichever look so.
        is_noise: whether the samples are images that nobody meant the network for: they cannot judge int8.
    """

    kinds: Mapping[str, str] = field(default_factory=lambda: {OURS: "float32"})
    scores: frozenset[str] | None = None
    is_noise: bool = True

    @property
    def reduced(self) -> bool:
        """Whether the measured file is in float16 or int8, and so answers not quite as float32."""
        return self.kinds[OURS] in REDUCED

    @property
    def differ(self) -> bool:
        """Whether a loss of the measured file's is of interest: beside what may lose another."""
        return any(kind != "float32" for kind in self.kinds.values()) or any(map(is_other_model, self.kinds))

    def loss(self, name: str, answers: Path, truth: Truth) -> Found | None:
        """Of the answers in that file; None where they cannot be compared."""
        kind = self.kinds.get(name, "float32")
        judged = kind == "float16" or not self.is_noise
        return loss_of(name, kind, answers, truth.path, truth.against, self.scores, judged=judged)


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


@dataclass(frozen=True)
class Agreement:
    """Whether a rival answers as expected, None where it need not or nobody can tell; notes; what it lost."""

    same: bool | None
    notes: tuple[str, ...] = ()
    loss: Loss | None = None


def agreement(name: str, path: Path, truth: Truth, terms: Terms) -> Agreement:
    """How a rival's answers, in `path`, are to the expected ones: in float16 or int8 as far as the guard asks."""
    found = terms.loss(name, path, truth)
    loss = None if found is None else found.loss
    is_of_its_kind = is_dtype(name) or is_autocast(name) or name == IN_PROCESS
    if is_of_its_kind and terms.kinds.get(name) in REDUCED:
        if found is None:
            return Agreement(False, (f"{name} answers with other outputs than {truth.against}",))
        return Agreement(found.loss.within, tuple(f"{name}: {line}" for line in found.failures), loss)
    error = disagreement(path, truth.path)
    if error <= ANSWERS_AGREE:
        return Agreement(True, loss=loss)
    if is_other_model(name):
        note = f"{name} answers otherwise ({error:.1e} of the largest output): another model"
        return Agreement(None, (note,), loss)
    return Agreement(False, loss=loss)


@dataclass(frozen=True)
class Asked:
    """Who is asked: the measured contender and its rivals, `count` samples each, of a file of that fixed batch.

    Files of answers go to `room`.
    """

    ours: Contender
    rivals: Mapping[str, Contender]
    terms: Terms
    count: int
    fixed: int | None
    room: Path


@dataclass
class Checked:
    """What came of asking all contenders.

    Attributes:
        expected: what the measured contender must answer while it is measured; None where nothing can be compared.
        loss: of the measured contender; None where that is of no interest, or not known.
        agreements: of its rivals.
        notes, reasons: what is to be said, and why the measurement is invalid.
    """

    expected: Truth | None = None
    loss: Loss | None = None
    agreements: dict[str, Agreement] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


def checked_answers(
    asked: Asked, float32: WorkerSpec | None, own: WorkerSpec | None, *, by_rival: bool = False
) -> Checked:
    """Asks everyone. A file in float16 or int8 must answer what it answers itself, in small batches, while it is
    measured, and that may have lost of float32 what the guard allows.

    Args:
        asked: whom, and what.
        float32: what is loaded to answer in float32, PyTorch where that can be; None where nobody can.
        own: the same for the file's own answers; None to ask the contender itself.
        by_rival: whether `eager` among the rivals answers for PyTorch.
    """
    found = Checked()
    eager = asked.rivals.get("eager") if by_rival else None
    truth = _expected(asked, eager, float32, "expected.npz", found)
    is_apart = asked.terms.reduced and float32 is not None
    own_answers = _expected(asked, None, own, "own.npz", found) if is_apart else truth
    if truth.is_empty or own_answers.is_empty:
        found.notes.append("answers were not compared: no output has an entry for each sample")
        return found
    found.expected, path = own_answers, asked.room / "answers.npz"
    if is_apart:
        _add_loss(found, asked.terms, own_answers.path, truth)
    elif asked.terms.differ:
        asked.ours.answers(path, asked.count, asked.fixed or TRUTH_BATCH)
        _add_loss(found, asked.terms, path, truth)
    for name, rival in asked.rivals.items():
        with blaming(name):
            rival.answers(path, asked.count, asked.fixed or TRUTH_BATCH)
            found.agreements[name] = agreement(name, path, truth, asked.terms)
        found.notes += found.agreements[name].notes
    return found


def _expected(asked: Asked, eager: Contender | None, spec: WorkerSpec | None, name: str, found: Checked) -> Truth:
    """Answers in a file of that name; what is to be said of them is added."""
    truth = expected_answers(asked.ours, eager, spec, asked.count, asked.fixed, asked.room / name)
    found.notes += truth.notes
    found.reasons += [] if truth.fault is None else [truth.fault]
    return truth


def _add_loss(found: Checked, terms: Terms, answers: Path, truth: Truth) -> None:
    """Of the measured contender, with why that is too much, or why nobody can tell."""
    measured, kind = terms.loss(OURS, answers, truth), terms.kinds[OURS]
    if measured is None:
        found.notes.append(f"what was lost is not known: {truth.against} answers with other outputs")
        return
    found.loss = measured.loss
    found.reasons += [f"{kind} must lose no more than its guard allows: {line}" for line in measured.failures]
    if terms.reduced and measured.loss.within is None:
        found.notes.append(f"noise cannot judge what {kind} has lost; `aaexport verify` judges the file by images")


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
