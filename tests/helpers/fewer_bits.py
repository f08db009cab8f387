"""A model folder with a file in float16 and one in int8 beside its model.onnx, made without training or export."""

import json

import numpy as np
import precision_graphs
from deployable import CLASSES, digits_folder
from onnx import numpy_helper, save
from safetensors.numpy import save_file

from aaexport.folder import sha256
from aaexport.graph.evaluate import Evaluator

IMAGES = np.random.default_rng(1).standard_normal((16, 1, 8, 8)).astype(np.float32)


def folder_in_fewer_bits(path, **io):
    """The digits' recipe with a convolution and its means, in all three precisions, each with its guard's verdict."""
    folder = digits_folder(path)
    weight = np.random.default_rng(2).standard_normal((CLASSES, 1, 3, 3)).astype(np.float32)
    model = precision_graphs.model(
        [("Conv", ["input", "w"], ["maps"], {"pads": [1, 1, 1, 1]}), ("Relu", ["maps"], ["positive"], {}),
         ("ReduceMean", ["positive", "axes"], ["logits"], {"keepdims": 0})],
        {"input": ("N", 1, 8, 8)}, {"w": weight, "axes": np.array([2, 3], np.int64)}, outputs=("logits",),
    )  # fmt: skip
    save(model, folder.onnx_path)
    save(precision_graphs.int8(model, {"input": IMAGES}).model, folder.onnx_of("int8"))
    save(precision_graphs.float16(model, {"input": IMAGES}, **io).model, folder.onnx_of("float16"))
    images = IMAGES[:4]
    logits = Evaluator(folder.onnx_path).evaluate({"input": images})["logits"]
    save_file({"input": images, "logits": np.ascontiguousarray(logits)}, folder.golden_path)
    for dtype in ("int8", "float16"):
        judged(folder, dtype)
    return folder


def judged(folder, dtype, *, passed=True):
    """Writes what the guard would have said of the folder's file."""
    record = {"passed": passed, "max_abs_error": None, "onnx_sha256": sha256(folder.onnx_of(dtype))}
    record["guard"] = {"kind": dtype, "data": "16 images", "rows": [], "accuracy": None}
    folder.parity_of(dtype).write_text(json.dumps(record))


def spoilt(folder, dtype, *, by=1.1):
    """The folder's file with another number in it, as a stale or half-replaced one has; its verdict goes with it."""
    import onnx

    path = folder.onnx_of(dtype)
    model = onnx.load(path)
    fractions = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    tensor = next(each for each in model.graph.initializer if each.data_type in fractions)
    numbers = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(numbers * numbers.dtype.type(by), tensor.name))
    save(model, path)
    judged(folder, dtype)
