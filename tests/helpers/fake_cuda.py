"""A GPU that computes nothing, for the processes that a test starts; tests/fake_cuda tells what is real of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from build_fake_cuda import build
from repository import ROOT

FOLDER = "nvidia/fake/lib"  # below a folder of packages, where aaexport looks for those of NVIDIA's wheels


@dataclass(frozen=True)
class Event:
    """A line of the log: which thread called what, and the details of it."""

    thread: int
    call: str
    details: str


@dataclass(frozen=True)
class Ran:
    """What a process on the fake did."""

    code: int
    out: str
    err: str
    events: tuple[Event, ...]

    def count(self, call: str, details: str = "") -> int:
        """How often it made a call of which the details begin so."""
        return sum(event.call == call and event.details.startswith(details) for event in self.events)

    @property
    def json(self) -> Any:
        """What it printed; the test fails with what it complained of if it did not end well."""
        assert self.code == 0, self.err or self.out
        return json.loads(self.out)


@dataclass(frozen=True)
class FakeCuda:
    """The built libraries in their folder of packages."""

    packages: Path

    @property
    def libraries(self) -> Path:
        """Where the shared libraries lie."""
        return self.packages / FOLDER

    def environment(self, **settings: object) -> dict[str, str]:
        """Of a process that finds a GPU; `settings` are those of tests/fake_cuda/cudart.c, as `devices=2`."""
        paths = (str(self.packages), str(ROOT), str(ROOT / "tests" / "helpers"), os.environ.get("PYTHONPATH"))
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("FAKE_CUDA_")},
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "LD_LIBRARY_PATH": str(self.libraries),
            "OMP_NUM_THREADS": "1",
            **{f"FAKE_CUDA_{name.upper()}": str(value) for name, value in settings.items()},
        }

    def run(
        self,
        arguments: list[object],
        log: Path,
        *,
        timeout: float = 120,
        env: dict[str, str] | None = None,
        **settings: object,
    ) -> Ran:
        """`python ARGUMENTS…` there; what it calls goes to the file `log`, which is read afterwards."""
        log.unlink(missing_ok=True)
        environment = self.environment(log=log, **settings) | (env or {})
        command = [sys.executable, *map(str, arguments)]
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        lines = log.read_text().splitlines() if log.exists() else []
        events = (line.split(" ", 2) for line in lines)
        return Ran(
            done.returncode, done.stdout, done.stderr, tuple(Event(int(t), call, told) for t, call, told in events)
        )


def built_once(shared: Path, own: Path) -> FakeCuda:
    """The libraries in `shared`, which several processes want at a time: each builds its `own`, the first stay."""
    if not shared.exists():
        (own / FOLDER).mkdir(parents=True)
        build(own / FOLDER)
        try:
            own.rename(shared)
        except OSError:
            return FakeCuda(own)
    return FakeCuda(shared)
