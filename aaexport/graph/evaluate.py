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
from aaexport.graph.intermediate import read_by
from aaexport.graph.light import is_large, light
from aaexport.graph.outside import folder_of, numbers
from aaexport.graph.serialized import Serialized

Array = npt.NDArray[Any]
EVALUATOR = "onnx's reference evaluator"
REFERENCE_MACS = 500_000_000  # of a case; the evaluator takes about a second for them
OVERFLOW_MACS = 10 * REFERENCE_MACS  # of a single case, where only the evaluator sees what a CPU hides


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
        self._read_last = _read_last(self._evaluator)

    def evaluate(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs by name. GraphError if an operator refuses its inputs."""
        try:
            with np.errstate(all="ignore"):  # NaN and infinity are answers
                named = self._outputs(feeds)
        # As above.
        except Exception as error:
            raise GraphError(f"{EVALUATOR} cannot run the model: {first_line(error)}") from error
        for name, output in named.items():
            if output is None or isinstance(output, list | tuple | dict):
                raise GraphError(f"output {name} must be a tensor, got {type(output).__name__}")
        return {name: np.asarray(output) for name, output in named.items()}

    def _outputs(self, feeds: Mapping[str, Array]) -> dict[str, Any]:
        """As its own `run`, which would keep every tensor to the end: each is freed once it was read last."""
        known: dict[str, Any] = {"": None, **self._evaluator.rt_inits_, **self._outside, **feeds}
        for node, read_last in zip(self._evaluator.rt_nodes_, self._read_last, strict=True):
            inputs = [known[name] for name in node.input]
            outputs = node.run(*inputs, context=known) if node.need_context() else node.run(*inputs)
            del inputs
            # "" stays what is not there: it is also the name of an output that nobody wants.
            known.update(pair for pair in zip(node.output, outputs, strict=False) if pair[0])
            del outputs
            for name in read_last:
                known.pop(name, None)
        return {name: known[name] for name in self._evaluator.output_names}


def _read_last(evaluator: ReferenceEvaluator) -> list[tuple[str, ...]]:
    """For each node what is written by then and read by no later one, nor an output; subgraphs read as well."""
    needed = {"", *evaluator.output_names}
    freed: list[tuple[str, ...]] = []
    for node in reversed(evaluator.rt_nodes_):
        names = dict.fromkeys((*read_by(node.onnx_node), *node.output))
        freed.append(tuple(name for name in names if name not in needed))
        needed.update(names)
    return freed[::-1]
