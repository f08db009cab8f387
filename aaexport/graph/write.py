"""ONNX model → file, and where protobuf has no room for its numbers a file of those beside it: both, or neither.

The data file has the digest of what it holds in its name. So a model that replaces another brings its numbers beside
the old ones, and takes them with it in the moment in which it takes its name: never, be it interrupted or read
meanwhile, does a model point at numbers that are another's. Those of the old one are removed afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from aaexport.errors import FolderError, GraphError
from aaexport.folder import data_file_name, is_data_file, sha256
from aaexport.graph.files import read_data_files
from aaexport.graph.light import put
from aaexport.graph.outside import encoded, is_too_large, locate, may_lie_outside, write_tensors
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
    """

    path: Path
    destination: Path
    data: Path | None = None

    def write(self, model: onnx.ModelProto) -> None:
        """Raises as `write_onnx`; FolderError also for a pipe, beside which there is no place for numbers."""
        if is_stream(self.destination) and is_too_large(tensor for _, tensor in named_tensors(model)):
            rule = "be a file for a model of more than 2 GiB, whose numbers are a file beside it"
            raise FolderError(f"{self.destination} must {rule}, got a pipe or a device")
        self.data = write_onnx(model, self.path, self.destination.name)

    @property
    def bytes(self) -> int:
        """Of the file, and of its numbers."""
        return sum(path.stat().st_size for path in (self.path, self.data) if path is not None)


@contextmanager
def new_onnx(path: Path) -> Iterator[NewFile]:
    """A file that replaces `path` when the block ends well, and vanishes with its numbers when it does not.

    Numbers that this module wrote for the file that was replaced are removed, and no others.

    Raises:
        FolderError: the folder cannot be written; `path` is then as it was before.
    """
    destination = path.resolve() if path.is_symlink() else path
    before, there = _own_data(destination), _names(destination.parent)
    with removed_on_failure(destination) as names, atomic_path(destination) as temporary:
        file = NewFile(temporary, destination)
        try:
            yield file
        finally:
            if file.data is not None and file.data.name not in there:
                names.append(file.data.name)
    for old in before:
        if old != file.data:
            remove(old)


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
        GraphError: the model is above the limit without its large initializers.
        FolderError: there is no room for the data file.
    """
    large = [tensor for tensor in model.graph.initializer if may_lie_outside(tensor)]
    if not large or not is_too_large(tensor for _, tensor in named_tensors(model)):
        path.write_bytes(encoded(model))
        return None
    with removed_on_failure(path) as names, temporary_folder(path.parent) as folder:
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
    pointing = onnx.ModelProto()
    for field, value in model.ListFields():
        if field.name != "graph":
            put(pointing, field.name, value)
    for field, value in model.graph.ListFields():
        if field.name != "initializer":
            put(pointing.graph, field.name, value)
    for tensor in model.graph.initializer:
        if may_lie_outside(tensor):
            new = pointing.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            locate(new, location, *places[tensor.name])
        else:
            pointing.graph.initializer.append(tensor)
    return pointing


def _names(folder: Path) -> set[str]:
    return {file.name for file in folder.glob("*.data")}


def _own_data(path: Path) -> set[Path]:
    """The data files of an ONNX file that were written here; none where there is no such file."""
    if not path.is_file() or not any(is_data_file(name, path.name) for name in _names(path.parent)):
        return set()
    try:
        return {file for file in read_data_files(path) if is_data_file(file.name, path.name)}
    except GraphError:
        return set()
