"""deployment.json: what a deployment was made of, and the digests by which a changed file is told from ours."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aaexport.errors import FolderError, broken_rule
from aaexport.folder import sha256, tool_versions
from aaexport.writing import write_json

NAME = "deployment.json"
SCHEMA = "aaexport.deployment/1"
CACHES = ("__pycache__",)  # folders that whoever runs a deployment leaves in it


@dataclass(frozen=True)
class Manifest:
    """What was written: by which target, of which model, how, and each file's SHA-256."""

    target: str
    model: str
    onnx_sha256: str
    settings: Mapping[str, Any]
    files: Mapping[str, str]
    tools: Mapping[str, str] = field(default_factory=tool_versions)

    def write(self, root: Path) -> None:
        """Writes it beside the files."""
        write_json(root / NAME, {"schema": SCHEMA} | {name: _plain(value) for name, value in vars(self).items()})


@dataclass(frozen=True)
class Difference:
    """How a folder is other than what its manifest says: paths in it."""

    changed: tuple[str, ...]
    missing: tuple[str, ...]
    foreign: tuple[str, ...]

    def __str__(self) -> str:
        words = (("changed", self.changed), ("missing", self.missing), ("not ours", self.foreign))
        return "; ".join(f"{', '.join(paths)} {what}" for what, paths in words if paths)

    def __bool__(self) -> bool:
        return bool(self.changed or self.missing or self.foreign)


def read_manifest(root: Path) -> Manifest:
    """Reads the manifest in the folder.

    Raises:
        FolderError: there is none, or it is not whole.
    """
    path = root / NAME
    remedy = "name a folder that `aaexport deploy` wrote"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if value["schema"] != SCHEMA:
            raise FolderError(broken_rule(str(path), f"have the schema {SCHEMA}", value["schema"], remedy))
        manifest = Manifest(**{name: entry for name, entry in value.items() if name != "schema"})
        texts = (manifest.target, manifest.model, manifest.onnx_sha256, *manifest.files, *manifest.files.values())
        if not all(isinstance(text, str) for text in texts) or not isinstance(manifest.settings, dict):
            raise ValueError("an entry is of another type")
        return manifest
    except FileNotFoundError as error:
        raise FolderError(f"{path} must be there, got none; {remedy}") from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise FolderError(f"{path} must be a whole manifest, but: {error}; {remedy}") from error


def files_in(root: Path) -> dict[str, Path]:
    """Every file below the folder by its path there, links included; caches and the manifest left out."""
    found: dict[str, Path] = {}
    for folder, inner, names in os.walk(root):
        links = [name for name in inner if (Path(folder) / name).is_symlink()]
        inner[:] = sorted(name for name in inner if name not in CACHES and name not in links)
        for name in sorted((*names, *links)):
            path = Path(folder) / name
            found[path.relative_to(root).as_posix()] = path
    found.pop(NAME, None)
    return found


def differences(root: Path, files: Mapping[str, str]) -> Difference:
    """How the folder is other than these digests, by path, say. OSError for a file that cannot be read."""
    there = files_in(root)
    changed = [name for name in files if name in there and not _is(there[name], files[name])]
    missing = [name for name in files if name not in there]
    return Difference(tuple(changed), tuple(missing), tuple(name for name in there if name not in files))


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and not path.is_symlink() and sha256(path) == digest


def _plain(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else value
