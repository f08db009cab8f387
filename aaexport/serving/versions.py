"""served/ in a model folder: the conversions that were served, each whole, and which of them is to be served.

    served/served.json      of each precision: which there are, which is current, and which were gone back from
    served/3/               model.toml, model.onnx with its data files, golden.safetensors: a model folder of its own

A conversion that is written over does not touch what is served, and `aaexport serve --rollback` has something to go
back to. The last `KEPT` of a precision stay. No two versions of a folder have one number, whatever their precision.
"""

from __future__ import annotations

import fcntl
import json
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from aaexport.errors import ArgumentError, FolderError, broken_rule, first_line
from aaexport.folder import DTYPES, ONNX_FILES, Dtype
from aaexport.writing import write_json

SCHEMA = "aaexport.served/2"
BEFORE = SCHEMA.replace("/2", "/1")  # knew no precisions
KEPT = 3
REMEDY = "delete that file: there is then nothing to go back to before the next version"


@dataclass(frozen=True)
class Version:
    """One conversion: its number, which is Triton's version, its file's digest and when it was taken (ISO 8601)."""

    number: int
    onnx_sha256: str
    taken: str


@dataclass(frozen=True)
class Served:
    """What served.json says of one precision.

    Attributes:
        versions: in the order in which they were taken.
        current: the number of the one to be served; None before the first.
        left: digests of files that were gone back from, which are not taken again while they are kept.
        over: the digest of an older file that a newer version was chosen over; while it lies in the folder, that
            version is served all the same.
    """

    versions: tuple[Version, ...] = ()
    current: int | None = None
    left: tuple[str, ...] = ()
    over: str | None = None

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
        over = self.over if version.number == self.current else None
        return replace(self, versions=ordered, current=version.number, over=over)

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
        return replace(self, current=before[-1].number, left=(*self.left, now.onnx_sha256), over=None)

    def gone_to(self, number: int) -> Served:
        """The same with that version as current, be it older or newer; it is no longer one that was gone back from.

        All from it up to the current one are. ArgumentError if it is not kept, or is current already.
        """
        wanted = self.numbered(number)
        if wanted is None:
            kept = ", ".join(str(one.number) for one in self.versions) or "none"
            raise ArgumentError(broken_rule("to_version", f"be one of the versions that are kept ({kept})", number))
        if number == self.current:
            raise ArgumentError(broken_rule("to_version", "be another than the one that is to be served", number))
        newer = [one.onnx_sha256 for one in self.versions if number < one.number <= (self.current or 0)]
        left = tuple(digest for digest in dict.fromkeys((*self.left, *newer)) if digest != wanted.onnx_sha256)
        now = self.numbered(self.current)
        over = now.onnx_sha256 if now is not None and now.number < number else None
        return replace(self, current=number, left=left, over=over)

    def kept(self) -> Served:
        """The same without what is too old: the last `KEPT` versions stay, and the current one."""
        versions = tuple(one for one in self.versions if one in self.versions[-KEPT:] or one.number == self.current)
        digests = {one.onnx_sha256 for one in versions}
        return replace(self, versions=versions, left=tuple(digest for digest in self.left if digest in digests))


def go_to(folder: Path, number: int, dtype: Dtype) -> str:
    """What a user types to choose a version that is kept."""
    called = "" if dtype == "float32" else f"--dtype {dtype} "
    return f"aaexport serve --rollback --to-version {number} {called}{shlex.quote(str(folder))}"


def new_version(folder: Path, served: Served, digest: str) -> Version:
    """The next one, taken now: no number ever means two, also where one was taken that never came to be served."""
    recorded = (version.number for one in (served, *_read(folder).values()) for version in one.versions)
    used = [*recorded, *_numbers_on_disk(folder)]
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


def read_served(folder: Path, dtype: Dtype = "float32") -> Served:
    """What was served so; nothing where there is no record. FolderError if that is not as it was written."""
    return _read(folder).get(dtype, Served())


def served_dtypes(folder: Path) -> tuple[Dtype, ...]:
    """The precisions of which there are versions. FolderError as `read_served`."""
    return tuple(dtype for dtype, served in _read(folder).items() if served.versions)


def _read(folder: Path) -> dict[Dtype, Served]:
    path = record_path(folder)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        schema = value["schema"]
        if schema == BEFORE:
            return _by_files(folder, _served_of(value))
        if schema != SCHEMA:
            raise FolderError(broken_rule(str(path), f"have the schema {SCHEMA}", schema, REMEDY))
        if not value["by_dtype"].keys() <= set(DTYPES):
            raise ValueError(
                broken_rule("by_dtype", f"have keys of {', '.join(DTYPES)}", ", ".join(value["by_dtype"]))
            )
        return {dtype: _served_of(value["by_dtype"][dtype]) for dtype in DTYPES if dtype in value["by_dtype"]}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        cause = f"there is no {error}" if isinstance(error, KeyError) else first_line(error)
        raise FolderError(f"{path} must be as `aaexport serve` wrote it, but: {cause}; {REMEDY}") from error


def _served_of(value: Mapping[str, Any]) -> Served:
    """ValueError, KeyError or TypeError for what is not as it was written."""
    versions = tuple(_version_of(one) for one in value["versions"])
    numbers, current, left = [one.number for one in versions], value["current"], tuple(value["left"])
    over = value.get("over")
    if sorted(set(numbers)) != numbers:
        raise ValueError(broken_rule("versions", "be in the order of their numbers", ", ".join(map(str, numbers))))
    if current not in numbers and (numbers or current is not None):
        raise ValueError(broken_rule("current", "be one of the versions", current))
    if not all(isinstance(digest, str) for digest in left):
        raise ValueError(broken_rule("left", "be digests", left))
    if over is not None and not isinstance(over, str):
        raise ValueError(broken_rule("over", "be a digest", over))
    return Served(versions, current, left, over)


def _version_of(value: Mapping[str, Any]) -> Version:
    version = Version(**value)
    if type(version.number) is not int or version.number < 1:
        raise ValueError(broken_rule("number", "be a whole number above 0", version.number))
    for name in ("onnx_sha256", "taken"):
        if not isinstance(getattr(version, name), str):
            raise ValueError(broken_rule(name, "be a text", getattr(version, name)))
    return version


def _by_files(folder: Path, served: Served) -> dict[Dtype, Served]:
    """A record of all precisions together → one of each, by the files that are kept.

    Where the current one is of another precision it is the last that was not gone back from.
    """
    found: dict[Dtype, Served] = {}
    for dtype, name in ONNX_FILES.items():
        versions = tuple(one for one in served.versions if (version_folder(folder, one.number) / name).is_file())
        numbers = [one.number for one in versions]
        if versions:
            staying = [one.number for one in versions if one.onnx_sha256 not in served.left]
            current = served.current if served.current in numbers else max(staying or numbers)
            own = {one.onnx_sha256 for one in versions if one.number == current}
            left = tuple(digest for digest in served.left if digest not in own)
            found[dtype] = Served(versions, current, left).kept()
    return found


def write_served(folder: Path, served: Served, dtype: Dtype = "float32") -> None:
    """Records it, with no more than is kept, beside what is recorded of other precisions, and removes older files.

    FolderError if it cannot be written.
    """
    record = _read(folder) | {dtype: served.kept()}
    by_dtype = {dtype: asdict(record[dtype]) for dtype in DTYPES if dtype in record}
    write_json(record_path(folder), {"schema": SCHEMA, "by_dtype": by_dtype})
    numbers = {version.number for one in record.values() for version in one.versions}
    for number in _numbers_on_disk(folder):
        if number not in numbers and number < max(numbers, default=0):
            shutil.rmtree(version_folder(folder, number), ignore_errors=True)


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """One process at a time writes to served/. FolderError if it cannot be made, or locked."""
    with _opened(folder, ".lock") as lock:
        _lock(folder, lock, fcntl.LOCK_EX)
        yield


def change_lock(folder: Path, *, wait: bool) -> TextIO | None:
    """One process at a time changes what is served: from when it chooses a version until that is recorded.

    It is given back when it is closed. None if another has it, unless this is to `wait`. FolderError as `holding`.
    """
    lock = _opened(folder, ".change")
    try:
        _lock(folder, lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
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


def _lock(folder: Path, file: TextIO, how: int) -> None:
    """BlockingIOError where another has it and this is not to wait."""
    try:
        fcntl.flock(file, how)
    except BlockingIOError:
        raise
    except OSError as error:
        got = f"{error.strerror}; serve a copy of the folder that lies elsewhere"
        raise FolderError(f"{served_folder(folder)} must be on a disk that has locks, got: {got}") from error


def _opened(folder: Path, name: str) -> TextIO:
    place = served_folder(folder)
    try:
        place.mkdir(exist_ok=True)
        return (place / name).open("w")
    except OSError as error:
        raise FolderError(f"{place} cannot be written: {error.strerror}") from error
