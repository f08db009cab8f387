"""The machine's memory and the limits of control groups → how much of it this process may still take."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from aaexport import control_groups
from aaexport.control_groups import text_of

KIBIBYTE, MEBIBYTE, GIBIBYTE = 2**10, 2**20, 2**30
MOST = 4 * GIBIBYTE  # that anything takes where nobody asked, and of what is free a half
SHARE = 2
# Of a group, of version 2 and of version 1: its limit, what it takes, and what of that are files that it can let go.
FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def free_memory() -> int | None:
    """Bytes; None where the system does not tell (proc(5), cgroups(7))."""
    return min((*_of_the_machine(), *_of_the_groups()), default=None)


def whole_memory() -> tuple[int, str] | None:
    """Bytes that this process could ever have, and whose they are; None where the system does not tell."""
    limits = (_number(folder / limit) for folder in control_groups.groups("memory") for limit, _, _ in FILES)
    told = [("this machine's", _physical()), *(("its control group's", limit) for limit in limits)]
    return min(((size, whose) for whose, size in told if size is not None), default=None)


def default_memory() -> int:
    """Bytes: 4 GiB, or half of what is free where that is less."""
    free = free_memory()
    return MOST if free is None else min(MOST, free // SHARE)


def _of_the_machine() -> Iterator[int]:
    text = text_of(control_groups.ROOT / "proc/meminfo") or ""
    yield from (int(number) * KIBIBYTE for number in re.findall(r"^MemAvailable: +(\d+) kB$", text, re.MULTILINE))


def _physical() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _of_the_groups() -> Iterator[int]:
    for folder in control_groups.groups("memory"):
        for limit, taken, files in FILES:
            most, now = _number(folder / limit), _number(folder / taken)
            if most is not None and now is not None:
                found = re.search(rf"^{files} (\d+)$", text_of(folder / "memory.stat") or "", re.MULTILINE)
                yield max(most - now + int(found[1] if found else 0), 0)


def _number(path: Path) -> int | None:
    text = (text_of(path) or "").strip()
    return int(text) if text.isdecimal() else None
