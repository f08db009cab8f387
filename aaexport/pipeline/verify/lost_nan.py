"""Whether it may be a kernel's doing, and not the file's, that NaN and infinity do not spread as in PyTorch.

ONNX does not say what becomes of NaN in a maximum, nor whether one NaN is like another, and kernels lose it. But a
file must not bring its own excuse: what may lose NaN is what the model itself is known to compute, and only where NaN
arrived there.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from aaexport.errors import RunnerError
from aaexport.graph.files import OnnxModel, read_onnx
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
    r"(sign|sgn)_?$": frozenset({"Sign"}),  # 0 in torch; ONNX does not say
    r"logit_?$": frozenset({"Less"}),  # torch's exporter bounds by comparisons, which leave NaN out
    r"heaviside_?$": frozenset({"Less"}),  # torch's exporter writes 1 for NaN, torch 0
    r"(lstm|mkldnn_rnn|quantized_lstm)": frozenset({"LSTM"}),
    r"gru": frozenset({"GRU"}),
    r"rnn": frozenset({"RNN"}),
}

NAN_ALONE = frozenset({"Sign", "Less"})  # of which ONNX does say what they make of infinity
# Where the model's operators are not known, none of those that stand for themselves everywhere else.
ALL_LOSE_NAN = frozenset(name for names in LOSE_NAN.values() for name in names) - NAN_ALONE


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
        self._known: dict[tuple[bytes, frozenset[str]], frozenset[str]] = {}

    def deciding(self, operators: frozenset[str], batch: Array) -> frozenset[str]:
        """The outputs that one of `operators` decides at which a number arrives that is not finite."""
        key = (batch.tobytes(), operators)
        if key not in self._known:
            self._known[key] = self._deciding(operators, batch)
        return self._known[key]

    def _deciding(self, operators: frozenset[str], batch: Array) -> frozenset[str]:
        model = read_onnx(self._path)
        fed, nodes = set(input_names(model)), read_nodes(model)
        written = fed.union(name for node in nodes for name in node.outputs)
        reads = {
            output: {
                (name, node.operator)
                for node in _live(nodes, [output])
                if node.operator in operators
                for name in written.intersection(node.inputs)
            }
            for output in output_names(model)
        }
        arrived = self._arrived(model, {name for read in reads.values() for name, _ in read} - fed, batch)
        arrived |= dict.fromkeys(fed, batch)
        return frozenset(
            output
            for output, read in reads.items()
            if any(name in arrived and _may_be_lost(arrived[name], operator) for name, operator in read)
        )

    def _arrived(self, model: OnnxModel, names: Collection[str], batch: Array) -> dict[str, Array]:
        if not names:
            return {}
        try:
            with OrtRunner(exposing(model, sorted(names)), AS_WRITTEN) as runner:
                return dict(runner.infer({runner.inputs[0].name: batch}))
        except RunnerError:
            return {}


def _may_be_lost(array: Array, operator: str) -> bool:
    """Whether one of the numbers is NaN, or infinite where the operator may lose that too."""
    if array.dtype.kind != "f":
        return False
    return bool(np.isnan(array).any() if operator in NAN_ALONE else not np.isfinite(array).all())


def _live(nodes: Sequence[NodeFacts], outputs: Iterable[str]) -> list[NodeFacts]:
    """Those on which the outputs depend."""
    needed, live = set(outputs), []
    for node in reversed(nodes):
        if needed.intersection(node.outputs):
            live.append(node)
            needed.update(node.inputs)
    return live
