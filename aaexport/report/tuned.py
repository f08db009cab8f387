"""tuning.json → what it says to whoever runs the model: how many threads a session should have, and where that holds.

What it says to `convert` is read in the pipeline, where decompositions are chosen.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aaexport.device import MAX_THREADS, Target
from aaexport.errors import FolderError, broken_rule, first_line
from aaexport.load.launches import called
from aaexport.load.machine import Environment
from aaexport.report.tuning import TUNING_SCHEMA

REMEDY = "delete it, or run `aaexport tune` again"


@dataclass(frozen=True)
class TunedThreads:
    """How many threads a tuning.json stores, and for what.

    Attributes:
        threads: of a session.
        batch: images a query when they were measured; None if nobody measured them, for whatever batch.
        target: the kind of the device.
        cpu, cores: the machine's.
    """

    threads: int
    batch: int | None
    target: Target
    cpu: str
    cores: int

    def why_not(self, target: Target, batch: int, machine: Environment) -> str | None:
        """Why they do not hold for sessions on this machine that get such queries; None if they do."""
        if (target, self.target) != ("cpu", "cpu"):
            return f"it is for {self.target}, and this is {target}"
        if self.cpu != machine.cpu:
            return f"it is for {self.cpu}, and this is {machine.cpu}"
        if self.cores != machine.cores:
            return f"it is for {self.cores} cores, and these are {machine.cores}"
        if self.batch not in (None, batch):
            return f"it is for {self.batch} image{'s' if self.batch != 1 else ''} a query, and these have {batch}"
        return None

    def __str__(self) -> str:
        """As a report says it."""
        return f"{called(self.threads)}, as tuning.json {'has it' if self.batch is None else 'measured'}"


def tuned_threads(path: Path) -> TunedThreads | None:
    """What the file stores of threads; None if it leaves them to the runtime, also where none could be named.

    FolderError if the file cannot be read, or holds something else than `aaexport tune` writes.
    """
    value = tuning_values(path)
    try:
        threads, launches, machine = value["threads"], value.get("launches"), value["environment"]
        if threads is None or (launches is not None and launches["withheld"] is not None):
            return None
        if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= MAX_THREADS:
            raise ValueError(f"its threads is {threads!r}")
        target: Target = "cuda" if "CUDA" in value["provider"] else "cpu"
        batch = None if launches is None else int(launches["batch"])
        return TunedThreads(threads, batch, target, str(machine["cpu"]), int(machine["cores"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise not_as_written(path, error) from error


def tuning_values(path: Path) -> dict[str, Any]:
    """The file as JSON. FolderError if it cannot be read, or is of another schema."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FolderError(f"{path} must be readable JSON, but: {first_line(error)}; {REMEDY}") from error
    schema = value.get("schema") if isinstance(value, dict) else None
    if schema != TUNING_SCHEMA:
        raise FolderError(broken_rule(str(path), f"have the schema {TUNING_SCHEMA}", schema, REMEDY))
    assert isinstance(value, dict)
    return value


def not_as_written(path: Path, error: Exception) -> FolderError:
    """The complaint about a file that `aaexport tune` did not write so."""
    cause = f"it has no {error}" if isinstance(error, KeyError) else first_line(error)
    return FolderError(f"{path} must be as `aaexport tune` wrote it, but: {cause}; {REMEDY}")
