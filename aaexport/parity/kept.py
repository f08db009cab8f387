"""The guard's part of a parity.json → the figure that it is told by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def least_sqnr(guard: Mapping[str, Any]) -> float | None:
    """In dB, of all outputs and computations, as `GuardReport.sqnr_db`; None where nothing was lost.

    ValueError, LookupError or TypeError for what is no such part.
    """
    rows = (row for row in guard["rows"] if row["measure"] == "SQNR" and row["value"] is not None)
    return min((float(row["value"]) for row in rows), default=None)
