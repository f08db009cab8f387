"""Small ONNX models in float32, what is seen of them on images, and what they answer in another precision."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
from graphs import graph
from onnx import numpy_helper

from aaexport.graph.check import check_model
from aaexport.graph.evaluate import Evaluator
from aaexport.graph.precision.float16 import to_float16
from aaexport.graph.precision.int8 import to_int8
from aaexport.graph.precision.observe import observe
from aaexport.graph.precision.ranges import RangeCollector
from aaexport.runners.ort import OrtRunner
from aaexport.runners.ort_settings import AS_WRITTEN


def model(nodes, inputs, constants=None, outputs=("y",), opset=20):
    """As `graphs.graph`, in float32."""
    return graph(nodes, inputs, constants or {}, outputs, opset, np.float32)


def images(*shape, seed=0, scale=1.0):
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def seen(given, kind, feeds, *, infinite=False):
    """Ranges of all that the pass wants to see."""
    observed = observe(given, kind)
    inner = [name for name in observed.names if name not in feeds]
    found = {name: array for name, array in feeds.items() if name in observed.names}
    if inner:
        found |= Evaluator(observed.answering(inner)).evaluate(feeds)
    collector = RangeCollector(observed.layers, infinite=infinite)
    collector.add(found, first=0, images=len(next(iter(feeds.values()))))
    return collector.ranges


def float16(given, feeds, *, infinite=False, **options):
    """What the pass makes of a model that is calibrated on `feeds`; it passes the checker."""
    return _checked(to_float16(given, seen(given, "float16", feeds, infinite=infinite), **options))


def int8(given, feeds, **options):
    """As `float16`."""
    return _checked(to_int8(given, seen(given, "int8", feeds), **options))


def evaluated(given, feeds):
    """By onnx's evaluator."""
    return Evaluator(given.SerializeToString()).evaluate(feeds)


def run(given, feeds, *, optimized=True):
    """By onnxruntime."""
    source = given.SerializeToString()
    with OrtRunner(source) if optimized else OrtRunner(source, AS_WRITTEN) as runner:
        return runner.infer(feeds)


def optimized(made, tmp_path):
    """Operators of what onnxruntime makes of a model."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3  # the file is for this machine only, which it warns of
    onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)


def decibels(expected, found):
    """Signal to noise, of arrays or of outputs by name: the least."""
    if isinstance(expected, dict):
        return min(decibels(expected[name], found[name]) for name in expected)
    signal = expected.astype(np.float64)
    noise = np.square(signal - found).sum()
    return float(10 * np.log10(np.square(signal).sum() / noise)) if noise else np.inf


def nodes_of(given, operator):
    return [node for node in given.graph.node if node.op_type == operator]


def types_of(given):
    """Names of initializers → their numpy types."""
    return {tensor.name: numpy_helper.to_array(tensor).dtype for tensor in given.graph.initializer}


def kept(reduced):
    """Nodes that stay in float32 → why."""
    return {each.layer.node: each.reason for each in reduced.kept}


def _checked(reduced):
    check_model(reduced.model)
    return reduced
