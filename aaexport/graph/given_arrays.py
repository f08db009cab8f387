"""Files of arrays → arrays: numpy's .npz, and tensors as onnx keeps them beside a model (`input_0.pb`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError
from onnx import TensorProto, numpy_helper

from aaexport.errors import DataError, broken_rule, first_line

Array = npt.NDArray[Any]
NUMBERED = "input_*.pb"


def read_npz(path: Path) -> dict[str, Array]:
    """The arrays of an .npz by name. ValueError, or what numpy, zipfile and zlib raise, if it is none."""
    file = np.load(path, allow_pickle=False)
    if not isinstance(file, np.lib.npyio.NpzFile):
        raise ValueError("it is no .npz archive")
    with file:
        arrays = {name: file[name] for name in file.files}
    strange = [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]
    if strange:
        raise ValueError(f"{strange[0]} is no array")
    return arrays


def read_tensors(folder: Path, inputs: Sequence[str]) -> dict[str, Array]:
    """The arrays of input_0.pb, input_1.pb, … by the names of the model's inputs: their own, or those in order.

    Raises:
        DataError: a file holds no tensor, or is of an input that the model does not have, or has a file already.
    """
    found: dict[str, Array] = {}
    for path in sorted(folder.glob(NUMBERED), key=_number):
        tensor = _read(path)
        name = tensor.name if tensor.name in inputs else None
        if name is None and _number(path) < len(inputs):
            name = inputs[_number(path)]
        if name is None:
            raise DataError(broken_rule(str(path), f"be of an input ({', '.join(inputs) or 'none'})", tensor.name))
        if name in found:
            raise DataError(broken_rule(str(path), "be of an input that no other file is of", name))
        found[name] = _numbers(tensor, path)
    return found


def _number(path: Path) -> int:
    digits = path.stem.rpartition("_")[2]
    return int(digits) if digits.isdigit() else 0


def _numbers(tensor: TensorProto, path: Path) -> Array:
    if tensor.data_location == TensorProto.EXTERNAL:
        raise DataError(f"{path} must hold its numbers itself, got a tensor with numbers in another file")
    try:
        return np.asarray(numpy_helper.to_array(tensor))
    # It raises whatever numpy and its own tables of types do.
    except Exception as error:
        raise DataError(f"{path} must be a whole tensor, but: {first_line(error)}") from error


def _read(path: Path) -> TensorProto:
    tensor = TensorProto()
    try:
        tensor.ParseFromString(path.read_bytes())
    except (OSError, DecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "its bytes are not a tensor"
        raise DataError(f"{path} must be a whole tensor, but: {cause}") from error
    if not tensor.data_type:
        raise DataError(f"{path} must be a whole tensor, but: it holds something else")
    return tensor
