"""A model's folder → where a file of numbers may lie in it, and which of its ONNX files point at one."""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from aaexport.errors import FolderError
from aaexport.folder import data_file_name
from aaexport.writing import is_stream

ABSOLUTE = re.compile(r"[A-Za-z]:|[A-Za-z][A-Za-z0-9+.-]*://")  # a drive, or a URL; elsewhere a colon is a letter
NEEDED = "for a model above 2 GiB, whose numbers are a file beside it"


def is_inside(location: str, folder: Path) -> bool:
    """Whether a place of external data lies in the folder, on whatever system it is read."""
    parts = PurePosixPath(location.replace("\\", "/"))
    if not location or parts.is_absolute() or ".." in parts.parts or ABSOLUTE.match(location):
        return False
    return (folder / location).resolve().is_relative_to(folder.resolve())


def require_place(destination: Path) -> None:
    """FolderError where a model with numbers beside it cannot be written: who reads it would not find them."""
    if is_stream(destination):
        raise FolderError(f"{destination} must be a file {NEEDED}, got a pipe or a device")
    if destination.is_symlink():
        target = destination.resolve()  # runtimes look for the numbers beside the link
        raise FolderError(f"{destination} must be no link {NEEDED}, got one to {target}; write to that")
    require_text(destination.resolve(), destination)
    if not is_inside(data_file_name(destination.name, "0"), destination.parent):
        rule = "have a name that begins like no drive, no URL and no other folder"
        raise FolderError(f"{destination} must {rule} {NEEDED}, got {destination.name!r}; rename it")


def require_text(path: Path, known: Path) -> None:
    """FolderError, of what the user knows the path by, if it is not UTF-8, which protobuf asks for."""
    if os.fsencode(path).decode(errors="replace") != str(path):
        told = os.fsencode(known).decode(errors="backslashreplace")
        raise FolderError(f"{told} must have a path in UTF-8 for a model above 2 GiB, which names it; rename it")


def pointing_at(folder: Path, names: Iterable[str], but: Path | None = None) -> dict[str, list[str]]:
    """Each of the names → the ONNX files of the folder, other than `but`, that may have their numbers in it.

    Those have its name among their bytes: nothing of them needs to be understood, and no tensor is read. A copy under
    another name counts (`model.onnx.old`), and so does a file that is being written, or that cannot be read.
    """
    found: dict[str, list[str]] = {name: [] for name in names}
    if not found:
        return found
    for file in sorted(folder.glob("*.onnx*")):
        if file != but and file.suffix != ".data" and file.is_file():
            for name in _named_in(file, found):
                found[name].append(file.name)
    return found


def _named_in(file: Path, names: Iterable[str]) -> list[str]:
    try:
        with file.open("rb") as opened:
            if not os.fstat(opened.fileno()).st_size:
                return []
            with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return [name for name in names if content.find(os.fsencode(name)) >= 0]
    except FileNotFoundError:  # another conversion's, which has ended
        return []
    except (OSError, ValueError):
        return list(names)
