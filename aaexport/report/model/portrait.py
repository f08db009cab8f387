"""What a page about a model is made of: what was found in it, and what its folder has kept of former commands."""

from __future__ import annotations

from dataclasses import dataclass

from aaexport.folder import Dtype
from aaexport.parts import Part
from aaexport.report.attention_picture import Attended
from aaexport.results import InspectResult


@dataclass(frozen=True)
class Verification:
    """What a parity record says of one file.

    Attributes:
        dtype: of the file.
        passed: its verdict.
        figure: what the verdict rests on, in words; "" where it does not tell.
        date: when it began; None where it does not tell.
        same_file: whether it is of the file that is there now.
        steps: of each computation its name, the largest error of ordinary inputs, and whether it passed.
        accuracy: of held-out images, in words; "" where none were there.
    """

    dtype: Dtype
    passed: bool
    figure: str
    date: str | None
    same_file: bool
    steps: tuple[tuple[str, float | None, bool], ...] = ()
    accuracy: str = ""


@dataclass(frozen=True)
class Measured:
    """What a measurement says of one file.

    Attributes:
        dtype: of the file.
        valid: whether its figures may be quoted; `reasons` why not, or what to mind.
        label: the runtime.
        load, machine: in words.
        p50, p99: in milliseconds; None where they are withheld.
        rate: images a second.
        others: of what was measured beside it the name, the p50 and the ratio of latencies; None where withheld.
        date, same_file: as of `Verification`.
    """

    dtype: Dtype
    valid: bool
    reasons: tuple[str, ...]
    label: str
    load: str
    machine: str
    p50: float | None
    p99: float | None
    rate: float | None
    others: tuple[tuple[str, float | None, float | None], ...]
    date: str | None
    same_file: bool


@dataclass(frozen=True, eq=False)
class Portrait:
    """A model as it is drawn.

    Attributes:
        inspected: what `inspect` tells of it.
        parts: the model, part by part.
        named: whether the parts are modules.
        rules: the graph rules that were applied, and how often; None where no file tells.
        forecast: whether there is no file yet, so that the way attention is written out is what `convert` would take.
        attended: what it attends to in an image; None if nothing is drawn, `why_not` says why.
        verified, measured: what the folder keeps, of each file.
        notes: what could not be read.
    """

    inspected: InspectResult
    parts: tuple[Part, ...]
    named: bool
    rules: dict[str, int] | None
    forecast: bool = False
    attended: Attended | None = None
    why_not: str = ""
    verified: tuple[Verification, ...] = ()
    measured: tuple[Measured, ...] = ()
    notes: tuple[str, ...] = ()
