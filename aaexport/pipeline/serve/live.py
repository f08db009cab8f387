"""A folder that is served: what is at work of it, what has been seen of it, and what is to take over."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from aaexport.errors import FolderError
from aaexport.folder import ModelFolder
from aaexport.pipeline.serve.again import Again
from aaexport.pipeline.serve.child import Preparation
from aaexport.pipeline.serve.incoming import Incoming
from aaexport.serving.served import Served
from aaexport.serving.versions import Version


@dataclass(frozen=True)
class Change:
    """A version that is being prepared to take over; nobody else changes the folder's meanwhile.

    `number` is that of a version which was chosen; None of a new conversion.
    """

    preparation: Preparation
    lock: TextIO
    number: int | None

    def end(self) -> None:
        """Whatever has become of it, it is over."""
        self.preparation.stop()
        self.lock.close()


@dataclass
class Live:
    """A folder that is served, and what has been seen of it.

    Attributes:
        folder: the model's.
        keep: where served/ is: the folder, or another where that cannot be written.
        served, version: what is at work.
        incoming: of the folder's file, what comes after the one that is served.
        record: what served.json was when it was read last, so that it is read again when it changes.
        reloads, failed_at: how often in a row its backend had to be loaded anew, and when last.
        late: by name, of those that did not answer in time when they were asked last, how many queries they had
            answered by then.
        change: what is to take over; None while nothing is.
        again: what could not take over and is tried again, by the number of a version that was chosen, None for a new
            conversion.
    """

    folder: ModelFolder
    keep: Path
    served: Served
    version: Version
    incoming: Incoming
    record: tuple[int, ...] | None
    reloads: int = 0
    failed_at: float = 0.0
    late: dict[str, int] = field(default_factory=dict)
    change: Change | None = None
    again: dict[int | None, Again] = field(default_factory=dict)


def require_same_tensors(old: Served, new: Served) -> None:
    """FolderError where whoever asks the old version could not ask the new one."""
    for what in ("inputs", "outputs", "fixed_batch"):
        if getattr(old.facts, what) != getattr(new.facts, what):
            remedy = "start the service anew for it"
            raise FolderError(f"a version that takes over must have the same {what}, got others; {remedy}")
    if len(old.names) != len(new.names):
        raise FolderError("a version that takes over must take images as before, got another; start the service anew")
