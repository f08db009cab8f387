"""What was seen of a live service in one look at it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Event = Literal["started", "right", "wrong", "unreachable", "changed", "behind", "stopped"]


@dataclass(frozen=True)
class Observation:
    """One look at a live service, or the begin and the end of looking, or what becomes of the file that it serves.

    Attributes:
        event: what is to be told.
        time: when the look began, in ISO 8601 and UTC.
        url, model, version: whom was asked; an empty version where the service chooses it.
        onnx_sha256: of the file by which the service is judged; after `changed` the new one.
        look: its number, from 1; 0 for what is no look.
        cases: what was fed.
        images: how many in all.
        seconds: of the look, the service's and what is computed here; None for what is no look.
        max_abs_error: the largest against PyTorch, or against the file itself where that is in float16 or int8; None
            if nothing could be compared.
        max_error_ratio: the largest ÷ PyTorch's own error; None against the file itself.
        failures: everything that is wrong, a line each.
    """

    event: Event
    time: str
    url: str
    model: str
    version: str
    onnx_sha256: str
    look: int = 0
    cases: tuple[str, ...] = ()
    images: int = 0
    seconds: float | None = None
    max_abs_error: float | None = None
    max_error_ratio: float | None = None
    failures: tuple[str, ...] = ()
