"""A model as runtimes take it without a file of its own; nothing heavy is needed to pass it on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Serialized:
    """The bytes of a model, and the folder of those of its numbers that are not among them; None if all are."""

    model: bytes
    folder: Path | None = None
