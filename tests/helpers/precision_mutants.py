"""Reduced files with a fault in them, as tools and typing errors make them: what a guard has to find.

Those of `INT8` and `FLOAT16` take a right file and return another; `everywhere` puts the faults of int8 that lie in
one place into the first, a middle and the last one. Some faults are made with the file: `calibrated_on_noise`,
`overflow_hidden` and `quantized_against_its_word` take the float32 model.
"""

from functools import partial

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper
from precision_graphs import seen
from surgery import numbers, producer, put, readers

from aaexport.graph.precision.float16 import to_float16
from aaexport.graph.precision.int8 import to_int8
from aaexport.graph.precision.kinds import REDUCTION_KEY
from aaexport.graph.precision.ranges import Range


def copied(model):
    other = onnx.ModelProto()
    other.CopyFrom(model)
    return other


def activations(graph):
    """(QuantizeLinear, DequantizeLinear) of every tensor in 8 bits, in their order."""
    quantized = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    return [(node, readers(graph, node.output[0])[0]) for node in quantized]


def weights(graph):
    """The DequantizeLinear of the weight of every convolution in 8 bits."""
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    writers = {value: node for node in graph.node for value in node.output}
    return [writers[node.input[1]] for node in convolutions if node.input[1] in writers]


def biases(graph):
    """The DequantizeLinear of every bias in 32 bits; symmetric files have none."""
    convolutions = [node for node in graph.node if node.op_type == "Conv" and len(node.input) > 2]
    writers = {value: node for node in graph.node for value in node.output}
    return [writers[node.input[2]] for node in convolutions if node.input[2] in writers]


def own(graph, node: NodeProto, place, array):
    """Gives a node an input of its own, with other numbers."""
    name = f"mutant_{node.output[0]}_{place}"
    graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    node.input[place] = name


def scale_off(index=0, factor=2.0, *, reader_only=True):
    """A tensor's scale is a multiple of the right one, for who reads it; or on both sides: it clips, or is coarse."""

    def spoil(model):
        bad = copied(model)
        quantize, dequantize = activations(bad.graph)[index]
        wrong = np.float32(numbers(bad.graph, quantize.input[1]) * factor)
        for node in (dequantize,) if reader_only else (quantize, dequantize):
            own(bad.graph, node, 1, wrong)
        return bad

    return spoil


def zero_point_shifted(index=0, by=1):
    """A tensor's zero point is another one for who reads it."""

    def spoil(model):
        bad = copied(model)
        _, dequantize = activations(bad.graph)[index]
        right = numbers(bad.graph, dequantize.input[2])
        shifted = int(right) + (by if int(right) + by <= np.iinfo(right.dtype).max else -by)
        own(bad.graph, dequantize, 2, right.dtype.type(shifted))
        return bad

    return spoil


def scales_swapped(one=0, other=1):
    """Two tensors have each other's scale, on both sides."""

    def spoil(model):
        bad = copied(model)
        pairs = [activations(bad.graph)[index] for index in (one, other)]
        scales = [numbers(bad.graph, quantize.input[1]) for quantize, _ in pairs]
        for pair, scale in zip(pairs, reversed(scales), strict=True):
            for node in pair:
                own(bad.graph, node, 1, scale)
        return bad

    return spoil


def _stored(graph, dequantize, scales, limit=127):
    """Stores a weight anew by other scales."""
    stored, before, zeros = (numbers(graph, name) for name in dequantize.input)
    middle = _by_channel(zeros, stored)
    real = (stored.astype(np.float64) - middle) * _by_channel(before, stored)
    signed = np.clip(np.rint(real / _by_channel(scales, stored)), -limit, limit)
    put(graph, dequantize.input[0], (signed + middle).astype(stored.dtype))
    put(graph, dequantize.input[1], scales.astype(np.float32))


def _by_channel(scales, stored):
    return scales.astype(np.float64).reshape(-1, *[1] * (stored.ndim - 1))


def per_tensor(indices=None):
    """The weights of these convolutions, or of all, have one scale for all channels: that of the largest."""

    def spoil(model):
        bad = copied(model)
        found = weights(bad.graph)
        for node in found if indices is None else [found[index] for index in indices]:
            scales = numbers(bad.graph, node.input[1])
            _stored(bad.graph, node, np.full_like(scales, scales.max()))
        return bad

    return spoil


def weight_saturated(index=0, factor=0.5):
    """The scales of a weight are too small: its large numbers are cut off."""

    def spoil(model):
        bad = copied(model)
        node = weights(bad.graph)[index]
        _stored(bad.graph, node, numbers(bad.graph, node.input[1]) * np.float32(factor))
        return bad

    return spoil


def channel_scales_rolled(index=0):
    """Each channel of a weight has its neighbour's scale."""

    def spoil(model):
        bad = copied(model)
        name = weights(bad.graph)[index].input[1]
        put(bad.graph, name, np.roll(numbers(bad.graph, name), 1))
        return bad

    return spoil


def bias_off(index=0, factor=2.0):
    """A bias has another scale than input scale · weight scale."""

    def spoil(model):
        bad = copied(model)
        node = biases(bad.graph)[index]
        own(bad.graph, node, 1, numbers(bad.graph, node.input[1]) * np.float32(factor))
        return bad

    return spoil


def attention_quantized(model):
    """Weights of attention are in 8 bits, and so are the scores of which they are made: from −128 to 127 each."""
    bad = copied(model)
    for softmax in [node for node in bad.graph.node if node.op_type == "Softmax"]:
        _round(bad.graph, softmax.input[0], 1.0, np.int8(0))
        _round(bad.graph, softmax.output[0], 1 / 255, np.uint8(0))
    return bad


def _round(graph, value, scale, zero_point):
    """Quantizes and dequantizes a tensor for all who read it."""
    source = producer(graph, value)
    name = f"mutant_{value}"
    for suffix, array in (("scale", np.float32(scale)), ("zero_point", zero_point)):
        graph.initializer.append(numpy_helper.from_array(np.asarray(array), f"{name}_{suffix}"))
    for reader in readers(graph, value):
        reader.input[:] = [f"{name}_rounded" if each == value else each for each in reader.input]
    steps = [f"{name}_scale", f"{name}_zero_point"]
    place = list(graph.node).index(source) + 1
    graph.node.insert(place, helper.make_node("QuantizeLinear", [value, *steps], [f"{name}_stored"], f"{name}_1"))
    graph.node.insert(
        place + 1, helper.make_node("DequantizeLinear", [f"{name}_stored", *steps], [f"{name}_rounded"], f"{name}_2")
    )


INT8 = {
    "a scale off by 2": scale_off(1),
    "a scale off by 2 on both sides, which clips": scale_off(1, 0.5, reader_only=False),
    "the input's scale off by 2": scale_off(0),
    "a zero point shifted": zero_point_shifted(1),
    "a zero point shifted by 16": zero_point_shifted(1, 16),
    "per-tensor where per-channel was": per_tensor(),
    "per-tensor in one layer": per_tensor([1]),
    "a saturated weight": weight_saturated(1),
    "weights of all channels with the neighbour's scale": channel_scales_rolled(1),
    "a bias off by 2": bias_off(0),
    "attention quantized": attention_quantized,
    "scales of two tensors swapped": scales_swapped(1, 2),
}


def _on_another_grid(model, index):
    """The next tensor, around the end, that has another scale: where numbers are moved two share one."""
    scales = [float(numbers(model.graph, quantize.input[1])) for quantize, _ in activations(model.graph)]
    others = (*range(index + 1, len(scales)), *range(index))
    return next(other for other in others if scales[other] != scales[index])


def everywhere(model):
    """(what is wrong and where, file) of each fault of int8 in one place: the first, a middle and the last."""
    tensors, constants, added = (len(find(model.graph)) for find in (activations, weights, biases))
    faults = {
        "a scale off by 2": (scale_off, tensors),
        "a scale off by 2 on both sides, which clips": (partial(scale_off, factor=0.5, reader_only=False), tensors),
        "a scale off by 2 on both sides, which is coarse": (partial(scale_off, reader_only=False), tensors),
        "a zero point shifted": (zero_point_shifted, tensors),
        "a zero point shifted by 16": (partial(zero_point_shifted, by=16), tensors),
        "per-tensor where per-channel was": (lambda place: per_tensor([place]), constants),
        "a saturated weight": (weight_saturated, constants),
        "channels with the neighbour's scale": (channel_scales_rolled, constants),
        "a bias off by 2": (bias_off, added),
        "scales of two tensors swapped": (
            lambda place: scales_swapped(place, _on_another_grid(model, place)),
            tensors,
        ),
    }
    for name, (fault, count) in faults.items():
        for place in sorted({0, count // 2, count - 1}) if count > 0 else ():
            yield f"{name}, {place + 1} of {count}", fault(place)(model)


# Made from the float32 model


def calibrated_on_noise(model, shape, *, seed=0, scale=0.1, **options):
    """int8 with the ranges of noise that is fainter than images, in the place of theirs."""
    name = model.graph.input[0].name
    noise = np.random.default_rng(seed).standard_normal(shape) * scale
    return to_int8(model, seen(model, "int8", {name: noise.astype(np.float32)}), **options).model


def quantized_against_its_word(model, ranges, node, **options):
    """int8 of a model, with the metadata of a file in which that convolution is said to be in float32."""
    bad, told = to_int8(model, ranges, **options).model, to_int8(model, ranges, keep=[node], **options).model
    (words,) = (entry.value for entry in told.metadata_props if entry.key == REDUCTION_KEY)
    for entry in bad.metadata_props:
        if entry.key == REDUCTION_KEY:
            entry.value = words
    return bad


def louder_attention(model, factor):
    """The float32 model whose queries and keys are so many times larger: the same network, harder to hold."""
    loud = copied(model)
    for softmax in [node for node in loud.graph.node if node.op_type == "Softmax"]:
        for name in producer(loud.graph, softmax.input[0]).input:
            _multiply(loud.graph, name, factor)
    return loud


def _multiply(graph, value, factor):
    """Multiplies a tensor for its only reader."""
    (reader,) = readers(graph, value)
    name = f"mutant_{value}_factor"
    graph.initializer.append(numpy_helper.from_array(np.float32([factor]), name))
    place = list(graph.node).index(reader)
    graph.node.insert(place, helper.make_node("Mul", [value, name], [f"mutant_{value}_louder"], f"mutant_{value}"))
    reader.input[:] = [f"mutant_{value}_louder" if each == value else each for each in reader.input]


def overflow_hidden(model):
    """float16 of a model without the range rule: nothing is said to be large.

    Of `louder_attention` at opset 20 onnxruntime's CPU answers finitely, and the evaluator does not.
    """
    names = [value for node in model.graph.node for value in node.output] + [each.name for each in model.graph.input]
    return to_float16(model, dict.fromkeys(names, Range(-1.0, 1.0))).model


def as_bfloat16(model):
    """A float16 file whose weights have been bfloat16 on their way: with three bits fewer."""
    bad = copied(model)
    for tensor in bad.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            bits = numpy_helper.to_array(tensor).astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
            put(bad.graph, tensor.name, bits.view(np.float32).astype(np.float16))
    return bad


def weights_scaled(model, factor=2.0):
    """A float16 file of which one weight tensor is a multiple of the right one."""
    bad = copied(model)
    largest = max(bad.graph.initializer, key=lambda tensor: np.prod(tensor.dims))
    put(bad.graph, largest.name, (numbers(bad.graph, largest.name) * np.float16(factor)).astype(np.float16))
    return bad


def weights_in_8_bits(model):
    """A float16 file whose weights are rounded to 8 bits a tensor."""
    bad = copied(model)
    for tensor in bad.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16 and np.prod(tensor.dims) > 1:
            array = numpy_helper.to_array(tensor).astype(np.float32)
            scale = np.abs(array).max() / 127 or 1
            put(bad.graph, tensor.name, (np.rint(array / scale) * scale).astype(np.float16))
    return bad


FLOAT16 = {
    "weights that were bfloat16": as_bfloat16,
    "a weight off by 2": weights_scaled,
    "weights in 8 bits": weights_in_8_bits,
}
