"""The record of a verification → what a page tells of it, in words for those who know none of this tool's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aaexport.parity.kept import least_sqnr

HELD_OUT, MADE_UP, GOLDEN = "held-out images", "made-up ones", "the images whose answers it was written with"
# Cases of a verification by the word before the first comma; all others are files that a user gave.
KINDS = {"images": HELD_OUT, "golden vectors": GOLDEN}
MADE_UP_CASES = ("", "random")  # those without a batch in their name are single ones: zeros, a constant, …
FLOAT32_FILE = "the float32 file"


@dataclass(frozen=True)
class Lost:
    """What a file in float16 or int8 lost against the float32 file.

    Attributes:
        kind: `float16` or `int8`.
        data: what both were shown, in words.
        sqnr_db: the least signal to noise of any output; None where nothing was lost.
        images, same: how many were shown, and how many both take for the same class; None where nobody counted.
        labelled, float32, reduced: images with labels, and how many of them each file takes for the right class.
    """

    kind: str
    data: str
    sqnr_db: float | None
    images: int | None = None
    same: int | None = None
    labelled: int | None = None
    float32: int | None = None
    reduced: int | None = None


@dataclass(frozen=True)
class Compared:
    """How a file was compared with PyTorch, as far as its record tells.

    Attributes:
        largest_error: against float64; None where it was not computed, as of a file in fewer bits.
        date: when, in ISO 8601 and UTC; None where the record does not tell.
        shown: on what, in words.
        lost: of a file in fewer bits, which is not the function to the last digit.
        passed: whether it was found to answer right.
    """

    largest_error: float | None = None
    date: str | None = None
    shown: tuple[str, ...] = ()
    lost: Lost | None = None
    passed: bool = True

    @property
    def told(self) -> str:
        """In sentences."""
        when = "Before this page was made" if self.date is None else f"On {self.date[:10]}"
        if not self.passed:
            return f"{when} this very file was compared with PyTorch, and did not pass."
        if self.lost is not None:
            return " ".join(_of_fewer_bits(self.lost, when))
        on = f" on {' and '.join(self.shown)}" if self.shown else ""
        how = "its numbers stayed within what is allowed"
        if self.largest_error is not None:
            how = f"no number was further off than {_power(self.largest_error)}"
        return f"{when} this network was compared with PyTorch{on}: {how}."


def _power(value: float) -> str:
    """As the page's script writes such numbers: 2.9e-6."""
    digits, _, power = f"{value:.1e}".partition("e")
    return f"{digits}e{int(power)}"


def _of_fewer_bits(lost: Lost, when: str) -> Iterator[str]:
    yield f"This network computes in {lost.kind}, so its numbers are not PyTorch’s to the last digit."
    found = []
    if lost.images is not None and lost.same is not None:
        found.append(f"both take {lost.same} of {lost.images} for the same class")
    if lost.sqnr_db is None:
        found.append("no number is another")
    else:
        share = 100 * 10 ** (-lost.sqnr_db / 20)
        found.append(f"its numbers are off by about {share:.2g} % (signal to noise {lost.sqnr_db:.1f} dB)")
    yield f"{when} it was compared with the one in float32 on {lost.data}: {', and '.join(found)}."
    if lost.labelled is not None:
        right = f"it is right about {lost.reduced}, the one in float32 about {lost.float32}"
        yield f"Of {lost.labelled} with labels {right}."


def compared(value: Mapping[str, Any], onnx_sha256: str | None = None) -> Compared | None:
    """Of a parity.json; None unless it passed, and is of the file with that digest where one is given.

    ValueError, LookupError or TypeError for what is no such record.
    """
    if value["passed"] is not True or (onnx_sha256 is not None and value["onnx_sha256"] != onnx_sha256):
        return None
    error, date, guard = value["max_abs_error"], value.get("date"), value.get("guard")
    cases = [output["case"] for row in value.get("computations", ()) for output in row["outputs"]]
    return Compared(
        largest_error=None if error is None else float(error),
        date=None if date is None else str(date),
        shown=tuple(_shown(cases)),
        lost=None if guard is None else _lost(guard),
    )


def refuted(value: Mapping[str, Any], onnx_sha256: str) -> Compared | None:
    """Of a parity.json of the file with that digest which did not pass; None of any other. Raises as `compared`."""
    if value["passed"] is not False or value["onnx_sha256"] != onnx_sha256:
        return None
    date = value.get("date")
    return Compared(date=None if date is None else str(date), passed=False)


def _shown(cases: list[str]) -> Iterator[str]:
    """What is known by name, then what is made up; a batch of it is told as `NAME, batch N`."""
    batches = dict.fromkeys(case.rpartition(", batch ")[0] for case in cases)
    named = [name for name in batches if name not in MADE_UP_CASES]
    yield from (KINDS.get(name, name) for name in named)
    if len(named) < len(batches):
        yield MADE_UP if named else "made-up images"


def _lost(guard: Mapping[str, Any]) -> Lost:
    classes = [
        row
        for row in guard["rows"]
        if row["measure"] == "top-1" and row["against"] == FLOAT32_FILE and row["value"] is not None
    ]
    counted = max(classes, key=lambda row: int(row["images"]), default=None)
    accuracy = guard.get("accuracy")
    return Lost(
        kind=str(guard["kind"]),
        data=str(guard["data"]),
        sqnr_db=least_sqnr(guard),
        images=None if counted is None else int(counted["images"]),
        same=None if counted is None else round(float(counted["value"]) * int(counted["images"])),
        labelled=None if accuracy is None else int(accuracy["images"]),
        float32=None if accuracy is None else int(accuracy["float32"]),
        reduced=None if accuracy is None else int(accuracy["reduced"]),
    )
