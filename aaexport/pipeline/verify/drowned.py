"""A file whose outputs are smaller than a kernel is accurate → what it answers without that kernel.

Scores of 1e-8 are nothing but rounding where a sigmoid is 1e-7 off: any others would be as near. That the file is
right then shows where its sigmoids are written out, which is the same function, computed to every digit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from aaexport.errors import GraphError, RunnerError
from aaexport.graph.files import read_onnx
from aaexport.graph.serialized import Serialized
from aaexport.graph.written_out import without_sigmoid
from aaexport.parity import Array
from aaexport.runners.base import Runner

DROWNED = (
    "{name} of {case} is at most {size:.1e}, less than runtimes compute a sigmoid to: it was judged with "
    "1 / (1 + exp(-x)) in its place; return what the sigmoid is given if such outputs matter"
)


def answers_written_out(
    path: Path, start: Callable[[Serialized], Runner], batch: Array
) -> Mapping[str, Array] | None:
    """The file's outputs for `batch` where `start` runs it so; None if it has no sigmoid, or is refused."""
    try:
        model = without_sigmoid(read_onnx(path))
        if model is None:
            return None
        with start(model) as runner:
            return runner.infer({runner.inputs[0].name: batch})
    except (GraphError, RunnerError):
        return None  # nothing is shown, so nothing is excused
