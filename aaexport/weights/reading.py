"""A checkpoint file → the tensors, numbers and containers in it; what else it holds is refused and never run."""

from __future__ import annotations

import re
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aaexport.errors import WeightsError, broken_rule, first_line
from aaexport.weights.safetensors import read_tensors

ZIP = b"PK\3\4"  # today's format of torch.save; only this one can be mapped into memory
HEAD = 1024  # bytes that tell what a file is
PICKLE_HEAD = 1 << 20  # of the old format: its pickle comes first, the tensors' values after it
RESAVE = 'whoever trained it can save torch.save(model.state_dict(), "weights.pt")'
LIES_ELSEWHERE = "download the file itself"
# What checkpoints turn out to be, by how they begin.
IMPOSTORS: tuple[tuple[tuple[bytes, ...], str, str], ...] = (
    ((b"version https://git-lfs",), "a Git LFS pointer", "fetch what it points to with `git lfs pull`"),
    ((b"<!doctype html", b"<html", b"<?xml"), "a web page", LIES_ELSEWHERE),
    (
        # The tags of a table and of a Torch object, each the file's first, in binary and in text.
        (b"\3\0\0\0\1\0\0\0", b"\4\0\0\0\1\0\0\0", b"3\n1\n", b"4\n1\n"),
        "a file of Lua Torch7, not of PyTorch",
        "convert its tensors to safetensors first, for example with the Python package torchfile",
    ),
    ((b"\x1f\x8b", b"bzh", b"\xfd7zxz", b"7z\xbc\xaf"), "a compressed file", "unpack it first"),
    ((b"\x89hdf\r\n",), "an HDF5 file", "convert its tensors to safetensors first"),
    ((b"\x93numpy",), "a NumPy array", "convert its tensors to safetensors first"),
    ((b"{", b"["), "a JSON text", "give the file that holds the tensors"),
)


def read_contents(path: Path) -> Any:
    """Everything that the file holds: of safetensors a dict of tensors, else whatever was given to `torch.save`.

    Tensors are on the CPU, and of files in today's formats they stay on the disk until they are used.

    Raises:
        WeightsError: not there, empty, truncated, of another format, or holding what only code could rebuild.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError as error:
        raise WeightsError(f"{path} must be a readable file, but: {error.strerror or error}") from error
    if _is_safetensors(head):
        return read_tensors(path)
    _refuse_impostors(path, head)
    return read_tensors(path) if path.suffix == ".safetensors" else _unpickled(path, zipped=head.startswith(ZIP))


def _is_safetensors(head: bytes) -> bool:
    """A length of eight bytes, then a header in JSON."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 30


def _refuse_impostors(path: Path, head: bytes) -> None:
    if not head:
        raise WeightsError(f"{path} must be a checkpoint, got an empty file; {LIES_ELSEWHERE} again")
    start = head.lstrip().lower()
    for beginnings, kind, remedy in IMPOSTORS:
        if head.startswith(beginnings) or start.startswith(beginnings):
            raise WeightsError(f"{path} must be a checkpoint, got what looks like {kind}; {remedy}")


class _NumpyType:
    """Stands for numpy.dtype in a pickle, so that no file gets at numpy's own machinery."""

    def __init__(self, code: Any, *_flags: Any) -> None:
        self.dtype = np.dtype(str(code))
        if self.dtype.kind not in "biufcSU":
            raise ValueError(broken_rule("a NumPy scalar", "be a number or a string", str(self.dtype)))

    def __setstate__(self, state: Any) -> None:
        """Takes the byte order, the only part that the code of a number's or a string's type leaves open."""
        self.dtype = self.dtype.newbyteorder(state[1])


def _numpy_scalar(kind: _NumpyType, data: bytes) -> Any:
    """Stands for numpy's own function, which could unpickle objects."""
    return np.frombuffer(data, kind.dtype, count=1)[0]


ALLOWED = (
    (_NumpyType, "numpy.dtype"),
    (_numpy_scalar, "numpy.core.multiarray.scalar"),
    (_numpy_scalar, "numpy._core.multiarray.scalar"),
)


def _unpickled(path: Path, *, zipped: bool) -> Any:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(ALLOWED)):
            warnings.simplefilter("ignore")  # on old pickle protocols and storages: the result tells
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    # Of a damaged file the unpickler raises whatever the damage leads it to.
    except Exception as error:
        raise _refusal(path, error, zipped) from error


def _refusal(path: Path, error: Exception, zipped: bool) -> WeightsError:
    refused = re.search(r"GLOBAL ([\w.]+)", str(error))
    if refused and _holds_a_module(path, zipped):
        what = f"a whole pickled module ({refused[1]}), which only its own code could rebuild"
        remedy = f"where that code is, save its state_dict: {RESAVE.removeprefix('whoever trained it can save ')}"
        return WeightsError(f"{path} must hold a state_dict, got {what}; {remedy}")
    if refused:
        what = f"{refused[1]}, for which code would have to run"
        return WeightsError(f"{path} must hold tensors and plain values only, got {what}: refused; {RESAVE}")
    if "TorchScript" in str(error):
        return WeightsError(f"{path} must be a checkpoint, got a TorchScript archive; {RESAVE}")
    if zipped and not zipfile.is_zipfile(path):
        return WeightsError(f"{path} must be whole, got a zip archive without its end; {LIES_ELSEWHERE} again")
    return WeightsError(f"{path} must be a whole file of torch.save or safetensors, but: {_cause(error)}; {RESAVE}")


def _holds_a_module(path: Path, zipped: bool) -> bool:
    """Whether the pickle has the attributes of an nn.Module; told without unpickling."""
    pickle = _zipped_pickle(path) if zipped else _head(path)
    return all(attribute in pickle for attribute in (b"_parameters", b"_buffers", b"_modules"))


def _zipped_pickle(path: Path) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("data.pkl")]
            return b"".join(archive.open(name).read(PICKLE_HEAD) for name in pickles[:1])
    # Damaged, encrypted, or compressed in an unknown way: the file is refused all the same, only in other words.
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError):
        return b""


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(PICKLE_HEAD)


def _cause(error: Exception) -> str:
    """The first sentence of torch's text, without its advice to run the file all the same."""
    own = re.search(r"WeightsUnpickler error:\s*(\S.*)", str(error))
    sentence = own[1] if own else first_line(error)
    return sentence.partition(". ")[0].rstrip(".:") or type(error).__name__
