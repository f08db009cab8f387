"""The machine → how many cores this process may use."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """The cores that the process is bound to, where the system says so, else all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
