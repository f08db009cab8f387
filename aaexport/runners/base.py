"""The Runner protocol: what parity and load know of a runtime."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]


@dataclass(frozen=True)
class Port:
    """One input or output of a runner; a dimension is None where any size goes."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]


def numpy_type(name: str) -> np.dtype[Any]:
    """ONNX's name of a type, `float`, `int64` … → numpy's. TypeError if numpy has no such type."""
    return np.dtype({"float": "float32", "double": "float64"}.get(name, name))


def for_native_code(model: Path | bytes) -> str | bytes:
    """A file as runtimes take it: by its path in UTF-8, whatever the locale is; by its bytes where it has none."""
    if isinstance(model, bytes):
        return model
    try:
        return os.fsencode(model).decode()
    except UnicodeDecodeError:
        return model.read_bytes()


class Runner(Protocol):
    """A loaded model. `infer` answers with host arrays when the device is done, so a clock around it is honest."""

    @property
    def label(self) -> str:
        """Runtime, device and precision, for people: `onnxruntime CPU`."""

    @property
    def inputs(self) -> tuple[Port, ...]:
        """What `infer` must be fed."""

    def infer(self, feeds: Arrays) -> dict[str, Array]:
        """The outputs by name, for inputs by name. RunnerError if the runtime refuses."""

    def __enter__(self) -> Runner: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
