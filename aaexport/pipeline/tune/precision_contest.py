"""(model folder, how it is queried) → its files in float32, int8 and float16, measured in turns, and the one to take.

Each file is what `convert` writes: float32 with the layers' tuned choices, the others made of it, calibrated and
guarded, with as few layers in float32 as that takes. The whole network is measured, in turns, by serve-bench's own
session, which compares every answer. A file of fewer bits is taken only if its guard passes it, if it classifies no
more held-out images wrongly than the user allows, and if it is faster beyond doubt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from aaexport.device import Target, parse_device
from aaexport.errors import DataError, GraphError, ParityError
from aaexport.folder import Dtype, ModelFolder
from aaexport.load.contest import MARGIN
from aaexport.load.measurement import BenchReport, Comparison
from aaexport.load.statistics import Ratio
from aaexport.parity.guard import GuardReport
from aaexport.pipeline.bench.launches import Tick
from aaexport.pipeline.bench.options import BenchOptions
from aaexport.pipeline.bench.serve_bench import measured
from aaexport.pipeline.convert.convert import convert
from aaexport.pipeline.reduce.options import AUTO
from aaexport.results import PrecisionCandidate, TunedPrecision

REFUSALS = (ParityError, DataError, GraphError)  # of one precision; the others go on
BLOCKS_SECONDS = 3  # times the duration of a layer's candidate: a network's blocks are longer than a layer's
WRITING_SHARE = 0.5  # of the time, by and large


@dataclass(frozen=True)
class Asked:
    """Under which the files are measured; `threads` is None for the runtime's default."""

    opset: int | None
    images: int
    device: str
    threads: int | None
    duration: float
    seed: int
    max_loss: float | None


def precision_contest(folder: ModelFolder, asked: Asked, tick: Tick) -> tuple[TunedPrecision, tuple[str, ...]]:
    """Writes the folder's files, measures them, and names the one to take; with notes on what was written.

    Raises:
        ParityError: the float32 file is not right.
        ExportError, GraphError, RunnerError: it cannot be written, or does not run.
        MeasurementError: a process died or hung.
    """
    on_gpu = parse_device(asked.device)[0] != "cpu"
    dtypes: tuple[Dtype, ...] = ("float32", "int8", "float16") if on_gpu else ("float32", "int8")
    written: dict[Dtype, PrecisionCandidate] = {}
    images: int | None = None
    for number, dtype in enumerate(dtypes):
        tick(f"writing the {dtype} file", WRITING_SHARE * number / len(dtypes))
        written[dtype], guard = _written(folder, dtype, asked, on_gpu)
        if guard is not None and guard.accuracy is not None:
            images = guard.accuracy.images
            accuracy = guard.accuracy.float32 / guard.accuracy.images
            written["float32"] = replace(written["float32"], accuracy=accuracy)
    rivals = [dtype for dtype in dtypes[1:] if written[dtype].failure is None]
    report = _measured(
        folder, rivals, asked, lambda step, share: tick(step, WRITING_SHARE + share * (1 - WRITING_SHARE))
    )
    found = TunedPrecision(*_chosen(written, report), asked.max_loss, images)
    names = [folder.onnx_of(dtype).name for dtype in dtypes if written[dtype].bytes is not None]
    notes = (
        f"{', '.join(names)} {'were' if len(names) > 1 else 'was'} written with these choices",
        *(f"the contest: {reason}" for reason in report.reasons),
    )
    return found, notes


def _written(
    folder: ModelFolder, dtype: Dtype, asked: Asked, on_gpu: bool
) -> tuple[PrecisionCandidate, GuardReport | None]:
    """The file, and what its guard found; a candidate that has failed where it does not pass."""
    target: Target = "cuda" if on_gpu else "cpu"
    if dtype == "float32":
        done = convert(folder, opset=asked.opset, target=target, seed=asked.seed)
        return PrecisionCandidate(dtype, done.bytes), None
    try:
        done = convert(folder, dtype=dtype, keep=(AUTO,), opset=asked.opset, target=target, seed=asked.seed)
    except REFUSALS as error:
        return PrecisionCandidate(dtype, failure=str(error)), None
    assert done.parity is not None
    assert done.parity.guard is not None
    guard = done.parity.guard
    candidate = PrecisionCandidate(dtype, done.bytes, sqnr_db=guard.sqnr_db, kept=done.kept_layers)
    if guard.accuracy is not None:
        of = guard.accuracy
        candidate = replace(candidate, accuracy=of.reduced / of.images, lost=(of.float32 - of.reduced) / of.images)
    return replace(candidate, failure=_too_much(candidate, asked.max_loss)), guard


def _too_much(candidate: PrecisionCandidate, max_loss: float | None) -> str | None:
    """Why it loses more than the user allows, or nobody can tell; None if it does not."""
    if max_loss is None:
        return None
    if candidate.lost is None:
        return "no labelled images at hand tell how much accuracy it loses"
    if candidate.lost <= max_loss:
        return None
    return f"it loses {100 * candidate.lost:.2f} points of accuracy, and {100 * max_loss:g} are allowed"


def _measured(folder: ModelFolder, rivals: Sequence[Dtype], asked: Asked, tick: Tick) -> BenchReport:
    """The float32 file and its rivals in turns; nothing of it is kept in the folder but what the tuning says."""
    several = asked.images > 1
    options = BenchOptions(
        scenario="multi-stream" if several else "single-stream",
        samples_per_query=asked.images if several else None,
        device=asked.device,
        duration=BLOCKS_SECONDS * asked.duration,
        batches=(asked.images,),
        threads=asked.threads,
        compare=tuple(rivals),
        seed=asked.seed,
    )
    report, _, _ = measured(folder, options, tick)
    return report


def _chosen(
    written: Mapping[Dtype, PrecisionCandidate], report: BenchReport
) -> tuple[Dtype, tuple[PrecisionCandidate, ...]]:
    """The fastest of those that may be taken, and all with what was measured of them."""
    p50 = next((entry.value for entry in report.percentiles if entry.p == 50), None)
    others = {other.name: other for other in report.comparisons}
    found = [replace(written["float32"], p50=p50)]
    found += [_with_times(one, others.get(dtype)) for dtype, one in written.items() if dtype != "float32"]
    faster = [(one.ratio.median, one.dtype) for one in found if one.ratio is not None and may_be_taken(one)]
    return min(faster)[1] if faster else "float32", tuple(found)


def _with_times(candidate: PrecisionCandidate, other: Comparison | None) -> PrecisionCandidate:
    if other is None:
        return candidate
    failure = candidate.failure
    if other.same_answers is False:
        failure = "its answers lost more of float32 than its guard allows while it was measured"
    return replace(candidate, p50=other.p50, ratio=other.ratio, note=other.withheld, failure=failure)


def may_be_taken(candidate: PrecisionCandidate) -> bool:
    """Whether it is right, and faster than float32 beyond doubt: by 5 % in the median, and at its interval's end."""
    if candidate.failure is not None or candidate.ratio is None:
        return False
    return candidate.ratio.median <= 1 / MARGIN and _slowest(candidate.ratio) < 1


def _slowest(ratio: Ratio) -> float:
    """The end of the 95 % interval, or of the range where there are too few pairs for one."""
    return ratio.highest if ratio.high is None else ratio.high
