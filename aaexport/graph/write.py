"""ONNX model → file, and where protobuf has no room for its numbers a file of those beside it: both, or neither.

The data file has the digest of what it holds in its name. So a model that replaces another brings its numbers beside
the old ones, and takes them with it in the moment in which it takes its name: never, be it interrupted or read
meanwhile, does a model point at numbers that are another's. Those of the old one are removed afterwards.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from aaexport.errors import FolderError, GraphError
from aaexport.folder import data_file_name, is_data_file, sha256
from aaexport.graph.beside import pointing_at, require_place
from aaexport.graph.files import read_data_files
from aaexport.graph.light import without_initializers
from aaexport.graph.outside import (
    encoded,
    is_too_large,
    locate,
    may_lie_outside,
    require_room_inside,
    write_tensors,
)
from aaexport.graph.tensors import named_tensors
from aaexport.writing import atomic_path, flush_to_disk, is_stream, remove, removed_on_failure, temporary_folder

DIGITS = 16  # of the digest in a name


@dataclass
class NewFile:
    """An ONNX file that has not got its name yet.

    Attributes:
        path: where it is until then.
        destination: where it will be.
        data: the file of its numbers beside it; None where it has none, or is not written yet.
        notes: what a user should know of other files of numbers, once it has its name.
    """

    path: Path
    destination: Path
    data: Path | None = None
    notes: list[str] = dataclasses.field(default_factory=list)

    def write(self, model: onnx.ModelProto) -> None:
        """Raises as `write_onnx`; FolderError also where there is no place for numbers beside it."""
        if is_too_large(tensor for _, tensor in named_tensors(model)):
            require_place(self.destination)
        self.data = write_onnx(model, self.path, self.destination.name)

    @property
    def bytes(self) -> int:
        """Of the file, and of its numbers."""
        return sum(path.stat().st_size for path in (self.path, self.data) if path is not None)


@contextmanager
def new_onnx(path: Path) -> Iterator[NewFile]:
    """A file that replaces `path` when the block ends well, and vanishes with its numbers when it does not.

    Numbers that this module wrote for the file that was replaced are removed, and no others: not if another ONNX file
    of the folder, such as a copy of the old one, has its numbers there, or has got them there meanwhile.

    Raises:
        FolderError: the folder cannot be written; `path` is then as it was before.
    """
    destination = path if is_stream(path) or not path.is_symlink() else path.resolve()
    folder = destination.parent
    before, there = _own_data(destination), _names(folder)

    def is_needed(name: str) -> bool:
        return bool(pointing_at(folder, [name])[name])

    with removed_on_failure(destination, is_needed) as names, atomic_path(destination) as temporary:
        file = NewFile(temporary, path)
        try:
            yield file
            if file.data is not None and file.path.exists() and not file.data.exists():
                rule = f"stay where it is until {path.name} is written"
                raise FolderError(f"{file.data} must {rule}, got a file that was moved or removed; run it again")
        finally:
            if file.data is not None and file.data.name not in there:
                names.append(file.data.name)
    file.notes += _tidied(destination, file.data, before)


def write_onnx(model: onnx.ModelProto, path: Path, name: str | None = None) -> Path | None:
    """Writes an ONNX file; the large initializers of one that is above protobuf's 2 GiB into a data file beside it.

    Not atomic: `path` is a temporary one (`new_onnx`) until the file is verified.

    Args:
        model: stays as it is.
        path: the file.
        name: what it will be called, and its data file after it, if that is not the name of `path`.

    Returns:
        The data file; None if there is none.

    Raises:
        GraphError: the model is above the limit without its large initializers, or numbers of it are gone.
        FolderError: there is no room for the data file.
    """
    require_room_inside(tensor for _, tensor in named_tensors(model) if not may_lie_outside(tensor))
    large = [tensor for tensor in model.graph.initializer if may_lie_outside(tensor)]
    if not large or not is_too_large(tensor for _, tensor in named_tensors(model)):
        path.write_bytes(encoded(model))
        return None

    def is_needed(name: str) -> bool:
        return bool(pointing_at(path.parent, [name], but=path)[name])

    with removed_on_failure(path, is_needed) as names, temporary_folder(path.parent) as folder:
        temporary = folder / "data"
        written = write_tensors([ir.serde.deserialize_tensor(tensor) for tensor in large], temporary, path.parent)
        flush_to_disk(temporary)
        data = path.parent / data_file_name(name or path.name, sha256(temporary)[:DIGITS])
        if not data.exists():
            names.append(data.name)
        temporary.replace(data)
        path.write_bytes(encoded(_pointing(model, data.name, written)))
    return data


def _pointing(model: onnx.ModelProto, location: str, written: list[ir.ExternalTensor]) -> onnx.ModelProto:
    """The model with its large initializers where they were `written`, in a file of that name."""
    places = {tensor.name: (tensor.offset or 0, tensor.length or tensor.nbytes) for tensor in written}
    pointing = without_initializers(model)
    for tensor in model.graph.initializer:
        if may_lie_outside(tensor):
            new = pointing.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            locate(new, location, *places[tensor.name])
        else:
            pointing.graph.initializer.append(tensor)
    return pointing


def _names(folder: Path) -> set[str]:
    return {file.name for file in folder.glob("*.data")}


def _tidied(path: Path, data: Path | None, before: Set[str]) -> Iterator[str]:
    """Removes the numbers of the file that `path` has replaced, and tells what is left and why."""
    left = {name for name in _names(path.parent) if is_data_file(name, path.name)}
    for name, users in sorted(pointing_at(path.parent, left - {"" if data is None else data.name}).items()):
        if users and name in before:
            yield f"{name} was kept, for {', '.join(users)} has its numbers there"
        elif name in before:
            try:
                remove(path.parent / name)
            except FolderError as error:
                yield f"{error}; no ONNX file has its numbers there any more: remove it yourself"
        elif not users:
            yield f"{name} may be of a conversion that was killed: no ONNX file beside it has its numbers there"


def _own_data(path: Path) -> set[str]:
    """Names of the data files of an ONNX file that were written here; none where there is no such file."""
    if not path.is_file() or not any(is_data_file(name, path.name) for name in _names(path.parent)):
        return set()
    try:
        files = read_data_files(path)
        return {file.name for file in files if file.parent == path.parent and is_data_file(file.name, path.name)}
    except GraphError:
        return set()
