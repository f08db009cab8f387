"""A folder for what a service needs while it runs, which nobody takes for left behind as long as that runs.

Who makes one holds a lock on it, by the system's own doing until its last process has ended: so the next service can
tell what a power cut, or a kill of the whole family, has left, whatever process has the old one's number by now; and
systemd-tmpfiles leaves it alone however old it becomes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from aaexport.errors import FolderError

PREFIX = "aaexport-serve-"
OWNED = "owned"  # a file: what the names of its regions of shared memory begin with
SHARED_MEMORY = Path("/dev/shm")
REGIONS = re.compile(r"aaexport-[0-9]+-[0-9a-f]+-")


@dataclass(frozen=True)
class Scratch:
    """A new folder.

    Attributes:
        path: where it is.
        lock: a descriptor of it: the folder is in use as long as any process has that open.
    """

    path: Path
    lock: int

    def remove(self) -> None:
        """With all that is in it, once; the lock goes last."""
        if self.path.exists():
            shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):  # it was given back before
            os.close(self.lock)


def new_scratch(shared_memory: str) -> Scratch:
    """One for a service whose regions of shared memory have names that begin so; what is left of others goes.

    FolderError if there is no room for temporary files.
    """
    sweep()
    try:
        path = Path(tempfile.mkdtemp(prefix=PREFIX))
    except OSError as error:
        raise FolderError(f"{tempfile.gettempdir()} cannot be written: {error.strerror}") from error
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (path / OWNED).write_text(shared_memory, encoding="ascii")  # last: who sees it finds the lock held
    except OSError as error:
        Scratch(path, lock).remove()
        raise FolderError(f"{path} cannot be written: {error.strerror}") from error
    return Scratch(path, lock)


def sweep() -> None:
    """Removes what services of this user have left that were ended with all their processes.

    One that does not say whose it is is left alone: it may be one that is just being made, or something else.
    """
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # in use, somebody else's, or gone meanwhile
            _remove_unless_used(path)


def _remove_unless_used(path: Path) -> None:
    """OSError if it is in use, or is none."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(folder).st_uid == os.geteuid():
            named = (path / OWNED).read_text(encoding="ascii", errors="replace")
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove_regions(named)
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(folder)


def _remove_regions(named: str) -> None:
    if REGIONS.fullmatch(named) is None:  # nothing but ours
        return
    for region in SHARED_MEMORY.glob(f"{named}*"):
        region.unlink(missing_ok=True)
