"""Trained model folders → what right and wrong ways to fewer bits lose, and whether the guard tells them apart."""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

import aaexport
from aaexport.folder import checkout, tool_versions
from aaexport.graph.files import read_onnx, summarize
from aaexport.graph.precision.float16 import to_float16
from aaexport.graph.precision.int8 import to_int8
from aaexport.graph.precision.observe import observe
from aaexport.graph.precision.weight_types import WeightType
from aaexport.load.machine import MachineWatch
from aaexport.parity.guard import GuardReport
from aaexport.parity.thresholds import AT_LEAST, THRESHOLDS, Measure, shown
from aaexport.pipeline.reduce.calibrate import ranges_of
from aaexport.pipeline.reduce.images import gather_images
from aaexport.pipeline.reduce.options import ReduceOptions
from aaexport.pipeline.subject.subject import as_subject
from aaexport.pipeline.verify.guarded import Guard
from aaexport.writing import write_json

SCHEMA = "aaexport.guard-thresholds/1"
MEASURES: tuple[Measure, ...] = ("SQNR", "KL", "top-1", "optimizer", "weights", "activations", "worst activation")
COLUMNS = ("network", "way", "should", *MEASURES, "accuracy", "float32", "guard")


@dataclass(frozen=True)
class Way:
    """One way to fewer bits; `make` writes it: (float32 file, calibration images, place) → file.

    `is_right` is None where the CPU decides; `seed` chooses the images.
    """

    name: str
    kind: str
    is_right: bool | None
    make: Callable[[Path, np.ndarray, Path], None]
    seed: int = 0


@dataclass(frozen=True)
class Found:
    """What came of a way: the worst value of each measure, accuracies and the guard's verdict on so many images."""

    network: str
    way: str
    kind: str
    is_right: bool | None
    images: int
    worst: dict[Measure, float]
    accuracy: float | None
    float32: float | None
    passed: bool
    failures: tuple[str, ...]


def ours(
    kind: str, *, noise: bool = False, symmetric: bool = False, weights: WeightType = "uint8"
) -> Callable[[Path, np.ndarray, Path], None]:
    """aaexport's own pass; calibrated on noise where that is asked for."""

    def make(source: Path, images: np.ndarray, place: Path) -> None:
        observed = observe(read_onnx(source), kind)
        seen = np.random.default_rng(0).standard_normal(images.shape, np.float32) if noise else images
        ranges = ranges_of(observed, seen, None)
        whole = (
            to_float16(observed.model, ranges)
            if kind == "float16"
            else to_int8(observed.model, ranges, symmetric=symmetric, weights=weights)
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
    *operators: str, signed: bool = False, reduced: bool = False, per_channel: bool = True
) -> Callable[[Path, np.ndarray, Path], None]:
    """onnxruntime's own, on these operators or on all that it knows; activations are unsigned.

    Weights are `signed` or not, and `reduced` to seven bits.
    """

    def make(source: Path, images: np.ndarray, place: Path) -> None:
        (port,) = onnx.load(source).graph.input
        quantize_static(
            source,
            place,
            Images(port.name, images),
            op_types_to_quantize=list(operators) or None,
            per_channel=per_channel,
            reduce_range=reduced,
            weight_type=QuantType.QInt8 if signed else QuantType.QUInt8,
            activation_type=QuantType.QUInt8,
        )

    return make


WAYS = (
    Way("float16, ours", "float16", True, ours("float16")),
    Way("int8, ours", "int8", True, ours("int8")),
    Way("int8, ours, other images", "int8", True, ours("int8"), seed=1),
    Way("int8 symmetric, ours", "int8", True, ours("int8", symmetric=True)),
    Way("int8 symmetric, ours, other images", "int8", True, ours("int8", symmetric=True), seed=1),
    Way("int8 convolutions, onnxruntime's", "int8", True, quantizer("Conv")),
    # Signed weights are added up in 16 bits by CPUs without VNNI, and saturate there, unless they have seven bits.
    Way("int8 convolutions, signed, onnxruntime's", "int8", None, quantizer("Conv", signed=True)),
    Way("int8, signed weights, ours", "int8", None, ours("int8", weights="int8")),
    Way("int8, weights of seven bits, ours", "int8", None, ours("int8", weights="int7")),
    Way("int8 everything, onnxruntime's", "int8", False, quantizer(per_channel=False)),
    Way("int8 calibrated on noise", "int8", False, ours("int8", noise=True)),
    Way("int8 symmetric, calibrated on noise", "int8", False, ours("int8", noise=True, symmetric=True)),
)


def tried(model: str, place: Path) -> Iterator[Found]:
    """Every way, for one network; its model.onnx is made where it is missing. `place` is for files in between."""
    folder = checkout(model)
    if not folder.onnx_path.is_file():
        aaexport.convert(folder)
    subject, macs = as_subject(folder), summarize(folder.onnx_path).macs
    guards = {}
    for way in WAYS:
        calibration, evidence = gather_images(subject, ReduceOptions(way.kind, seed=way.seed), macs)
        if way.kind not in guards:
            guards[way.kind] = Guard(subject, way.kind, folder.onnx_path, evidence, macs, None)
        path = place / "tried.onnx"
        way.make(folder.onnx_path, calibration.images, path)
        yield figures(folder.name, way, len(evidence.images), guards[way.kind].report(path))


def figures(network: str, way: Way, images: int, report: GuardReport) -> Found:
    """What the guard says, in numbers."""
    of = report.accuracy
    shares = (None, None) if of is None else (of.reduced / of.images, of.float32 / of.images)
    return Found(
        network, way.name, way.kind, way.is_right, images, report.worst, *shares, report.passed, report.failures
    )


def line(found: Found) -> tuple[str, ...]:
    """For `COLUMNS`."""
    should = {True: "pass", False: "fail", None: "–"}[found.is_right]
    shares = ("–" if share is None else f"{share:.2%}" for share in (found.accuracy, found.float32))
    measured = (shown(measure, found.worst.get(measure)) for measure in MEASURES)
    return (found.network, found.way, should, *measured, *shares, "passes" if found.passed else "fails")


def margins(every: list[Found]) -> Iterator[str]:
    """Each threshold between the worst right file and the best wrong one; a wrong one need break but one of them."""
    for (measure, kind), threshold in THRESHOLDS.items():
        sides = {
            is_right: [one.worst[measure] for one in every if matches(one, kind, is_right) and measure in one.worst]
            for is_right in (True, False)
        }
        worst, best = (min, max) if measure in AT_LEAST else (max, min)
        right, wrong = (
            shown(measure, choose(values) if values else None)
            for choose, values in ((worst, sides[True]), (best, sides[False]))
        )
        yield f"{kind} {measure}: right files to {right}, bound {shown(measure, threshold.bound)}, wrong ones {wrong}"


def matches(found: Found, kind: str, is_right: bool) -> bool:
    return found.kind == kind and found.is_right is is_right


def has_vnni() -> bool | None:
    """Whether the CPU adds products of 8 bits in 32; None where the system does not tell."""
    info = Path("/proc/cpuinfo")
    return "vnni" in info.read_text() if info.is_file() else None


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
                print(" | ".join(line(found)), flush=True)
                every.append(found)
    if asked.json is not None:
        files = [asdict(found) for found in every]
        machine = {"cpu": MachineWatch().environment().cpu, "vnni": has_vnni(), "tools": tool_versions()}
        write_json(asked.json, {"schema": SCHEMA, **machine, "files": files})
    print(*margins(every), sep="\n")
    told = [one for one in every if one.is_right is not None]
    wrong = [f"{one.network}: {one.way}" for one in told if one.passed != one.is_right]
    judged = f"{len(told) - len(wrong)} of {len(told)} as they should"
    print(judged + (f"; not so: {', '.join(wrong)}" if wrong else ""))


if __name__ == "__main__":
    main()
