"""What the machine is, and how much of it was really there during a measurement."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

_STEAL = 7  # the eighth number of /proc/stat's first line, proc(5)


@dataclass(frozen=True)
class Environment:
    """Recorded with every measurement. Shares are between 0 and 1, None where the system does not tell."""

    cpu: str
    cores: int
    system: str
    python: str
    load_average: float | None
    steal_share: float | None


class MachineWatch:
    """Reads the CPU's accounts when made, and again when asked what happened since."""

    def __init__(self) -> None:
        self._before = _cpu_ticks()

    def environment(self) -> Environment:
        """The machine, with the share of CPU time that the hypervisor took since the watch began."""
        steal = None
        after = _cpu_ticks()
        if self._before and after:
            passed = [b - a for a, b in zip(self._before, after, strict=True)]
            steal = passed[_STEAL] / sum(passed) if sum(passed) else 0.0
        return Environment(
            cpu=_cpu_name(),
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            system=platform.platform(),
            python=platform.python_version(),
            load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
            steal_share=steal,
        )


def _cpu_ticks() -> list[int]:
    stat = Path("/proc/stat")
    if not stat.is_file():
        return []
    # user nice system idle iowait irq softirq steal; the guests after them are counted in user already.
    return [int(ticks) for ticks in stat.read_text().splitlines()[0].split()[1:9]]


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
