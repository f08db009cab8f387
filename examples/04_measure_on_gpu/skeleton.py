"""An ONNX file ↔ the same without its large weights: a hundredth of the size, and times are the same.

Weights come back as noise of the mean and spread that they had: what a GPU takes does not depend on them. Constants
of whole numbers and of zeros and ones stay, as does every small tensor.
"""

import numpy as np
import onnx
from onnx import numpy_helper

SMALL = 1024  # numbers
MARK = "noise of "


def packed(source, target):
    """Writes the skeleton of `source`."""
    model = onnx.load(source)
    for tensor in model.graph.initializer:
        if tensor.data_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16):
            continue
        array = numpy_helper.to_array(tensor)
        if array.size < SMALL or set(np.unique(array.ravel()[:4096])) <= {0.0, 1.0}:
            continue
        values = array.astype(np.float64)
        for field in ("raw_data", "float_data", "int32_data"):
            tensor.ClearField(field)
        tensor.doc_string = f"{MARK}{values.mean()} {values.std()}"
    onnx.save(model, target)


def unpacked(source, target, batch=None):
    """Writes the file back, with noise for weights, the same every time; and with that batch, where one is given.

    With a batch that is known onnxruntime computes all sizes beforehand, for every side alike.
    """
    model, random = onnx.load(source), np.random.default_rng(0)
    for tensor in model.graph.initializer:
        if not tensor.doc_string.startswith(MARK):
            continue
        mean, spread = map(float, tensor.doc_string.removeprefix(MARK).split())
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        noise = mean + spread * random.standard_normal(tuple(tensor.dims), dtype=np.float32)
        tensor.CopyFrom(numpy_helper.from_array(noise.astype(kind), tensor.name))
    if batch is not None:
        for port in (*model.graph.input, *model.graph.output):
            port.type.tensor_type.shape.dim[0].dim_value = batch
        del model.graph.value_info[:]  # which call it open
    onnx.save(model, target)
