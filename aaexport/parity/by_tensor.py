"""What single tensors of a reduced file have lost → rows of the guard: is each held as well as its bits can?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from aaexport.errors import first_few
from aaexport.parity.cases import Array
from aaexport.parity.guard import GuardRow, TensorLoss, guard_row
from aaexport.parity.thresholds import CLEAR, LEAST_SEEN, NARROWER, SEEN, Measure, ReducedKind, shown

NAMED = 3  # tensors that are told by name


def tensor_rows(
    kind: ReducedKind, tensors: Sequence[TensorLoss], sqnr_db: float | None, images: int
) -> Iterator[GuardRow]:
    """The worst weight, the worst activation, and all activations together: one may be off by a rare number.

    All together count where they cost something: not where the answers have an SQNR above `CLEAR`. The finest grid of
    an activation is that of `images` different ones. Of fewer it is narrower than that of others, for which more is
    allowed; of very few it tells nothing.
    """
    constants = [one for one in tensors if one.what != "activation"]
    computed = [one for one in tensors if one.what == "activation"]
    if constants:
        yield _of_worst("weights", kind, constants, 0)
    if computed:
        few = images < LEAST_SEEN
        why = f"not judged: at least {LEAST_SEEN} different images tell ranges, got {images}" if few else ""
        yield _excused(_of_worst("worst activation", kind, computed, images), why)
        mean = sum(one.excess_db for one in computed) / len(computed)
        row = _with_room(_of_tensors("activations", kind, f"all {len(computed)}, mean", mean, images))
        is_clear = sqnr_db is None or sqnr_db > CLEAR
        clear = f"not judged: the answers keep {shown('SQNR', sqnr_db)}" if is_clear else ""
        yield _excused(row, why or clear)


def _of_worst(measure: Measure, kind: ReducedKind, tensors: Sequence[TensorLoss], images: int) -> GuardRow:
    worst = max(tensors, key=lambda one: one.excess_db)
    where = f"{worst.what} {worst.tensor} of {worst.path or worst.node}"
    return _of_tensors(measure, kind, where, worst.excess_db, images)


def _of_tensors(measure: Measure, kind: ReducedKind, where: str, value: float, images: int) -> GuardRow:
    return _judged(guard_row(measure, kind, where, "the file", "the finest grid", value, images, True, ""))


def _with_room(row: GuardRow) -> GuardRow:
    """The row, with more that is allowed where its images are few."""
    if row.images >= SEEN:
        return row
    room = NARROWER * math.log2(SEEN / max(row.images, 1))
    detail = f"{room:.1f} dB of what is allowed because {row.images} images reach less far than others"
    return _judged(replace(row, bound=row.bound + room, detail=detail))


def _judged(row: GuardRow) -> GuardRow:
    assert row.value is not None
    return replace(row, passed=row.value <= row.bound, margin=row.bound - row.value)


def lone_row(kind: ReducedKind, names: Sequence[str]) -> GuardRow:
    """Tensors that nothing could be compared with: it passes, and tells them."""
    detail = f"not compared with the float32 file, which does not tell them: {first_few(names, NAMED)}"
    return guard_row("weights", kind, "single tensors", "the file", "the float32 file", None, 0, True, "").excused(
        detail
    )


def _excused(row: GuardRow, why: str) -> GuardRow:
    """The row, which passes where there is a reason not to judge it; but not if all is lost."""
    return row.excused(why) if why and row.value != math.inf else row


def excess_db(noise: Array | float, least: Array | float) -> float:
    """How much more noise there is than need be, in dB; of several the most. 0 where both are nothing.

    Noise that is infinite or NaN is more than any.
    """
    some, need = np.asarray(noise, np.float64), np.asarray(least, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(np.isfinite(some), np.where(some > 0, some / need, 1.0), np.inf)
    worst = float(ratios.max(initial=0.0))
    return 10 * math.log10(worst) if worst > 0 else 0.0
