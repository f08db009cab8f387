"""(float32 file, model, options) → the same in float16 or int8, which gets its name once the guard has passed it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from aaexport.errors import ParityError, first_few
from aaexport.graph.files import OnnxModel, file_digest, read_data_files, read_onnx, summarize_model
from aaexport.graph.metadata import provenance_of, read_metadata
from aaexport.graph.on_cuda import foresee
from aaexport.graph.outside import Room
from aaexport.graph.precision.float16 import to_float16
from aaexport.graph.precision.int8 import to_int8
from aaexport.graph.precision.kinds import record_origin, require_float32
from aaexport.graph.precision.observe import observe
from aaexport.graph.precision.ranges import Ranges
from aaexport.graph.precision.reduced import Layer, Reduced, asked_to_stay
from aaexport.graph.precision.switches import switchable
from aaexport.graph.precision.weight_types import WeightType
from aaexport.graph.write import new_onnx
from aaexport.parity import ParityReport
from aaexport.parity.thresholds import THRESHOLDS
from aaexport.pipeline.reduce.calibrate import ranges_of
from aaexport.pipeline.reduce.images import Calibration, gather_images
from aaexport.pipeline.reduce.options import ReduceOptions
from aaexport.pipeline.reduce.ranking import Answers, LayerCost, kept_db, ranked, ranked_at_once
from aaexport.pipeline.subject.facts import Facts
from aaexport.pipeline.verify.feeding import fixed_batch
from aaexport.pipeline.verify.guarded import Guard
from aaexport.pipeline.verify.options import VerifyOptions
from aaexport.pipeline.verify.reduced import judge_reduced
from aaexport.results import ConvertResult, KeptLayer
from aaexport.runners.ort_settings import DEFAULTS, EXACT_SUMS, SessionSettings
from aaexport.writing import check_writable

Say = Callable[[str], None]
SATURATED = (
    "onnxruntime adds products with signed weights of 8 bits in 16 bits on this CPU; take --weight-type uint8 or int7"
)
SATURATION = 1.0  # dB that are lost by it; sums that fit into 16 bits are the same to the last
NAMED = 3  # layers that an error names
RANKED_ON = 8  # images
RANKED_MACS = 9e9  # of these images together, once for each layer: half a second each on one core
# What a float16 file computes much in, or sums up: other operators move or compare numbers, and lose nothing alone.
COSTLY = ("Conv", "Gemm", "MatMul", "Einsum", "Attention", "Softmax", "ReduceMean", "AveragePool")


def reduce_file(
    facts: Facts,
    source: Path,
    destination: Path,
    options: ReduceOptions,
    say: Say = lambda step: None,
    *,
    stays: bool = True,
) -> ConvertResult:
    """Writes the float32 file `source` of the model in fewer bits to `destination`.

    The new file names the one that it was made of if that `stays` beside it.

    Raises:
        ArgumentError: an option breaks its rule, or `keep` names no layer that would be reduced.
        DataError: there are no images to calibrate on, or they do not fit.
        GraphError: the file is no float32 file, or a tensor is not finite on calibration.
        ParityError: the guard does not pass it; an older file at `destination` is untouched.
        FolderError: `destination` cannot be written.
    """
    began = time.perf_counter()
    options.check()
    check_writable(destination)
    with Room.beside(destination) as room:
        job = _job(facts, source, destination, options, say, stays, room)
        written, kept = _written(job)
        ranked_ones = {layer.node for layer in kept}
        others = tuple(layer for layer in _as_asked(written.reduced) if layer.node not in ranked_ones)
        return job.result(written, (*others, *kept), time.perf_counter() - began)


def _written(job: _Job) -> tuple[_Written, tuple[KeptLayer, ...]]:
    """The file in its place, and the layers that were kept for it. ParityError as `reduce_file`."""
    options = job.options
    reduced = job.converted(() if options.is_auto else options.keep)
    try:
        return job.write(reduced), ()
    except ParityError as error:
        if error.report.guard is None or error.report.guard.passed:
            raise
        if options.weight_type == "int8" and job.saturates(reduced):
            raise ParityError(f"{error}; {SATURATED}", error.report) from error
        job.say(f"ranking {len(job.candidates(reduced))} layers")
        costs = job.ranked(reduced)
        if not costs:
            raise
        if not options.is_auto:
            raise ParityError(f"{error}; {_worst(costs)}", error.report) from error
        return job.keep_until_right(costs, error)


class InEightBits(TypedDict):
    """Arguments of `to_int8` and `switchable`."""

    symmetric: bool
    weights: WeightType


@dataclass(frozen=True)
class _Written:
    """A file that has got its name."""

    reduced: Reduced
    parity: ParityReport
    bytes: int
    data: Path | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Job:
    """All that one file is made of and judged by."""

    facts: Facts
    source: Path
    stays: bool
    destination: Path
    options: ReduceOptions
    model: OnnxModel
    ranges: Ranges
    calibration: Calibration
    guard: Guard
    opset: int
    batch: int | None
    macs: int | None
    say: Say
    room: Room  # for what of a file that may get its name is above protobuf's 2 GiB

    def converted(self, keep: Collection[str], room: Room | None = None) -> Reduced:
        """The model with all reduced that can be, but for what is to be kept."""
        options, room = self.options, room or self.room
        if options.dtype == "float16":
            io_dtype, target = options.io_dtype, options.target
            return to_float16(self.model, self.ranges, keep=keep, io_dtype=io_dtype, target=target, room=room)
        return to_int8(self.model, self.ranges, keep=keep, room=room, **self.in_8_bits)

    @contextmanager
    def tried(self, keep: Collection[str]) -> Iterator[Reduced]:
        """As `converted`, to be looked at only: of many that are above 2 GiB the disk need hold but one."""
        with Room.beside(self.destination) as room:
            yield self.converted(keep, room)

    @property
    def in_8_bits(self) -> InEightBits:
        """What of the options is the pass's."""
        return {"symmetric": self.options.target == "cuda", "weights": self.options.weight_type or "uint8"}

    def candidates(self, reduced: Reduced) -> tuple[Layer, ...]:
        """The layers that are worth keeping."""
        if self.options.dtype == "int8":
            return reduced.reduced
        return tuple(layer for layer in reduced.reduced if layer.operator in COSTLY)

    def ranked(self, reduced: Reduced) -> tuple[LayerCost, ...]:
        """What each layer costs alone, the worst first; of those that are not to be kept anyway."""
        candidates = self.candidates(reduced)
        if self.options.dtype == "float16":
            return ranked(candidates, self.tried, self.few, self.say)
        nodes = {layer.node for layer in candidates}
        with Room.beside(self.destination) as room:
            switches = switchable(self.model, self.ranges, room=room, **self.in_8_bits)
            costs = ranked_at_once(switches, self.few, self.say, self.settings)
        return tuple(cost for cost in costs if cost.layer.node in nodes)

    @property
    def settings(self) -> SessionSettings:
        """How onnxruntime computes what the guard judges."""
        return EXACT_SUMS if self.options.target == "cuda" else DEFAULTS

    def saturates(self, reduced: Reduced) -> bool:
        """Whether the same file loses less where onnxruntime adds in 32 bits: on this CPU it then adds in 16."""
        in_16, in_32 = (kept_db(reduced, self.few, settings) for settings in (DEFAULTS, EXACT_SUMS))
        return in_32 > in_16 + SATURATION

    @property
    def few(self) -> Answers:
        """What float32 answers to a few images, for a ranking; of a large network to fewer."""
        return self.guard.first(RANKED_ON if not self.macs else max(1, min(RANKED_ON, int(RANKED_MACS / self.macs))))

    def write(self, reduced: Reduced) -> _Written:
        """The file in its place. ParityError, and none, if it is not right."""
        source = file_digest(self.source, read_data_files(self.source)) if self.stays else ""
        record_origin(reduced.model, source, self.calibration.about | self._seen())
        with new_onnx(self.destination) as new:
            new.write(reduced.model)
            written, data = new.bytes, new.data
            wanted = VerifyOptions(seed=self.options.seed, dtype=self.options.dtype)
            parity = judge_reduced(self.facts, new.path, wanted, self.guard, named=self.destination, say=self.say)
            if not parity.passed:
                rule = f"the guard failed and {self.destination} was not written: {parity.complaint}"
                raise ParityError(rule, parity)
        return _Written(reduced, parity, written, data, tuple(new.notes))

    def _seen(self) -> dict[str, dict[str, list[float]]]:
        """The ranges that grids were made for, so that a file can be held to them."""
        if self.options.dtype != "int8":
            return {}
        return {"ranges": {name: [seen.low, seen.high] for name, seen in self.ranges.items()}}

    def keep_until_right(
        self, costs: tuple[LayerCost, ...], nearest: ParityError
    ) -> tuple[_Written, tuple[KeptLayer, ...]]:
        """Keeps the costliest layers: one more each time until the SQNR is enough, then more; at last as few as do.

        Raises:
            ParityError: no number of them passes; it tells what came nearest.
        """
        kept: list[KeptLayer] = []
        failed = 0  # so many are not enough
        step, bound = 1, THRESHOLDS["SQNR", self.options.dtype].bound
        most = len(costs) - 1  # one in fewer bits at least, or it is the float32 file again
        while len(kept) < most:
            for cost in costs[len(kept) : min(len(kept) + step, most)]:
                names = [layer.node for layer in kept] + [cost.layer.node]
                with self.tried(names) as reduced:
                    kept.append(_kept(cost, kept_db(reduced, self.few, self.settings)))
            self.say(f" {len(kept)} layers in float32: {kept[-1].sqnr_db:.1f} dB")
            if (kept[-1].sqnr_db or 0.0) < bound and len(kept) < most:
                failed = len(kept)
                continue
            try:
                reduced = self.converted([layer.node for layer in kept])
                return self.fewest(self.write(reduced), kept, failed)
            except ParityError as error:
                nearest, failed, step = error, len(kept), 2 * step
        rule = f"no choice of layers passes the guard, and {self.destination} was not written"
        raise ParityError(f"{rule}; nearest came {nearest.report.complaint}", nearest.report) from nearest

    def fewest(
        self, written: _Written, kept: Sequence[KeptLayer], failed: int
    ) -> tuple[_Written, tuple[KeptLayer, ...]]:
        """The file with as few of the first of `kept` as pass: all do, and are written; `failed` of them do not."""
        enough = len(kept)
        while enough - failed > 1:
            middle = (enough + failed) // 2
            try:
                written, enough = self.write(self.converted([layer.node for layer in kept[:middle]])), middle
            except ParityError:
                failed = middle
        return written, tuple(kept[:enough])

    def result(self, written: _Written, kept: tuple[KeptLayer, ...], seconds: float) -> ConvertResult:
        """What is told of it."""
        model = written.reduced.model
        provenance = provenance_of(model)
        return ConvertResult(
            path=self.destination,
            opset=self.opset,
            decomposition="none" if provenance is None else provenance.decomposition,
            batch="dynamic" if self.batch is None else self.batch,
            operators=dict(Counter(node.op_type for node in model.graph.node).most_common()),
            bytes=written.bytes,
            seconds=seconds,
            parity=written.parity,
            notes=(*self.facts.notes, *self.calibration.notes, *written.notes),
            data_file=written.data,
            dtype=self.options.dtype,
            calibration=self.calibration.data,
            reduced=len(written.reduced.reduced),
            kept_layers=kept,
            on_cuda=foresee(model) if self.options.target == "cuda" else None,
        )


def _job(
    facts: Facts, source: Path, destination: Path, options: ReduceOptions, say: Say, stays: bool, room: Room
) -> _Job:
    say(f"reading {source}" if stays else "reading what was converted")
    model = read_onnx(source)
    require_float32(model, options.dtype)
    summary = summarize_model(model, source)
    provenance = read_metadata(summary.metadata)
    facts = facts.as_converted(with_attention=provenance is not None and provenance.with_attention)
    observed = observe(model, options.dtype)
    if not options.is_auto:
        asked_to_stay(options.keep, observed.reducible, options.dtype)  # a name that is none is said before the work
    calibration, evidence = gather_images(facts, options, summary.macs)
    batch = fixed_batch(summary)
    say(f"calibrating on {calibration.data}")
    # Who masks by infinity means it: float16 has it too, and 8 bits do not.
    infinite = options.dtype == "float16"
    ranges = ranges_of(observed, calibration.images, batch, say, infinite=infinite, names=calibration.names)
    guard = Guard(facts, options.dtype, source, evidence, summary.macs, batch, say)
    return _Job(
        facts,
        source,
        stays,
        destination,
        options,
        observed.model,
        ranges,
        calibration,
        guard,
        summary.opset,
        batch,
        summary.macs,
        say,
        room,
    )


def _as_asked(reduced: Reduced) -> list[KeptLayer]:
    """What the pass kept, and why."""
    return [KeptLayer(each.layer.path, each.layer.node, each.layer.operator, each.reason) for each in reduced.kept]


def _kept(cost: LayerCost, sqnr_db: float) -> KeptLayer:
    layer = cost.layer
    return KeptLayer(layer.path, layer.node, layer.operator, "it cost most", cost.sqnr_db, sqnr_db)


def _worst(costs: tuple[LayerCost, ...]) -> str:
    """What to do about the layers that cost most."""
    named = first_few(
        [f"{cost.layer.path or cost.layer.node} ({cost.sqnr_db:.1f} dB alone)" for cost in costs], NAMED
    )
    return f"most is lost by {named}; keep them in float32 with --keep PATH, or as few as it takes with --keep auto"
