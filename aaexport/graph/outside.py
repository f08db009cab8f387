"""Tensors for which protobuf has no room ↔ files: the model then holds where their numbers lie, and not the numbers.

A message of protobuf ends at 2 GiB, and so does every copy of one. Of a larger model the large initializers are
outside from the moment they are read or made until it is written: in a file, by its absolute path while the model is
in memory. Whoever needs the numbers maps them (`numbers`) or reads them part by part (`parts`): nobody copies them.
"""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import EncodeError
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import ExternalDataInfo

from aaexport.errors import FolderError, GraphError, broken_rule, first_line
from aaexport.graph import light
from aaexport.graph.beside import require_place, require_text
from aaexport.graph.serialized import Serialized
from aaexport.writing import temporary_folder

if TYPE_CHECKING:
    import onnx_ir as ir  # takes half a second, which reading a file need not wait for

Array = npt.NDArray[Any]
NUMBERS_AT_ONCE = 2**22  # so that looking for NaN in a large tensor needs no second large one
# Bytes of numbers from which on a model has some outside: protobuf's limit without what nodes and metadata take.
LIMIT = 2**31 - 2**27
PROTOBUF = 2**31  # bytes of no message
ALIGNMENT = 2**16  # of tensors in a file: what every system can map
PACKED = re.compile(r"(?:U?INT|FLOAT)([246])(?!\d)")  # types of which several numbers share a byte: of so many bits
INSIDE = "small tensors, Constant nodes, subgraphs, or numbers of less than a byte"  # what cannot lie outside
WITHOUT_LARGE = "stay below 2 GiB, protobuf's limit, without its large initializers"
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class Room:
    """A folder for the tensors outside of models that are being made. It is there once it is needed, until the end.

    Args:
        parent: the folder that it is made in: one on the disk that the model goes to has room for it.
        destination: the file that the model goes to, if it is one with a place for numbers beside it.
    """

    def __init__(self, parent: Path, destination: Path | None = None) -> None:
        self._parent, self._destination = parent, destination
        self._stack = ExitStack()
        self._folder: Path | None = None
        self._files = 0

    @property
    def is_used(self) -> bool:
        """Whether a model has anything in it."""
        return self._folder is not None

    @classmethod
    def beside(cls, destination: Path) -> Room:
        """One for a model that is to be a file; `keep` refuses a destination that has no place for its numbers."""
        return cls(destination.resolve().parent, destination)

    def keep(self, tensors: Sequence[Any], total: int) -> list[ir.ExternalTensor]:
        """The same tensors, of onnx_ir, outside.

        FolderError if nothing can be written there, or not so much: with them the whole model of `total` bytes, which
        is written while they are there.
        """
        if self._destination is not None:
            require_place(self._destination)
        if self._folder is None:
            self._folder = self._stack.enter_context(temporary_folder(self._parent.resolve()))
        self._files += 1
        return write_tensors(tensors, self._folder / f"{self._files}.data", self._parent, afterwards=total)

    def close(self) -> None:
        """Removes it before its time: no model needs it any more."""
        self._stack.close()

    def __enter__(self) -> Room:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)


# One tensor


def bytes_of(tensor: TensorProto) -> int:
    """What its numbers take, wherever they lie; 0 for texts."""
    return int(-(-math.prod(tensor.dims) * _bits(tensor.data_type) // 8))


def is_outside(tensor: TensorProto) -> bool:
    """Whether its numbers lie in a file that this process can find."""
    return tensor.data_location == TensorProto.EXTERNAL and Path(ExternalDataInfo(tensor).location).is_absolute()


def may_lie_outside(tensor: TensorProto) -> bool:
    """Whether it is worth it, and of a type that can be mapped."""
    return light.is_large(tensor) and _width(tensor.data_type) is not None


def numbers(tensor: TensorProto) -> Array:
    """The tensor as an array; what lies outside is mapped from its file. TypeError, ValueError as of onnx."""
    if not is_outside(tensor):
        return np.asarray(numpy_helper.to_array(tensor))
    info, dtype = ExternalDataInfo(tensor), helper.tensor_dtype_to_np_dtype(tensor.data_type)
    try:
        return np.asarray(np.memmap(info.location, dtype, "r", info.offset or 0, tuple(tensor.dims)))
    except OSError as error:
        raise _gone(info.location, error) from error


def parts(tensor: TensorProto) -> Iterator[Array]:
    """The numbers in their order, flat, some at a time: what lies outside is never in memory as a whole."""
    if not is_outside(tensor):
        flat = np.asarray(numpy_helper.to_array(tensor)).reshape(-1)
        yield from (flat[start : start + NUMBERS_AT_ONCE] for start in range(0, flat.size, NUMBERS_AT_ONCE))
        return
    info, dtype = ExternalDataInfo(tensor), np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    left = math.prod(tensor.dims)
    try:
        with Path(info.location).open("rb") as file:
            file.seek(info.offset or 0)
            while left:
                part = np.fromfile(file, dtype, min(left, NUMBERS_AT_ONCE))
                if not part.size:
                    raise ValueError(f"{info.location} ends before the numbers do")
                yield part
                left -= part.size
    except OSError as error:
        raise _gone(info.location, error) from error


def point_at(tensor: TensorProto, folder: Path) -> None:
    """Turns a tensor of a file in `folder` into one outside. ValueError unless all its numbers are there."""
    info = ExternalDataInfo(tensor)
    path, offset, wanted = folder.resolve() / info.location, info.offset or 0, bytes_of(tensor)
    if info.length not in (None, wanted):
        raise ValueError(f"{info.location} gives {info.length} bytes to {tensor.name}, which takes {wanted}")
    there = path.stat().st_size
    if offset + wanted > there:
        raise ValueError(f"{info.location} ends at {there} bytes, where {tensor.name} goes on to {offset + wanted}")
    locate(tensor, str(path), offset, wanted)


def locate(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    """Says where its numbers lie, and takes out those it has. ValueError for a path that is no UTF-8."""
    try:
        location.encode()
    except UnicodeEncodeError as error:
        raise ValueError("its path is not UTF-8, which protobuf asks for") from error
    tensor.ClearField("raw_data")
    del tensor.external_data[:]
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)


# A model


def is_too_large(tensors: Iterable[TensorProto]) -> bool:
    """Whether protobuf has no room for a model of them."""
    return needs_two_files(sum(map(bytes_of, tensors)))


def needs_two_files(size: int) -> bool:
    """The same of a model with so many bytes of numbers."""
    return size >= LIMIT


def require_room_inside(tensors: Iterable[TensorProto]) -> None:
    """GraphError where protobuf has no room even for these, which cannot lie outside."""
    _require_room_inside(sum(map(bytes_of, tensors)))


def _require_room_inside(size: int) -> None:
    if size >= PROTOBUF:
        raise GraphError(f"the model must {WITHOUT_LARGE}, got {size / 2**30:.2f} GiB in {INSIDE}")


def move_out(graph: ir.Model, room: Room | None) -> None:
    """Puts the large initializers outside where there are too many for protobuf.

    Raises:
        GraphError: there are, and no room; or protobuf has none for what has to stay.
        FolderError: they cannot be written.
    """
    held = [value for value in graph.graph.initializers.values() if value.const_value is not None]
    tensors = [value.const_value for value in held if value.const_value is not None]
    total = sum(tensor.nbytes for tensor in tensors)
    if not needs_two_files(total):
        return
    if room is None:
        raise GraphError(broken_rule("the model", "stay below 2 GiB, protobuf's limit", f"{total / 2**30:.2f} GiB"))
    large = [value for value in held if _is_to_be_moved(value.const_value)]
    _require_room_inside(sum(tensor.nbytes for tensor in tensors if not _may_stay_outside(tensor)))
    moved = room.keep([value.const_value for value in large], total)
    for value, tensor in zip(large, moved, strict=True):
        value.const_value = tensor


def write_tensors(tensors: Sequence[Any], path: Path, folder: Path, afterwards: int = 0) -> list[ir.ExternalTensor]:
    """Writes those of onnx_ir into one file, each where a system can map it, and returns them as they are there.

    Args:
        tensors: they may lie in other files.
        path: the file.
        folder: where it is, as the user knows it.
        afterwards: bytes for which there has to be room too, for they are written while the file is there.

    Raises:
        FolderError: they do not fit, before anything is written if that shows; or the folder cannot be written.
        GraphError: a file that they lie in is gone.
    """
    import onnx_ir as ir

    require_text(path, folder)
    needed = sum(tensor.nbytes + ALIGNMENT for tensor in tensors) + afterwards
    twice = ", which are written twice" if afterwards else ""
    try:
        free = shutil.disk_usage(path.parent).free
        if free < needed:
            raise _no_space(folder, needed, twice, f"{free / 1e9:.2f} GB")
        return ir.external_data.convert_tensors_to_external(
            tensors, "", str(path), alignment=ALIGNMENT, align_threshold=0
        )
    except OSError as error:
        cause = error.strerror or str(error)
        if error.errno in NO_SPACE:
            raise _no_space(folder, needed, twice, cause) from error
        if not path.parent.exists():
            raise  # whoever made the folder tells that it has been moved
        for tensor in tensors:
            if isinstance(tensor, ir.ExternalTensor) and not Path(tensor.path).exists():
                raise _gone(str(tensor.path), error) from error
        raise FolderError(f"{folder} cannot be written: {cause}") from error


def folder_of(model: onnx.ModelProto) -> Path | None:
    """The innermost folder with everything in it that lies outside of the model; None if nothing does."""
    paths = [ExternalDataInfo(tensor).location for tensor in model.graph.initializer if is_outside(tensor)]
    return Path(os.path.commonpath([os.path.dirname(path) for path in paths])) if paths else None  # noqa: PTH120


def serialized(model: onnx.ModelProto) -> Serialized:
    """As runtimes take it. `model` is the caller's to give: it is changed, and no use afterwards.

    Raises:
        GraphError: it is above protobuf's limit without what lies outside.
    """
    folder = folder_of(model)
    for tensor in model.graph.initializer if folder is not None else ():
        if is_outside(tensor):
            info = ExternalDataInfo(tensor)
            relative = Path(info.location).relative_to(folder or "").as_posix()
            locate(tensor, relative, info.offset or 0, info.length or bytes_of(tensor))
    return Serialized(encoded(model), folder)


def encoded(model: onnx.ModelProto) -> bytes:
    """Its bytes. GraphError above protobuf's limit: of what never lies outside, such as many small tensors."""
    try:
        encoded: bytes = model.SerializeToString()
    except (ValueError, EncodeError) as error:
        raise GraphError(f"the model must {WITHOUT_LARGE}, but: {first_line(error)}") from error
    return encoded


def _is_to_be_moved(tensor: Any) -> bool:
    import onnx_ir as ir

    return not isinstance(tensor, ir.ExternalTensor) and _may_stay_outside(tensor)


def _may_stay_outside(tensor: Any) -> bool:
    return bool(tensor.size >= light.LARGE and _width(tensor.dtype.value) is not None)


def _width(data_type: int) -> int | None:
    """Bytes of a number; None where it has no such."""
    if data_type in (TensorProto.UNDEFINED, TensorProto.STRING) or data_type not in TensorProto.DataType.values():
        return None
    name = TensorProto.DataType.Name(data_type)
    return None if PACKED.match(name) else int(np.dtype(helper.tensor_dtype_to_np_dtype(data_type)).itemsize)


def _bits(data_type: int) -> int:
    """Bits of a number; 0 where it has none."""
    width = _width(data_type)
    if width is not None:
        return 8 * width
    known = data_type in TensorProto.DataType.values()
    found = PACKED.match(TensorProto.DataType.Name(data_type)) if known else None
    return int(found[1]) if found else 0


def _gone(location: str, error: OSError) -> GraphError:
    return GraphError(f"{location} must stay where it is while its model is read, but: {error.strerror or error}")


def _no_space(folder: Path, needed: int, twice: str, got: str) -> FolderError:
    size = f"{needed / 1e9:.2f} GB"
    return FolderError(
        f"{folder} must have room for {size} of weights{twice}, got {got}; free some, or write elsewhere"
    )
