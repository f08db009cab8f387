"""onnx's reference evaluator as a runner: what the file says, whatever a runtime makes of it."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from aaexport.errors import GraphError, RunnerError
from aaexport.graph.evaluate import Evaluator
from aaexport.graph.files import TensorInfo
from aaexport.graph.serialized import Serialized
from aaexport.runners.base import Array, Arrays, Port, numpy_type


class ReferenceRunner:
    """A file, or a model without one as of OrtRunner, in the evaluator. RunnerError if it cannot be loaded."""

    label = "onnx reference"

    def __init__(self, source: Path | bytes | Serialized) -> None:
        try:
            self._evaluator = Evaluator(source)
        except GraphError as error:
            raise RunnerError(str(error)) from error
        self.inputs = tuple(_port(tensor) for tensor in self._evaluator.inputs)

    def infer(self, feeds: Arrays) -> dict[str, Array]:
        """Evaluates the graph node by node."""
        try:
            return self._evaluator.evaluate(feeds)
        except GraphError as error:
            raise RunnerError(str(error)) from error

    def __enter__(self) -> ReferenceRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._evaluator


def _port(tensor: TensorInfo) -> Port:
    try:
        dtype = numpy_type(tensor.dtype)
    except TypeError as error:
        raise RunnerError(f"input {tensor.name} must be a tensor of numbers, got {tensor.dtype}") from error
    return Port(tensor.name, dtype, tuple(size if isinstance(size, int) else None for size in tensor.shape))
