"""The processors, the process's binding to them and the quota of its control groups → how many cores it may use.

The one place that counts them. A quota is CPU time: so many seconds of all processors together in each period, after
which every thread of the group stands still until the next one begins. In containers it is what `--cpus` and
Kubernetes' `limits.cpu` set, and neither the number of processors nor the binding shows it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from aaexport import control_groups
from aaexport.control_groups import text_of

ROUNDING = 1e-6  # 0.29 of a period may be written as 28,999 of 100,000 µs
UNLIMITED = ("max", "-1")


@dataclass(frozen=True)
class Quota:
    """The tightest limit of the control groups that the process is in.

    Attributes:
        cores: seconds of CPU time a second.
        folder: of the group that sets it.
    """

    cores: float
    folder: Path


@dataclass(frozen=True)
class Periods:
    """Periods of a quota in which the group computed, and those of them in which it was stopped for the rest."""

    all: int
    stopped: int


def usable_cores() -> int:
    """Those that the process may keep busy all the time: what it is bound to, or what a quota leaves; at least one.

    Of a quota the whole cores count. With 1.5, a second thread would have both stopped for a quarter of every period,
    which is a latency of tens of milliseconds.
    """
    quota = cpu_quota()
    bound = len(bound_processors())
    return bound if quota is None else max(1, min(bound, int(quota.cores + ROUNDING)))


def default_threads() -> int | None:
    """How many threads compute where nobody says so; None leaves it to the runtime, which takes the physical cores.

    Runtimes count the whole machine. Where the process may use a part of it, it is as many as it may use.
    """
    usable = usable_cores()
    if usable >= (os.cpu_count() or 1):
        return None
    return min(usable, _physical(bound_processors()))


def bound_processors() -> set[int]:
    """The numbers of those that the process may run on, or of all where the system has no such binding."""
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def cpu_quota() -> Quota | None:
    """The limit on the CPU time of the process; None without one, or where the system does not tell (cgroups(7))."""
    found = [quota for folder in control_groups.groups("cpu") if (quota := _quota_of(folder)) is not None]
    return min(found, key=lambda quota: quota.cores, default=None)


def periods(quota: Quota | None) -> Periods | None:
    """The quota's periods until now; None without one, or where the system does not tell."""
    text = None if quota is None else text_of(quota.folder / "cpu.stat")
    counts = dict(re.findall(r"^(nr_periods|nr_throttled) (\d+)$", text or "", re.MULTILINE))
    return Periods(int(counts["nr_periods"]), int(counts["nr_throttled"])) if len(counts) == 2 else None


def _quota_of(folder: Path) -> Quota | None:
    """Of one group: version 2 writes `QUOTA PERIOD` in one file, version 1 has a file for each."""
    both = text_of(folder / "cpu.max")
    if both is None:
        both = " ".join(text_of(folder / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period"))
    numbers = both.split()
    if len(numbers) != 2 or numbers[0] in UNLIMITED:
        return None
    return Quota(int(numbers[0]) / int(numbers[1]), folder)


def _physical(processors: set[int]) -> int:
    """How many cores these processors are threads of; as many as they are where the system does not tell."""
    topology = control_groups.ROOT / "sys/devices/system/cpu"
    siblings = {text_of(topology / f"cpu{number}/topology/thread_siblings_list") for number in processors}
    return len(processors) if None in siblings else len(siblings)
