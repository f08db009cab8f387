"""What other tools make of a model in float32: the oracles of our passes."""

import tempfile
import warnings
from pathlib import Path

import onnx
from onnxconverter_common import float16 as converter
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static


class Once(CalibrationDataReader):
    def __init__(self, feeds):
        self._feeds = iter([feeds])

    def get_next(self):
        return next(self._feeds, None)


def by_converter(given):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights that become 0
        return converter.convert_float_to_float16(given, keep_io_types=True)


def by_quantizer(given, feeds):
    """onnxruntime's: convolutions with their ReLUs, a scale for each channel, unsigned throughout."""
    with tempfile.TemporaryDirectory() as folder:
        source, path = Path(folder) / "given.onnx", Path(folder) / "quantized.onnx"
        onnx.save(given, source)
        quantize_static(
            source, path, Once(feeds), quant_format=QuantFormat.QDQ, op_types_to_quantize=["Conv", "Relu"],
            per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QUInt8,
        )  # fmt: skip
        return onnx.load(path)
