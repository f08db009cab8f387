"""Bytes → a file that is there whole or not at all, wherever its folder has been moved meanwhile."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aaexport.errors import ArgumentError, FolderError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it when the block ends well and vanishes when it does not.

    A link stays, and what it names is replaced. A device or a pipe is written to. Where the folder is moved or
    removed meanwhile, that is the error, whatever the block made of it.

    Raises:
        FolderError: the folder cannot be written; `path` is then as it was before.
    """
    if is_stream(path):
        with _streamed(path) as temporary:
            yield temporary
        return
    path = path.resolve() if path.is_symlink() else path
    name = f".{path.name}.{secrets.token_hex(4)}.tmp"
    with _folder_that_may_move(path.parent, path) as folder:
        temporary = path.parent / name
        try:
            _create(temporary, path, lambda new: new.touch(exist_ok=False))
            yield temporary
            flush_to_disk(temporary)
            temporary.replace(path)
        except FolderError:
            raise
        except Exception as error:
            if not exists(temporary):
                raise _moved(path) from error
            if isinstance(error, OSError):
                raise FolderError(f"{path} cannot be written: {error.strerror or error}") from error
            raise
        finally:
            folder.remove(name)


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """A new folder in the folder `path`, which goes when the block ends, wherever `path` has been moved.

    Raises:
        FolderError: nothing can be written in `path`.
    """
    name = f".new.{secrets.token_hex(4)}"
    with _folder_that_may_move(path, path) as folder:
        try:
            _create(path / name, path, Path.mkdir)
            yield path / name
        except Exception as error:
            if isinstance(error, FolderError) or exists(path / name):
                raise
            raise _moved(path / name) from error
        finally:
            folder.remove(name)


@contextmanager
def new_files(paths: Sequence[Path]) -> Iterator[None]:
    """The folders of `paths` are there for the block to write them; if it fails, what is new of all that goes again.

    What was there before stays, be it a file of `paths` or a folder, and so does a folder that somebody else has put
    something into meanwhile.

    Raises:
        FolderError: a folder cannot be made.
    """
    new = [path for path in paths if not (path.exists() or path.is_symlink())]
    above = {folder for path in paths for folder in path.parents if not folder.exists()}
    folders = sorted(above, key=lambda folder: len(folder.parts), reverse=True)
    try:
        for path in paths:
            _make_folder(path.parent)
        yield
    except BaseException:
        for path in new:
            with suppress(OSError):  # the block's own failure is what is told
                path.unlink(missing_ok=True)
        for folder in folders:
            with suppress(OSError):
                folder.rmdir()
        raise


@contextmanager
def removed_on_failure(path: Path, unless: Callable[[str], bool] = lambda name: False) -> Iterator[list[str]]:
    """Names of files beside `path`, to be added to: they go again where the block fails, wherever they were moved.

    `unless` tells, of each that is to go, whether it stays after all: somebody has come to need it.

    Raises:
        FolderError: there is no such folder.
    """
    with _folder_that_may_move(path.parent, path) as held:
        names: list[str] = []
        try:
            yield names
        except BaseException:
            for name in names:
                if not unless(name):
                    held.remove(name)
            raise


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolderError(f"{folder} cannot be written: {error.strerror}") from error


@dataclass(frozen=True)
class _Folder:
    """A folder that is held open, so that what lies in it is found wherever it has been moved."""

    path: Path
    descriptor: int | None

    def remove(self, name: str) -> None:
        """Takes a file or folder away that may be there."""
        inside = name if self.descriptor is not None else str(self.path / name)
        with suppress(FileNotFoundError):
            try:
                os.unlink(inside, dir_fd=self.descriptor)
            except (IsADirectoryError, PermissionError):
                shutil.rmtree(inside, ignore_errors=True, dir_fd=self.descriptor)


@contextmanager
def _folder_that_may_move(folder: Path, path: Path) -> Iterator[_Folder]:
    """FolderError, in the name of `path`, if there is no such folder."""
    if os.unlink not in os.supports_dir_fd:
        yield _Folder(folder, None)
        return
    try:
        descriptor = os.open(folder, getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY)
    except OSError as error:
        raise FolderError(f"{path} cannot be written: {error.strerror}") from error
    try:
        yield _Folder(folder, descriptor)
    finally:
        os.close(descriptor)


def _create(temporary: Path, path: Path, make: Callable[[Path], None]) -> None:
    try:
        make(temporary)
    except OSError as error:
        raise FolderError(f"{path} cannot be written: {error.strerror}") from error


def _moved(path: Path) -> FolderError:
    rule = f"stay where it is until {path.name} is written"
    return FolderError(f"{path.parent} must {rule}, got a folder that was moved or removed; run it again")


def identity(path: Path, beside: Sequence[Path] = ()) -> tuple[int, ...] | None:
    """What tells a file, with those `beside` it that belong to it, from others that take their places.

    Device, number, size and time of each; None if one is not there.
    """
    try:
        found = [file.stat() for file in (path, *beside)]
    except OSError:
        return None
    return tuple(fact for one in found for fact in (one.st_dev, one.st_ino, one.st_size, one.st_mtime_ns))


@contextmanager
def unchanged(path: Path, what: str, beside: Sequence[Path] = ()) -> Iterator[None]:
    """As `blaming_changes`, and also where the block ends well: what came of it would be of no file that there is."""
    before = identity(path, beside)
    with blaming_changes(path, what, beside):
        yield
    if identity(path, beside) != before:
        raise _changed(path, what, beside)


@contextmanager
def blaming_changes(path: Path, what: str, beside: Sequence[Path] = ()) -> Iterator[None]:
    """Where the block fails on a file that is another than before, or gone, that is the error.

    The same for what belongs to it and lies `beside` it.

    Raises:
        FolderError: it was moved, removed or written to; `what` is being done with it.
    """
    before = identity(path, beside)
    try:
        yield
    except Exception as error:
        if identity(path, beside) != before:
            raise _changed(path, what, beside) from error
        raise


def _changed(path: Path, what: str, beside: Sequence[Path] = ()) -> FolderError:
    got = "a file that was moved or removed" if identity(path, beside) is None else "a file that was written to"
    return FolderError(f"{path} must stay as it is while it is {what}, got {got}; run it again")


def is_stream(path: Path) -> bool:
    """Whether it is a device, a pipe or the like, and not a file that could be replaced."""
    return path.exists() and not path.is_file() and not path.is_dir()


@contextmanager
def _streamed(path: Path) -> Iterator[Path]:
    """A temporary file whose bytes go into `path` when the block ends well. FolderError if it does not take them."""
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / "result"
        yield temporary
        try:
            with path.open("wb") as stream:
                stream.write(temporary.read_bytes())
        except OSError as error:
            raise FolderError(f"{path} cannot be written: {error.strerror or error}") from error


def write_text(path: Path, text: str) -> None:
    """Writes `text` in UTF-8, whole or not at all. FolderError if it cannot be written."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes `value` as indented JSON, atomically. NaN is refused: JSON has none."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def remove(path: Path) -> None:
    """The file is gone, whether or not it was there. FolderError if it cannot be removed."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise FolderError(f"{path} cannot be removed: {error.strerror or error}") from error


def exists(path: Path) -> bool:
    """Whether anything is there."""
    try:
        return path.exists()
    except OSError:  # a name too long to be one
        return False


def check_writable(path: Path) -> None:
    """FolderError now, rather than after minutes of work, if nothing can be written beside `path`."""
    if is_stream(path):
        if not os.access(path, os.W_OK):
            raise FolderError(f"{path} cannot be written: {os.strerror(errno.EACCES)}")
        return
    path = path.resolve() if path.is_symlink() else path
    if not path.parent.is_dir():
        raise FolderError(f"{path.parent} must be a folder, got none; create it first")
    if path.is_dir():
        raise ArgumentError(f"path must name a file, got the folder {path}")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise FolderError(f"{path.parent} cannot be written: {error.strerror}") from error


def flush_to_disk(path: Path) -> None:
    """Waits until what was written is on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
