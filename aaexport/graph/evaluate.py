"""ONNX file → its outputs by onnx's reference evaluator: the specification in numpy, slow and unoptimized."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx.reference import ReferenceEvaluator

from aaexport.errors import GraphError, first_line
from aaexport.graph.files import model_inputs, parse_serialized, read_onnx
from aaexport.graph.light import is_large, light
from aaexport.graph.outside import folder_of, numbers
from aaexport.graph.serialized import Serialized

Array = npt.NDArray[Any]
EVALUATOR = "onnx's reference evaluator"


class Evaluator:
    """A model that the evaluator has loaded, from a file or without one. What lies outside is only mapped.

    Raises:
        GraphError: it is not a whole ONNX model, or holds an operator that the evaluator does not know.
    """

    def __init__(self, source: Path | bytes | Serialized) -> None:
        if isinstance(source, bytes):
            source = Serialized(source)
        model = parse_serialized(source) if isinstance(source, Serialized) else read_onnx(source)
        self.inputs = model_inputs(model)
        self._outside: dict[str, Array] = {}
        if folder_of(model) is not None:
            self._outside = {t.name: numbers(t) for t in model.graph.initializer if is_large(t)}
            model = light(model)
        try:
            self._evaluator = ReferenceEvaluator(model)
        # It raises whatever its parts raise: there is no common base.
        except Exception as error:
            raise GraphError(f"{EVALUATOR} cannot load the model: {first_line(error)}") from error

    def evaluate(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs by name. GraphError if an operator refuses its inputs."""
        try:
            with np.errstate(all="ignore"):  # NaN and infinity are answers
                outputs = self._evaluator.run(None, {**self._outside, **feeds})
        # As above.
        except Exception as error:
            raise GraphError(f"{EVALUATOR} cannot run the model: {first_line(error)}") from error
        named = dict(zip(self._evaluator.output_names, outputs, strict=True))
        for name, output in named.items():
            if output is None or isinstance(output, list | tuple | dict):
                raise GraphError(f"output {name} must be a tensor, got {type(output).__name__}")
        return {name: np.asarray(output) for name, output in named.items()}
