"""Trained model folders → what right and wrong ways to fewer bits lose, and whether the guard tells them apart."""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

import aaexport
from aaexport.folder import checkout
from aaexport.graph.files import read_onnx, summarize
from aaexport.graph.precision.float16 import to_float16
from aaexport.graph.precision.int8 import to_int8
from aaexport.graph.precision.observe import observe
from aaexport.parity.guard import GuardReport
from aaexport.parity.thresholds import Measure
from aaexport.pipeline.reduce.calibrate import ranges_of
from aaexport.pipeline.reduce.images import gather_images
from aaexport.pipeline.reduce.options import ReduceOptions
from aaexport.pipeline.subject.subject import as_subject
from aaexport.pipeline.verify.guarded import Guard

COLUMNS = ("network", "way", "should", "SQNR, dB", "KL", "top-1", "accuracy", "float32", "guard")


@dataclass(frozen=True)
class Way:
    """One way to fewer bits; `make` writes it: (float32 file, calibration images, place) → file.

    `is_right` is None where the CPU decides.
    """

    name: str
    kind: str
    is_right: bool | None
    make: Callable[[Path, np.ndarray, Path], None]


@dataclass(frozen=True)
class Found:
    """What came of a way: the least SQNR, the largest KL, the least agreement, accuracies, the guard's verdict."""

    network: str
    way: str
    is_right: bool | None
    sqnr_db: float | None
    kl: float | None
    top_1: float | None
    accuracy: float | None
    float32: float | None
    passed: bool
    failures: tuple[str, ...]


def ours(kind: str, *, noise: bool = False, symmetric: bool = False) -> Callable[[Path, np.ndarray, Path], None]:
    """aaexport's own pass; calibrated on noise where that is asked for."""

    def make(source: Path, images: np.ndarray, place: Path) -> None:
        observed = observe(read_onnx(source), kind)
        seen = np.random.default_rng(0).standard_normal(images.shape, np.float32) if noise else images
        ranges = ranges_of(observed, seen, None)
        whole = (
            to_float16(observed.model, ranges)
            if kind == "float16"
            else to_int8(observed.model, ranges, symmetric=symmetric)
        )
        onnx.save(whole.model, place)

    return make


class Images(CalibrationDataReader):
    """Calibration images, one by one, as onnxruntime's quantizer asks for them."""

    def __init__(self, name: str, images: np.ndarray) -> None:
        self._feeds = iter([{name: image[None]} for image in images])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next one; None at the end."""
        return next(self._feeds, None)


def quantizer(
    *operators: str, signed: bool = False, per_channel: bool = True
) -> Callable[[Path, np.ndarray, Path], None]:
    """onnxruntime's own, on these operators or on all that it knows; activations are unsigned."""

    def make(source: Path, images: np.ndarray, place: Path) -> None:
        (port,) = onnx.load(source).graph.input
        quantize_static(
            source,
            place,
            Images(port.name, images),
            op_types_to_quantize=list(operators) or None,
            per_channel=per_channel,
            weight_type=QuantType.QInt8 if signed else QuantType.QUInt8,
            activation_type=QuantType.QUInt8,
        )

    return make


WAYS = (
    Way("float16, ours", "float16", True, ours("float16")),
    Way("int8, ours", "int8", True, ours("int8")),
    Way("int8 symmetric, ours", "int8", True, ours("int8", symmetric=True)),
    Way("int8 convolutions, onnxruntime's", "int8", True, quantizer("Conv")),
    # Signed weights are added up in 16 bits by CPUs without VNNI, and saturate there.
    Way("int8 convolutions, signed, onnxruntime's", "int8", None, quantizer("Conv", signed=True)),
    Way("int8 everything, onnxruntime's", "int8", False, quantizer(per_channel=False)),
    Way("int8 calibrated on noise", "int8", False, ours("int8", noise=True)),
)


def tried(model: str, place: Path) -> Iterator[Found]:
    """Every way, for one network; its model.onnx is made where it is missing. `place` is for files in between."""
    folder = checkout(model)
    if not folder.onnx_path.is_file():
        aaexport.convert(folder)
    subject, macs = as_subject(folder), summarize(folder.onnx_path).macs
    guards = {}
    for way in WAYS:
        calibration, evidence = gather_images(subject, ReduceOptions(way.kind), macs)
        if way.kind not in guards:
            guards[way.kind] = Guard(subject, way.kind, folder.onnx_path, evidence, macs, None)
        path = place / "tried.onnx"
        way.make(folder.onnx_path, calibration.images, path)
        yield figures(folder.name, way, guards[way.kind].report(path))


def figures(network: str, way: Way, report: GuardReport) -> Found:
    """The worst of each measure."""

    def worst(measure: Measure, choose: Callable[..., float]) -> float | None:
        values = [row.value for row in report.rows if row.measure == measure and row.value is not None]
        return choose(values) if values else None

    of = report.accuracy
    shares = (None, None) if of is None else (of.reduced / of.images, of.float32 / of.images)
    measured = (report.sqnr_db, worst("KL", max), worst("top-1", min))
    return Found(network, way.name, way.is_right, *measured, *shares, report.passed, report.failures)


def row(found: Found) -> tuple[str, ...]:
    """For `COLUMNS`."""

    def shown(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    should = {True: "pass", False: "fail", None: "–"}[found.is_right]
    verdict = "passes" if found.passed else "fails"
    return (
        found.network, found.way, should, shown(found.sqnr_db, ".1f"), shown(found.kl, ".1e"),
        shown(found.top_1, ".2%"), shown(found.accuracy, ".2%"), shown(found.float32, ".2%"), verdict,
    )  # fmt: skip


def main() -> None:
    """Prints a table, a line as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", help="trained model folders, or zoo names")
    parser.add_argument("--json", type=Path, help="keep the figures in this file")
    asked = parser.parse_args()
    print(" | ".join(COLUMNS))
    every = []
    for model in asked.models:
        with tempfile.TemporaryDirectory() as place:
            for found in tried(model, Path(place)):
                print(" | ".join(row(found)), flush=True)
                every.append(asdict(found))
    if asked.json is not None:
        asked.json.write_text(json.dumps(every, indent=2) + "\n")
    told = [one for one in every if one["is_right"] is not None]
    wrong = [f"{one['network']}: {one['way']}" for one in told if one["passed"] != one["is_right"]]
    print(
        f"{len(told) - len(wrong)} of {len(told)} as they should" + (f"; not so: {', '.join(wrong)}" if wrong else "")
    )


if __name__ == "__main__":
    main()
