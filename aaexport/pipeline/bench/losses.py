"""Two files of answers → what the one lost of the other, by the guard's measures, and where that is too much."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from aaexport.load.measurement import Loss
from aaexport.parity.guard import Losses
from aaexport.parity.thresholds import REDUCED, ReducedKind
from aaexport.pipeline.bench.feeding import paired

# By whose thresholds what has none of its own is measured; such a file is not judged.
LIKE: dict[str, ReducedKind] = {"float16": "float16", "int8": "int8", "quantized": "int8"}


@dataclass(frozen=True)
class Found:
    """A loss, and which of the guard's bounds it breaks, a line each."""

    loss: Loss
    failures: tuple[str, ...] = ()


def loss_of(
    name: str, kind: str, answers: Path, expected: Path, against: str, scores: frozenset[str] | None, *, judged: bool
) -> Found | None:
    """What a contender's answers lost of the expected ones; None where they cannot be compared.

    Args:
        name: of the contender.
        kind: what it computes in.
        answers, expected: two .npz, an array for each output with an entry for each sample.
        against: whose the expected answers are.
        scores: the outputs that are scores of classes; None for whichever look so.
        judged: whether the samples can judge it; only what the guard knows is.
    """
    pairs = paired(answers, expected)
    if not pairs:
        return None
    losses = Losses(LIKE.get(kind, "float16"), name, against, frozenset(pairs) if scores is None else scores)
    truths = {output: truth for output, (_, truth) in pairs.items()}
    losses.learn(truths, {output: given for output, (given, _) in pairs.items()})
    rows = tuple(losses.rows())
    if any(row.value is None and not row.passed for row in rows):
        return None
    lost = [row.value for row in rows if row.measure == "SQNR" and row.value is not None]
    same = [row.value for row in rows if row.measure == "top-1" and row.value is not None]
    finite = not any(row.value for row in rows if row.measure == "not finite")
    failures = tuple(row.complaint for row in rows if row.complaint is not None)
    is_judged = judged and kind in REDUCED
    loss = Loss(
        kind=kind,
        against=against,
        images=max(row.images for row in rows),
        sqnr_db=min(lost, default=None) if finite else -math.inf,
        same_class=min(same, default=None),
        within=not failures if is_judged else None,
    )
    return Found(loss, failures if is_judged else ())
