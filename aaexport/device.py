"""`cpu`, `cuda`, `cuda:N` → kind and index: the names of devices, the same for every room."""

from __future__ import annotations

from aaexport.errors import ArgumentError, broken_rule


def parse_device(device: str) -> tuple[str, int]:
    """`cpu`, `cuda` or `cuda:N` → (kind, index). ArgumentError for anything else."""
    kind, _, index = device.partition(":")
    if device == "cpu" or (kind == "cuda" and (not _ or index.isdecimal())):
        return kind, int(index or 0)
    raise ArgumentError(broken_rule("device", "be cpu, cuda or cuda:N", device))
