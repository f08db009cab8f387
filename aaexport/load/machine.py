"""What the machine is, and how much of it was really there during a measurement."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aaexport.cores import Periods, bound_processors, cpu_quota, periods, usable_cores

_STEAL = 7  # the eighth number of /proc/stat's first line, proc(5)
_IDLE = (3, 4)  # idle and iowait


@dataclass(frozen=True)
class Environment:
    """Recorded with every measurement. Shares of CPU time are between 0 and 1, None where the system is silent.

    They are of the time of the processors that this process may run on. `steal_share` went to the hypervisor,
    `other_load_share` to processes that have no part in the measurement, `idle_share` to nobody.

    `cores` is how many the process may keep busy (`aaexport.cores`). `cpu_quota` is the limit of its control groups,
    in seconds of CPU time a second, and `throttled_share` the share of the quota's periods in which it was used up,
    so that everything stood still until the next; None without a quota.
    """

    cpu: str
    cores: int
    system: str
    python: str
    load_average: float | None
    steal_share: float | None
    other_load_share: float | None
    idle_share: float | None = None
    cpu_quota: float | None = None
    throttled_share: float | None = None


class MachineWatch:
    """Reads the CPU's accounts when made, and again when asked what happened since.

    `workers` are ids of processes that take part in the measurement; those that this process starts and ends while
    it watches are known without.
    """

    def __init__(self, workers: Sequence[int] = ()) -> None:
        self._workers = workers
        self._before = _cpu_ticks()
        self._own_before = _own_cpu_ticks(workers)
        self._periods_before = periods(cpu_quota())

    def environment(self) -> Environment:
        """The machine, and who had its CPU since the watch began."""
        steal = other = idle = None
        after = _cpu_ticks()
        if self._before and after:
            passed = [b - a for a, b in zip(self._before, after, strict=True)]
            total = sum(passed)
            unused = sum(passed[index] for index in _IDLE)
            own = _own_cpu_ticks(self._workers) - self._own_before
            if total > 0:
                steal, idle = passed[_STEAL] / total, unused / total
                other = max(0.0, total - unused - passed[_STEAL] - own) / total
        quota = cpu_quota()
        return Environment(
            cpu=_cpu_name(),
            cores=usable_cores(),
            system=platform.platform(),
            python=platform.python_version(),
            load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
            steal_share=steal,
            other_load_share=other,
            idle_share=idle,
            cpu_quota=None if quota is None else quota.cores,
            throttled_share=_stopped_share(self._periods_before, periods(quota)),
        )


def _stopped_share(before: Periods | None, after: Periods | None) -> float | None:
    """Of the periods between the two; None without any."""
    if before is None or after is None or after.all <= before.all:
        return None
    return (after.stopped - before.stopped) / (after.all - before.all)


def _cpu_ticks() -> list[int]:
    """Of the processors that this process may run on: what others do on the rest of a large machine is no matter."""
    stat = Path("/proc/stat")
    if not stat.is_file():
        return []
    usable = {f"cpu{number}" for number in bound_processors()}
    lines = [line.split() for line in stat.read_text().splitlines() if line.startswith("cpu")]
    # user nice system idle iowait irq softirq steal; the guests after them are counted in user already.
    ticks = [[int(count) for count in counts[:8]] for name, *counts in lines if name in usable]
    return [sum(counts) for counts in zip(*ticks, strict=True)]  # [] where the system tells of no processor


def _own_cpu_ticks(workers: Sequence[int]) -> float:
    """CPU time of this process, of its children that have ended, and of `workers`, in the ticks of /proc/stat."""
    used = os.times()
    seconds = used.user + used.system + used.children_user + used.children_system
    ticks = seconds * (os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100)
    return ticks + sum(_ticks_of(worker) for worker in workers)


def _ticks_of(process: int) -> int:
    """CPU time of a running process, and of its own children that have ended; 0 once it has been waited for."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    # The name of the program, in parentheses, may hold anything; after it: utime, stime, cutime, cstime.
    return sum(int(ticks) for ticks in stat.rpartition(")")[2].split()[11:15])


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
