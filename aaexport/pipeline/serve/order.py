"""What a folder is to be prepared by, and what came of it: values that go between processes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aaexport.folder import Dtype
from aaexport.serving.facts import ModelFacts
from aaexport.serving.versions import Version


@dataclass(frozen=True)
class Order:
    """What is to be prepared.

    Attributes:
        folder: the model folder.
        keep: where served/ is: the folder itself, or another where that cannot be written.
        dtype, device, threads: as of `ServeOptions`.
        instances: sessions that share the cores.
        max_batch: images that go through the file at once at most.
        number: a version that is kept already; None for what the folder has now.
    """

    folder: Path
    keep: Path
    dtype: Dtype
    device: str
    threads: int | None
    instances: int
    max_batch: int
    number: int | None = None


@dataclass(frozen=True)
class Prepared:
    """A conversion that answers its golden vectors right; `threads` are of a session, `notes` for people."""

    facts: ModelFacts
    version: Version
    threads: int | None
    notes: tuple[str, ...] = ()
