"""Whether it may be a kernel's doing, and not the file's, that NaN and infinity do not spread as in PyTorch.

ONNX does not say what becomes of NaN in a maximum, nor whether one NaN is like another, and kernels lose it. But a
file must not bring its own excuse: what may lose NaN is what the model itself is known to compute, and only where NaN
arrived there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from aaexport.errors import RunnerError
from aaexport.graph.files import read_onnx
from aaexport.graph.intermediate import NodeFacts, exposing, input_names, output_names, read_nodes
from aaexport.parity import Array
from aaexport.runners.ort import OrtRunner
from aaexport.runners.ort_settings import AS_WRITTEN

# Operators of torch, by how their names begin → those of ONNX that stand for them and whose kernels lose NaN.
LOSE_NAN: Mapping[str, frozenset[str]] = {
    r"(mkldnn_|quantized_|adaptive_|fractional_)?max_pool": frozenset({"MaxPool", "GlobalMaxPool", "ReduceMax"}),
    r"(a?max|a?min|aminmax|f?maximum|f?minimum|fmax|fmin)\b": frozenset({"Max", "Min", "ReduceMax", "ReduceMin"}),
    r"(clamp|clip|hardtanh|relu6|threshold|hardswish|hardsigmoid)": frozenset({"Clip", "Max", "Min"}),
    r"(topk|m?sort|argsort|kthvalue|(nan)?median|(nan)?quantile)": frozenset({"TopK"}),
    r"(logsumexp|(linalg_vector_)?norm\b)": frozenset({"ReduceMax", "ReduceMin"}),
    r"grid_sampler": frozenset({"GridSample"}),
    r"_?unique": frozenset({"Unique"}),
    r"(_?fft_|i?stft)": frozenset({"DFT", "STFT"}),
    r"(arc|a)tan2": frozenset({"IsNaN"}),  # torch's exporter writes 0 for NaN
    r"(sign|sgn)\b": frozenset({"Sign"}),  # 0 in torch; ONNX does not say
    r"logit\b": frozenset({"Less"}),  # torch's exporter bounds by comparisons, which leave NaN out
    r"heaviside": frozenset({"Less"}),  # torch's exporter writes 1 for NaN, torch 0
    r"(lstm|mkldnn_rnn|quantized_lstm)": frozenset({"LSTM"}),
    r"gru": frozenset({"GRU"}),
    r"rnn": frozenset({"RNN"}),
}

ALL_LOSE_NAN = frozenset(name for names in LOSE_NAN.values() for name in names)


def losing_nan(operators: Iterable[str]) -> frozenset[str]:
    """The operators of ONNX that may lose NaN in the place of those of torch, which are named as in `aten`."""
    called = tuple(operators)
    return frozenset(
        onnx_name
        for pattern, names in LOSE_NAN.items()
        if any(re.match(pattern, name) for name in called)
        for onnx_name in names
    )


class Arrivals:
    """Where in a file NaN and infinity arrive at operators that may lose them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[tuple[bytes, frozenset[str]], bool] = {}

    def at(self, operators: frozenset[str], batch: Array) -> bool:
        """Whether a number that is not finite arrives at one of `operators` that decides the outputs."""
        key = (batch.tobytes(), operators)
        if key not in self._known:
            self._known[key] = self._arrive(operators, batch)
        return self._known[key]

    def _arrive(self, operators: frozenset[str], batch: Array) -> bool:
        model = read_onnx(self._path)
        fed = set(input_names(model))
        nodes = _live(read_nodes(model), output_names(model))
        written = fed.union(name for node in nodes for name in node.outputs)
        read = written.intersection(name for node in nodes if node.operator in operators for name in node.inputs)
        if not read or read & fed:
            return bool(read)  # by the images themselves, or by nothing
        try:
            with OrtRunner(exposing(model, sorted(read)), AS_WRITTEN) as runner:
                arrived = runner.infer({runner.inputs[0].name: batch})
        except RunnerError:
            return False
        return any(array.dtype.kind == "f" and not np.isfinite(array).all() for array in arrived.values())


def _live(nodes: Sequence[NodeFacts], outputs: Iterable[str]) -> list[NodeFacts]:
    """Those on which the outputs depend."""
    needed, live = set(outputs), []
    for node in reversed(nodes):
        if needed.intersection(node.outputs):
            live.append(node)
            needed.update(node.inputs)
    return live
