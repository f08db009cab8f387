"""served/ in a model folder: the conversions that were served, each whole, and which of them is to be served.

    served/served.json      which there are, which is current, and which were gone back from
    served/3/               model.toml, model.onnx with its data files, golden.safetensors: a model folder of its own

A conversion that is written over does not touch what is served, and `aaexport serve --rollback` has something to go
back to. The last `KEPT` stay.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from aaexport.errors import FolderError, broken_rule
from aaexport.writing import write_json

SCHEMA = "aaexport.served/1"
KEPT = 3


@dataclass(frozen=True)
class Version:
    """One conversion: its number, which is Triton's version, its file's digest and when it was taken (ISO 8601)."""

    number: int
    onnx_sha256: str
    taken: str


@dataclass(frozen=True)
class Served:
    """What served.json says.

    Attributes:
        versions: in the order in which they were taken.
        current: the number of the one to be served; None before the first.
        left: digests of files that were gone back from, which are not taken again.
    """

    versions: tuple[Version, ...] = ()
    current: int | None = None
    left: tuple[str, ...] = ()

    def of_digest(self, digest: str) -> Version | None:
        """The conversion of that file, if it is kept."""
        return next((version for version in self.versions if version.onnx_sha256 == digest), None)

    def numbered(self, number: int | None) -> Version | None:
        """The one of that number, if it is kept."""
        return next((version for version in self.versions if version.number == number), None)

    def with_current(self, version: Version) -> Served:
        """The same when `version`, which may be new, has come to be served."""
        others = [one for one in self.versions if one.number != version.number]
        ordered = tuple(sorted((*others, version), key=lambda one: one.number))
        return replace(self, versions=ordered, current=version.number)

    def gone_back(self) -> Served:
        """The same with the version before the current one as current; one that was gone back from is passed over.

        FolderError if there is none.
        """
        now = self.numbered(self.current)
        before = [
            one
            for one in self.versions
            if self.current is not None and one.number < self.current and one.onnx_sha256 not in self.left
        ]
        if now is None or not before:
            got = "none that was ever served" if now is None else f"version {now.number} alone"
            raise FolderError(f"rollback must have an older version to go back to, got {got}")
        return replace(self, current=before[-1].number, left=(*self.left, now.onnx_sha256))


def new_version(folder: Path, served: Served, digest: str) -> Version:
    """The next one, taken now: no number ever means two, also where one was taken that never came to be served."""
    used = [*(version.number for version in served.versions), *_numbers_on_disk(folder)]
    return Version(max(used, default=0) + 1, digest, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))


def _numbers_on_disk(folder: Path) -> list[int]:
    return [int(path.name) for path in served_folder(folder).iterdir() if path.name.isdecimal()]


def served_folder(folder: Path) -> Path:
    """served/ of a model folder."""
    return folder / "served"


def version_folder(folder: Path, number: int) -> Path:
    """Where a version's files lie."""
    return served_folder(folder) / str(number)


def record_path(folder: Path) -> Path:
    """served/served.json."""
    return served_folder(folder) / "served.json"


def read_served(folder: Path) -> Served:
    """What was served; nothing where there is no record. FolderError if it is not as it was written."""
    path = record_path(folder)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if value["schema"] != SCHEMA:
            raise FolderError(broken_rule(str(path), f"have the schema {SCHEMA}", value["schema"]))
        versions = tuple(Version(**one) for one in value["versions"])
        return Served(versions, value["current"], tuple(value["left"]))
    except FileNotFoundError:
        return Served()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FolderError(f"{path} must be as `aaexport serve` wrote it, but: {error}; delete served/") from error


def write_served(folder: Path, served: Served) -> None:
    """Records it, with no more than the last `KEPT` versions and the current one, and removes older files.

    FolderError if it cannot be written.
    """
    kept = tuple(one for one in served.versions if one in served.versions[-KEPT:] or one.number == served.current)
    value = {"schema": SCHEMA, **asdict(replace(served, versions=kept))}
    write_json(record_path(folder), value)
    numbers = {one.number for one in kept}
    for number in _numbers_on_disk(folder):
        if number not in numbers and number < max(numbers, default=0):
            shutil.rmtree(version_folder(folder, number), ignore_errors=True)


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """One process at a time writes to served/. FolderError if it cannot be made."""
    with _opened(folder, ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def change_lock(folder: Path, *, wait: bool) -> TextIO | None:
    """One process at a time changes what is served: from when it chooses a version until that is recorded.

    It is given back when it is closed. None if another has it, unless this is to `wait`. FolderError as `holding`.
    """
    lock = _opened(folder, ".change")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    except BaseException:  # Ctrl-C while it waits
        lock.close()
        raise
    return lock


def remove_unfinished(folder: Path) -> None:
    """What a process left there that was killed while it copied a version; for who holds served/."""
    for path in served_folder(folder).glob(".new.*"):
        shutil.rmtree(path, ignore_errors=True)


def _opened(folder: Path, name: str) -> TextIO:
    place = served_folder(folder)
    try:
        place.mkdir(exist_ok=True)
        return (place / name).open("w")
    except OSError as error:
        raise FolderError(f"{place} cannot be written: {error.strerror}") from error
