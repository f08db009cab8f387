"""BenchReport → what each contender lost of float32 beside its speed, and what the guard said of its file."""

from __future__ import annotations

from collections.abc import Iterator

from aaexport.load.measurement import BenchReport, GuardRecord, Loss
from aaexport.parity.thresholds import REDUCED
from aaexport.report.bench.wording import number, ratio

LOSSES = ("loss beside speed", "kind", "p50, ms", "÷ ours", "SQNR", "same class", "accuracy", "guard")
LAYERS = ("layer", "its weight, dB", "what it computes, dB")
TOO_MUCH = "TOO MUCH"
UNKNOWN = "–"


def losses(report: BenchReport) -> list[tuple[str, ...]]:
    """For `LOSSES`, the measured file first; none where all compute in float32 and are the same network."""
    if report.loss is None:
        return []
    p50 = next((number(found.value) for found in report.percentiles if found.p == 50), UNKNOWN)
    ours = report.label if report.service is None else "the service"
    rows = [_row(ours, p50, "1", report.loss)]
    rows += [_row(other.label, number(other.p50), ratio(other.ratio), other.loss) for other in report.comparisons]
    return rows


def losses_legend(report: BenchReport) -> Iterator[str]:
    """What the columns of `losses` mean; nothing where there are none."""
    if report.loss is None:
        return
    beside = f"{report.loss.images} samples against those of {report.loss.against}"
    yield f"SQNR and same class: of the answers to {beside}; ties aside"
    counts = {each.accuracy_images for each in _all(report) if each.accuracy_images is not None}
    if counts:
        images = " and ".join(f"{count:,}" for count in sorted(counts))
        yield f"accuracy: on {images} labelled images, as the guard saw it when the file was judged"
    if any(each.within is None and each.kind in REDUCED for each in _all(report)):
        yield "guard –: noise cannot judge int8"


def db(value: float | None) -> str:
    """With the unit; a number that is finite in float32 alone is the end of any signal."""
    if value is None:
        return "the same"
    return f"{value:.1f} dB" if value > float("-inf") else "NaN, inf"


def guard(found: GuardRecord) -> str:
    """What a file that passed its guard had lost then."""
    lost = f"{found.kind}, SQNR {db(found.sqnr_db)}, on {found.data}"
    if found.images is None or found.float32 is None or found.reduced is None:
        return lost
    shares = [f"{100 * right / found.images:.2f} %" for right in (found.float32, found.reduced)]
    return f"{lost}; accuracy {shares[0]} → {shares[1]} of {found.images:,}"


def kept(report: BenchReport) -> str | None:
    """What stayed in float32, and why; None where nothing did."""
    if report.card is None or not report.card.kept:
        return None
    return "; ".join(f"{each.layer}: {each.reason}" for each in report.card.kept)


def layer_rows(found: GuardRecord) -> list[tuple[str, str, str]]:
    """For `LAYERS`."""
    return [(each.layer, _plain_db(each.weight_db), _plain_db(each.activation_db)) for each in found.layers]


def _plain_db(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.1f}"


def _row(label: str, p50: str, times: str, lost: Loss | None) -> tuple[str, ...]:
    if lost is None:
        return (label, UNKNOWN, p50, times, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN)
    verdict = UNKNOWN if lost.within is None else "passes" if lost.within else TOO_MUCH
    same = UNKNOWN if lost.same_class is None else f"{100 * lost.same_class:.1f} %"
    right = UNKNOWN if lost.accuracy is None else f"{100 * lost.accuracy:.2f} %"
    return (label, lost.kind, p50, times, db(lost.sqnr_db), same, right, verdict)


def _all(report: BenchReport) -> Iterator[Loss]:
    yield from (each for each in (report.loss, *(other.loss for other in report.comparisons)) if each is not None)
