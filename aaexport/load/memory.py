"""An action → the most memory that this process held for it, by the system's own count."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_FORGET_THE_PEAK = "5"


def peak_memory(action: Callable[[], object]) -> int | None:
    """Runs `action` → bytes that were resident at its peak beyond those before it; None where the system is silent.

    Linux tells (proc(5)): VmRSS is what is resident, VmHWM the most that ever was. What loading a model took would
    hide what running it takes, so the latter is reset first.
    """
    told = _forget_peak()
    before = _resident("VmRSS") if told else 0
    action()
    return max(_resident("VmHWM") - before, 0) if told else None


def _forget_peak() -> bool:
    """Whether the system has such a peak, and forgot it."""
    try:
        _CLEAR_REFS.write_text(_FORGET_THE_PEAK)
    except OSError:  # another system, or a container that may not
        return False
    return True


def _resident(field: str) -> int:
    """A field of the process's status, in bytes."""
    (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024
