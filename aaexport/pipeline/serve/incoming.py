"""A model folder → whether a new conversion lies in it that is whole, so that it can be judged."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aaexport.folder import ONNX_FILES, Dtype, ModelFolder, is_data_file, sha256
from aaexport.writing import identity

SETTLE = 10.0  # seconds in which nothing changes, after which it is said that something is missing
PATIENCE = 60.0  # and after which what is there is judged as it is
Say = Callable[[str], None]


@dataclass(frozen=True)
class _Seen:
    """What tells a conversion's file from another; `rest` is of its manifest, and of numbers beside it."""

    file: tuple[int, ...] | None
    rest: tuple[tuple[int, ...] | None, ...]


@dataclass(frozen=True)
class _Content:
    """Digests of a conversion's file and of its manifest; numbers beside the file have theirs in their names."""

    file: str
    manifest: str | None
    beside: tuple[tuple[str, int], ...]


class Incoming:
    """The file of a folder that is served, watched from now on: what it has now is judged already.

    The manifest is a conversion's last file. Where folders are copied it may come long after the others. A file that
    was only touched, or written again with the same bytes, is not new.
    """

    def __init__(self, folder: ModelFolder, dtype: Dtype) -> None:
        self._folder, self._path = folder, folder.path / ONNX_FILES[dtype]
        self._judged = self._seen = self._look()
        self._changed_at = time.monotonic()
        self._is_refused = self._is_said = False
        self._content: _Content | None = None  # of what is judged; not known yet
        self._was_read: tuple[_Seen, _Content] | None = None

    def is_due(self, say: Say) -> bool:
        """Whether something new is there, and whole, or will not become so; what it waits for is said once.

        What was refused is looked at again when its manifest changes too, or numbers beside the file.
        """
        seen, now = self._look(), time.monotonic()
        if seen == self._judged and self._content is None:
            self._content = self._read(seen)
        if seen.file is None or seen == self._judged or (seen.file == self._judged.file and not self._is_refused):
            return False
        if seen != self._seen:
            self._seen, self._changed_at = seen, now
        quiet = now - self._changed_at
        if self._is_whole() or quiet > (SETTLE if seen.rest[0] is None else PATIENCE):
            return not self._is_known(seen)
        if quiet > SETTLE and not self._is_said and not self._is_known(seen):
            self._is_said = True
            say(f"{self._path} is new, and not what manifest.json records: waiting for what goes with it")
        return False

    def begun(self) -> None:
        """What was due is judged from now on."""
        self._judged, self._is_said = self._seen, False
        self._content = self._read(self._seen)

    def ended(self, *, is_refused: bool) -> None:
        """It was judged."""
        self._is_refused = is_refused

    def _is_known(self, seen: _Seen) -> bool:
        """Whether it is what is judged already, byte for byte; it is then passed over from now on."""
        now, judged = self._read(seen), self._content
        if now is None or judged is None:
            return False
        is_known = now == judged if self._is_refused else now.file == judged.file
        if is_known:
            self._judged = seen
        return is_known

    def _read(self, seen: _Seen) -> _Content | None:
        """None where it cannot be read, or is no longer what was seen; a large file is read once."""
        if self._was_read is not None and self._was_read[0] == seen:
            return self._was_read[1]
        manifest = self._folder.manifest_path
        try:
            about = sha256(manifest) if manifest.exists() else None  # first: if it fails, no large file was read
            beside = tuple((path.name, path.stat().st_size) for path in self._beside())
            content = _Content(sha256(self._path), about, beside)
        except OSError:
            return None
        if self._look() != seen:
            return None
        self._was_read = (seen, content)
        return content

    def _look(self) -> _Seen:
        return _Seen(identity(self._path), tuple(map(identity, (self._folder.manifest_path, *self._beside()))))

    def _beside(self) -> list[Path]:
        with suppress(OSError):  # a folder that cannot be read just now has nothing new
            return sorted(path for path in self._folder.path.iterdir() if self._is_data(path))
        return []

    def _is_data(self, path: Path) -> bool:
        return is_data_file(path.name, self._path.name)

    def _is_whole(self) -> bool:
        """Whether the manifest is as new as the file, and all of it that is recorded there is of its size."""
        try:
            is_newer = self._folder.manifest_path.stat().st_mtime_ns >= self._path.stat().st_mtime_ns
            return is_newer and all(path.stat().st_size == size for path, size in self._recorded())
        except OSError:
            return False

    def _recorded(self) -> Iterator[tuple[Path, Any]]:
        """What the manifest records of the file and of its numbers, where it records something."""
        with suppress(ValueError, LookupError, TypeError, AttributeError):
            files = json.loads(self._folder.manifest_path.read_text(encoding="utf-8"))["files"]
            for name, about in files.items():
                path = self._folder.path / name
                if path == self._path or self._is_data(path):
                    yield path, about["bytes"]
