"""The names of devices (`cpu`, `cuda`, `cuda:N` → kind and index) and the cores of this one, for every room."""

from __future__ import annotations

import os

from aaexport.errors import ArgumentError, broken_rule


def parse_device(device: str) -> tuple[str, int]:
    """`cpu`, `cuda` or `cuda:N` → (kind, index). ArgumentError for anything else."""
    kind, _, index = device.partition(":")
    if device == "cpu" or (kind == "cuda" and (not _ or index.isdecimal())):
        return kind, int(index or 0)
    raise ArgumentError(broken_rule("device", "be cpu, cuda or cuda:N", device))


def usable_cores() -> int:
    """The cores that the process is bound to, where the system says so, else all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
