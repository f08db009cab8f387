"""What a file in float16 or int8 must keep of float32, by measure and kind, and why: loads nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

ReducedKind = Literal["float16", "int8"]  # the kinds of files that are coarser than float32 on purpose
REDUCED: tuple[ReducedKind, ...] = get_args(ReducedKind)
Measure = Literal[
    "SQNR",
    "KL",
    "top-1",
    "top-5",
    "same",
    "accuracy",
    "not finite",
    "optimizer",
    "weights",
    "activations",
    "worst activation",
]
IN_DB: tuple[Measure, ...] = ("SQNR", "optimizer", "weights", "activations", "worst activation")
AT_LEAST: tuple[Measure, ...] = ("SQNR", "top-1", "top-5", "same", "optimizer")  # of the others, at most


@dataclass(frozen=True)
class Threshold:
    """What a measure must be at least, or at most (`AT_LEAST`), and why this number."""

    bound: float
    reason: str


THRESHOLDS: dict[tuple[Measure, ReducedKind], Threshold] = {
    ("SQNR", "float16"): Threshold(45.0, "10 bits of every number leave 56 to 63 dB; ten less is some other fault"),
    ("SQNR", "int8"): Threshold(22.0, "right files leave 24 to 40 dB; of those that do harm the best left 20.5"),
    ("KL", "float16"): Threshold(1e-4, "good files stay below 1e-5: probabilities that people read do not move"),
    ("KL", "int8"): Threshold(3.3e-3, "right files stay below 2.4e-3; those that do harm were above 5e-3"),
    ("top-1", "float16"): Threshold(0.995, "good files changed no answer of 359 that was none of a tie"),
    ("top-1", "int8"): Threshold(0.99, "right files changed up to 3 answers of 1,000; sums that saturate up to 86"),
    ("top-5", "float16"): Threshold(0.99, "the order of unlikely classes is decided by less than the likeliest"),
    ("top-5", "int8"): Threshold(0.98, "right files keep 99.6 %, but for ties; sums that saturate 93 to 96 %"),
    ("same", "float16"): Threshold(0.995, "positions, classes and masks, as top-1"),
    ("same", "int8"): Threshold(0.99, "positions, classes and masks, as top-1"),
    ("accuracy", "float16"): Threshold(0.005, "half a point: what people who deploy float16 expect of it"),
    ("accuracy", "int8"): Threshold(0.01, "a point: what people who deploy int8 accept"),
    ("not finite", "float16"): Threshold(0, "beyond 65504 float16 has infinity only, and a CPU may hide it"),
    ("not finite", "int8"): Threshold(0, "no integer is NaN: a scale is"),
    ("optimizer", "float16"): Threshold(45.0, "casts that the optimizer leaves out move answers by rounding only"),
    ("optimizer", "int8"): Threshold(25.0, "right files agree to 42 dB or better; saturating sums to 7 to 19"),
    ("weights", "float16"): Threshold(0.1, "each is the float32 number, rounded: there is no other way to be right"),
    ("weights", "int8"): Threshold(3.0, "each channel has the finest grid that holds it; 3 dB is half a bit"),
    ("activations", "int8"): Threshold(1.5, "on other images −0.4 to 0.9 dB; calibrated on noise 1.9 to 8.2"),
    ("worst activation", "int8"): Threshold(15.0, "a rare large number on one side alone moves one by up to 11 dB"),
}
FEW = 1  # images that may always differ: of few, a single one is a larger share than any threshold allows
SEEN = 32  # images, from where on others reach about as far as these do: right files have up to 1.2 dB
LEAST_SEEN = 8  # images: of fewer, a single one that shows nothing would tell the ranges
NARROWER = 0.75  # dB of the mean of activations, for half as many images: right files have up to 1.6 of 16, 2.2 of 8
CLEAR = 40.0  # dB of SQNR, from where on coarser grids than need be cost nothing that anybody sees
# Of the spread of an image's scores, within which two of them tie: twice the noise of 45 dB in float16, and of 25 in
# int8, where right files have more: an allowance that grew with what they may lose would hide what they lose.
TIED: dict[ReducedKind, float] = {"float16": 0.0112, "int8": 0.112}


def shown(measure: Measure, value: float | None) -> str:
    """A value with its unit."""
    if value is None:
        return "–"
    if measure in IN_DB:
        return f"{value:.1f} dB"
    if measure == "KL":
        return f"{value:.1e}"
    if measure == "not finite":
        return f"{value:.0f}"
    return f"{100 * value:.2f} %" if measure != "accuracy" else f"{100 * value:.2f} points"
