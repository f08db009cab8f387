"""A folder of images, `train/<class>/…` and `test/<class>/…` → images that are decoded when they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aaexport.data.decoding import readable, require_pillow
from aaexport.data.records import EncodedRecords
from aaexport.data.request import Request
from aaexport.errors import DataError, broken_rule
from aaexport.pixels import MODES, Array

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".tif", ".tiff")


@dataclass(frozen=True)
class ImagePaths:
    """Images as files of their own."""

    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def content(self, number: int) -> Path:
        """The file's path."""
        return self.paths[number]

    def name(self, number: int) -> str:
        """The file's path."""
        return str(self.paths[number])


def read_image_folder(request: Request) -> EncodedRecords:
    """The images below the class folders of one part, by their suffixes.

    The recipe's labels give the order of the classes; where it only counts them, they are in alphabetical order.

    Raises:
        DataError: Pillow or a folder is not there, classes differ, a class is empty, or, with `skip_bad`, has no
            image that can be decoded.
    """
    require_pillow("the data set imagefolder")
    request.require_channels(*MODES)
    root = _root(request)
    part = _part(root, request)
    names = _class_names(root, part, request)
    found = [_files(part / name) for name in names]
    paths = [path for images, _ in found for path in images]
    labels = np.repeat(np.arange(len(names)), [len(images) for images, _ in found])
    notes = _left_out([path for _, others in found for path in others])
    files, channels = ImagePaths(paths), request.recipe.input.channels
    if request.skip_bad:
        good, skipped = readable(files, channels)
        files, labels, notes = ImagePaths([paths[number] for number in good]), labels[good], (*notes, *skipped)
        _require_every_class(labels, names, part)
    return EncodedRecords(files, labels, channels, notes)


def _root(request: Request) -> Path:
    path = request.recipe.data.path
    if not path:
        raise DataError("[data] path must name the folder of images for imagefolder, got none")
    root = (request.base or Path()) / Path(path).expanduser()
    if not root.is_dir():
        raise DataError(broken_rule("[data] path", "be a folder of images", str(root), "there is no such folder"))
    return root


def _part(root: Path, request: Request) -> Path:
    part = root / request.part_name()
    if not part.is_dir():
        there = _abridged(_folders(root)) or "no folders"
        remedy = "" if request.split == "train" else "; name another part with [data] test_split"
        raise DataError(f"{root} must hold a folder {part.name}, got {there}{remedy}")
    return part


def _class_names(root: Path, part: Path, request: Request) -> list[str]:
    """The classes in the order of their numbers."""
    found = _folders(part)
    if not found:
        raise DataError(f"{part} must hold a folder for each class, got none")
    wanted = list(request.recipe.input.names)
    source = "[input] labels"
    if not wanted and request.recipe.network.classifies and (root / "train").is_dir():
        wanted, source = _folders(root / "train"), str(root / "train")
    for name in wanted:
        if name not in found:
            raise DataError(f"{part} must hold a folder for each class of {source}, but {name!r} is missing")
    for name in found:
        if wanted and name not in wanted:
            raise DataError(f"{part} must hold the classes of {source} only, got {name!r}")
    request.require_classes(len(found), _abridged(found))
    return wanted or found


def _folders(path: Path) -> list[str]:
    """The names of the folders in `path`, in alphabetical order; hidden ones are the system's."""
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The images in a class folder, at any depth and in a fixed order, and the other files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not _is_hidden(path.relative_to(folder)))
    images = [path for path in files if path.suffix.lower() in SUFFIXES]
    if not images:
        suffixes = " ".join(SUFFIXES)
        raise DataError(f"{folder} must hold images of its class, got none; known suffixes: {suffixes}")
    return images, [path for path in files if path.suffix.lower() not in SUFFIXES]


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _left_out(others: Sequence[Path]) -> tuple[str, ...]:
    if not others:
        return ()
    suffixes = sorted({path.suffix.lower() or "no suffix" for path in others})
    files = "file" if len(others) == 1 else "files"
    return (f"{len(others)} {files} without an image's suffix left out: {_abridged(suffixes)}",)


def _abridged(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def _require_every_class(labels: Array, names: Sequence[str], part: Path) -> None:
    counts = np.bincount(labels, minlength=len(names)).tolist()
    for name, count in zip(names, counts, strict=True):
        if not count:
            raise DataError(f"{part / name} must hold an image that can be decoded, got only corrupt ones")
