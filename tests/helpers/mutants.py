"""Right files whose function was made wrong, one fault each: what `verify` must catch and locate.

`MISCOMPUTING` tells which of good_files.py, and what to do to its graph. Each is a valid graph that runs: the
checker must not be what catches it. `UNSEEN` are those of them that reach no output: only the digests in the file can
tell. `ALIKE` are those that go the way of another one through `verify`.
"""

from collections.abc import Callable

import numpy as np
from onnx import GraphProto, TensorProto
from surgery import (
    attribute,
    constant,
    convolution,
    drop,
    find,
    forget_type,
    initializer,
    insert_after,
    insert_before,
    numbers,
    producer,
    put,
    readers,
)

OnGraph = Callable[[GraphProto], None]
DK = DV = 8  # of the layers of the file `digits`: 24 channels of queries, keys and values, two heads each
DKH = 4
MEAN, STD = 0.305, 0.376  # of its recipe


def one_weight_off(named: str | Callable[[GraphProto], str], seed: int, factor: float = 1.001) -> OnGraph:
    """A number of an initializer, chosen by the seed, becomes larger by a thousandth, or by `factor`."""

    def spoil(graph: GraphProto) -> None:
        name = named if isinstance(named, str) else named(graph)
        array = numbers(graph, name)
        array.flat[np.random.default_rng(seed).choice(np.flatnonzero(array))] *= factor
        put(graph, name, array)

    return spoil


def renumbered(name: str, change: Callable[[np.ndarray], np.ndarray]) -> OnGraph:
    """The initializer `name` holds what `change` makes of its numbers."""

    def spoil(graph: GraphProto) -> None:
        put(graph, name, change(numbers(graph, name)))

    return spoil


def attributed(op_type: str, name: str, value: object) -> OnGraph:
    """The first operator of that type has another attribute."""

    def spoil(graph: GraphProto) -> None:
        attribute(find(graph, op_type), name, value)

    return spoil


def window(layer: str, **attributes: list[int]) -> OnGraph:
    """A convolution looks elsewhere, and gives a map of the same size."""

    def spoil(graph: GraphProto) -> None:
        for name, value in attributes.items():
            attribute(convolution(graph, layer), name, value)

    return spoil


def another_operator(op_type: str, other: str, **attributes: object) -> OnGraph:
    """The first operator of that type becomes another one; an attribute of None goes."""

    def spoil(graph: GraphProto) -> None:
        node = find(graph, op_type)
        node.op_type = other
        for name, value in attributes.items():
            attribute(node, name, value)

    return spoil


def inserted(value: str, op_type: str, *extra: object, **attributes: object) -> OnGraph:
    """One more operator behind `value`, with constants as its further inputs."""

    def spoil(graph: GraphProto) -> None:
        constants = [constant(graph, array, np.asarray(array).dtype.type) for array in extra]
        insert_after(graph, value, op_type, *constants, **attributes)

    return spoil


def queries_scaled(factor: float) -> OnGraph:
    """Where the scale is part of the weights of the queries, which are the first of them."""
    factors = np.repeat(np.float32([factor, 1]), [DK, DK + DV]).reshape(-1, 1, 1, 1)
    return renumbered("features.0.qkv.weight_scaled", lambda weight: weight * factors)


def first_head_negated(weight: np.ndarray) -> np.ndarray:
    values = slice(2 * DK, 2 * DK + DV // 2)
    weight[values] *= -1
    return weight


def spread(embeddings: np.ndarray) -> np.ndarray:
    """T[a, :, b] = embeddings[b − a + L − 1]: (2L − 1, d) → (L, d, L), as a file holds those of the height."""
    length = (len(embeddings) + 1) // 2
    offsets = np.arange(length)[None, :] - np.arange(length)[:, None] + length - 1
    return embeddings[offsets].transpose(0, 2, 1)


def gathered(table: np.ndarray) -> np.ndarray:
    """What `spread` was made of: (L, d, L) → (2L − 1, d)."""
    return np.concatenate([table[:0:-1, :, 0], table[0].T])


def height_table(graph: GraphProto) -> str:
    """The name of the first layer's embeddings of the height, spread to (H, d, H)."""
    return find(graph, "MatMul", 0).input[1]


def width_table(graph: GraphProto) -> str:
    """The name of its embeddings of the width, (d, 2W − 1)."""
    return find(graph, "MatMul", 1).input[1]


def tables_swapped(graph: GraphProto) -> None:
    height, width = height_table(graph), width_table(graph)
    of_height, of_width = numbers(graph, height), numbers(graph, width)
    put(graph, height, spread(of_width.T))
    put(graph, width, gathered(of_height).T)


def height_shifted(graph: GraphProto) -> None:
    name = height_table(graph)
    put(graph, name, spread(np.roll(gathered(numbers(graph, name)), 1, axis=0)))


def width_shifted(graph: GraphProto) -> None:
    name = width_table(graph)
    put(graph, name, np.roll(numbers(graph, name), 1, axis=1))


def offsets_read_one_later(graph: GraphProto) -> None:
    node = find(graph, "Slice")
    for index in (1, 2):
        node.input[index] = constant(graph, numbers(graph, node.input[index]) + 1, np.int64)


def keys_by_column_and_row(graph: GraphProto) -> None:
    """Logits along the height are added as (…, H, 1) and those along the width as (…, 1, W)."""
    made = {node.output[0]: node for node in graph.node if node.op_type == "Reshape"}
    additions = (list(node.input) for node in graph.node if node.op_type == "Add")
    first, second = next([made[a], made[b]] for a, b in additions if a in made and b in made)
    assert first.input[1] != second.input[1], "no other shape to read it as"
    first.input[1], second.input[1] = second.input[1], first.input[1]
    forget_type(graph, first.output[0], second.output[0])


def onehots_permuted(graph: GraphProto) -> None:
    addition = next(n for n in graph.node if n.op_type == "Add" and producer(graph, n.input[0]).op_type == "Pad")
    put(graph, addition.input[1], np.roll(numbers(graph, addition.input[1]), 1, axis=1))


def heads_unpermuted(graph: GraphProto) -> None:
    product = readers(graph, find(graph, "Softmax").output[0])[0]
    drop(graph, readers(graph, product.output[0])[0])


def keys_transposed(graph: GraphProto) -> None:
    """In the first augmented layer, which has as many positions as a key has numbers."""
    logits = producer(graph, find(graph, "Softmax").input[0])
    insert_before(graph, producer(graph, logits.input[0]), 1, "Transpose", perm=[0, 2, 1])


def split_swapped(first: int, second: int) -> OnGraph:
    def spoil(graph: GraphProto) -> None:
        outputs = find(graph, "Split").output
        outputs[first], outputs[second] = outputs[second], outputs[first]

    return spoil


def scale_dropped(graph: GraphProto) -> None:
    drop(graph, find(graph, "Mul"))


def scale_twice(graph: GraphProto) -> None:
    scale = find(graph, "Mul")
    insert_after(graph, scale.output[0], "Mul", scale.input[1])


def relu_dropped(graph: GraphProto) -> None:
    drop(graph, find(graph, "Relu"))


def relu_clipped(graph: GraphProto) -> None:
    """Beyond what ordinary images reach."""
    node = find(graph, "Relu")
    node.op_type = "Clip"
    node.input.extend([constant(graph, 0.0), constant(graph, 100.0)])


def residual_dropped(graph: GraphProto) -> None:
    sums = {node.output[0] for node in graph.node if node.op_type == "Add"}
    drop(graph, next(producer(graph, n.input[0]) for n in graph.node if n.op_type == "Relu" and n.input[0] in sums))


def bias_dropped(graph: GraphProto) -> None:
    del convolution(graph, "features.0.conv").input[2:]


def layers_exchanged(graph: GraphProto) -> None:
    first, second = (convolution(graph, f"stages.1.{block}.conv2.conv") for block in (0, 1))
    first.input[1], second.input[1] = second.input[1], first.input[1]


def not_a_number_for_a_class(graph: GraphProto) -> None:
    """By the root of −1, so that no initializer is at fault."""
    roots = np.zeros(10)
    roots[3] = -1
    insert_before(graph, insert_after(graph, "logits", "Add", constant(graph, roots)), 1, "Sqrt")


def not_a_number_replaced(graph: GraphProto) -> None:
    """By zero, so that broken images are classified as if nothing were."""
    insert_before(graph, insert_after(graph, "input", "Where", constant(graph, 0.0), "input"), 0, "IsNaN")


def normalised_twice(graph: GraphProto) -> None:
    subtracted = insert_after(graph, "input", "Sub", constant(graph, MEAN))
    insert_after(graph, subtracted.output[0], "Div", constant(graph, STD))


def stored_as_float16(graph: GraphProto) -> None:
    node = convolution(graph, "features.3.conv")
    halved = constant(graph, numbers(graph, node.input[1]), np.float16)
    graph.initializer.remove(initializer(graph, node.input[1]))
    node.input[1] = halved
    insert_before(graph, node, 1, "Cast", to=TensorProto.FLOAT)


def softmax_in_float16(graph: GraphProto) -> None:
    softmax = find(graph, "Softmax")
    insert_before(graph, softmax, 0, "Cast", to=TensorProto.FLOAT16)
    insert_after(graph, softmax.output[0], "Cast", to=TensorProto.FLOAT)


def in_8_bits(graph: GraphProto) -> None:
    relu = find(graph, "Relu").output[0]
    scale, zero = constant(graph, 0.02), constant(graph, 0, np.uint8)
    insert_before(graph, insert_after(graph, relu, "DequantizeLinear", scale, zero), 0, "QuantizeLinear", scale, zero)


def outputs_exchanged(graph: GraphProto) -> None:
    near, far = producer(graph, "output_0"), producer(graph, "output_1")
    near.output[0], far.output[0] = far.output[0], near.output[0]


def batch_in_a_reshape(graph: GraphProto) -> None:
    last = producer(graph, find(graph, "Gemm").input[0])
    last.input[1] = constant(graph, [2, 16], np.int64)


def shifted_best(graph: GraphProto) -> None:
    insert_after(graph, "best", "Add", constant(graph, 1, np.int64))


def best_twice(graph: GraphProto) -> None:
    """The first of the best positions stands in the place of each."""
    insert_after(graph, "best", "Gather", constant(graph, [0, 0, 0, 0, 0], np.int64), axis=1)


def larger_window(graph: GraphProto) -> None:
    pool = find(graph, "MaxPool")
    attribute(pool, "kernel_shape", [5, 5])
    attribute(pool, "pads", [2, 2, 2, 2])


def alias_of_another(graph: GraphProto) -> None:
    """The second name of a tensor is given another."""
    producer(graph, "again").input[0] = "peaks"


def faint_zeroed(graph: GraphProto) -> None:
    insert_after(graph, "faint", "Sub", find(graph, "Sigmoid").output[0])
    last = producer(graph, "faint")
    last.input[1] = last.input[0]


def scores_negated(*, of: str) -> OnGraph:
    """Those that the positions `of` point at; the masked class is as it was."""

    def spoil(graph: GraphProto) -> None:
        node = producer(graph, of)
        while node.op_type != "Where":
            node = producer(graph, node.input[0])
        insert_before(graph, node, 2, "Neg")

    return spoil


MISCOMPUTING: dict[str, tuple[str, OnGraph]] = {
    # Weights
    "one weight of a convolution off": ("digits", one_weight_off("features.3.conv.weight_normalized", 0)),
    "one weight of queries, keys and values off": ("digits", one_weight_off("features.0.qkv.weight_scaled", 1)),
    "one weight of the classifier off": ("digits", one_weight_off("classifier.weight", 2)),
    "one number of the height's table off": ("digits", one_weight_off(height_table, 3)),
    "one number of the width's table off": ("digits", one_weight_off(width_table, 4)),
    "one bias off": ("digits", one_weight_off("features.3.conv.weight_bias", 6)),
    "one bias of a channel that is never active off": ("digits", one_weight_off("features.6.conv.weight_bias", 5)),
    "weights rounded to float16": (
        "digits",
        renumbered("features.3.conv.weight_normalized", lambda w: w.astype(np.float16).astype(np.float32)),
    ),
    "weights stored as float16": ("digits", stored_as_float16),
    "classifier transposed": ("digits", renumbered("classifier.weight", lambda w: w.T.reshape(w.shape))),
    "classes permuted": ("digits", renumbered("classifier.weight", lambda w: np.roll(w, 1, axis=0))),
    "kernels mirrored": ("digits", renumbered("features.3.conv.weight_normalized", lambda w: w[..., ::-1])),
    "channels of the image reversed": ("resnet", renumbered("stem.0.weight", lambda w: w[:, ::-1])),
    "weights of two layers exchanged": ("resnet", layers_exchanged),
    "bias dropped": ("digits", bias_dropped),
    # Attention
    "heads not permuted": ("digits", heads_unpermuted),
    "height's and width's tables swapped": ("digits", tables_swapped),
    "height's table shifted by one": ("digits", height_shifted),
    "width's table shifted by one": ("digits", width_shifted),
    "offsets read one later": ("digits", offsets_read_one_later),
    "keys by column and row": ("resnet", keys_by_column_and_row),
    "one-hot columns permuted": ("digits", onehots_permuted),
    "scale of the queries missing": ("resnet by torch", scale_dropped),
    "scale of the queries twice": ("resnet by torch", scale_twice),
    "scale missing from folded weights": ("digits", queries_scaled(DKH**0.5)),
    "scale twice in folded weights": ("digits", queries_scaled(DKH**-0.5)),
    "scale of the operator": ("module", attributed("Attention", "scale", DKH**-0.5)),
    "attention to the past only": ("module", attributed("Attention", "is_causal", 1)),
    "softmax on the wrong axis": ("digits", attributed("Softmax", "axis", 1)),
    "keys and values swapped": ("digits", split_swapped(1, 2)),
    "queries and keys swapped": ("digits", split_swapped(0, 1)),
    "keys not transposed": ("resnet", keys_transposed),
    "one head negated": ("digits", renumbered("features.3.qkv.weight_scaled", first_head_negated)),
    # Layers
    "align_corners flipped": ("resnet", attributed("Resize", "coordinate_transformation_mode", "align_corners")),
    "nearest instead of bilinear": ("resnet", attributed("Resize", "mode", "nearest")),
    "average counts padding": ("resnet", attributed("AveragePool", "count_include_pad", 1)),
    "maximum instead of average": ("resnet", another_operator("AveragePool", "MaxPool", count_include_pad=None)),
    "pooling window shifted": ("resnet", attributed("MaxPool", "pads", [0, 0, 1, 1])),
    "global maximum instead of average": ("digits", another_operator("ReduceMean", "ReduceMax")),
    "epsilon of a normalization": ("resnet by torch", attributed("BatchNormalization", "epsilon", 1e-3)),
    "ReLU dropped": ("digits", relu_dropped),
    "ReLU leaks": ("digits", another_operator("Relu", "LeakyRelu", alpha=0.001)),
    "ReLU clipped": ("digits", relu_clipped),
    "Gelu approximated": ("module", attributed("Gelu", "approximate", "tanh")),
    "residual dropped": ("resnet", residual_dropped),
    "padding shifted": ("digits", window("features.3.conv", pads=[0, 0, 1, 1])),
    "stride": ("digits", window("features.0.conv", strides=[2, 2], pads=[4, 4, 5, 5])),
    "dilation": ("digits", window("features.0.conv", dilations=[2, 2], pads=[2, 2, 2, 2])),
    "dropout left in": ("digits", inserted("relu", "Dropout", np.float32(0.5), True, seed=0)),
    # Precision
    "softmax in float16": ("digits", softmax_in_float16),
    "activations in 8 bits": ("digits", in_8_bits),
    # Inputs, outputs, batch
    "image transposed": ("digits", inserted("input", "Transpose", perm=[0, 1, 3, 2])),
    "image normalised twice": ("digits", normalised_twice),
    "NaN in the image replaced": ("digits", not_a_number_replaced),
    "NaN for one class": ("digits", not_a_number_for_a_class),
    "logits doubled": ("digits", inserted("logits", "Mul", np.float32(2))),
    "probabilities instead of logits": ("digits", inserted("logits", "Softmax", axis=-1)),
    "images of a batch in reverse": ("digits", inserted("logits", "Slice", [-1], [-1000], [0], [-1])),
    "outputs exchanged": ("module", outputs_exchanged),
    "batch baked into a Reshape": ("digits", batch_in_a_reshape),
    # Of models that a floor, ties and what ONNX leaves open could hide faults in
    "bias of a rare class off": ("heads", one_weight_off("rare.bias", 7)),
    "one weight of rare classes off": ("heads", one_weight_off("rare.weight", 8, 1.1)),
    "sigmoid made of straight lines": ("heads", another_operator("Sigmoid", "HardSigmoid")),
    "rare scores clipped": ("heads", inserted("rare", "Max", np.float32(0.0099))),
    "smallest instead of largest": ("heads", attributed("TopK", "largest", 0)),
    "positions of the best one later": ("heads", shifted_best),
    "positions of the best in reverse": ("heads", inserted("best", "Slice", [-1], [-1000], [1], [-1])),
    "one position of the best twice": ("heads", best_twice),
    "sampled with aligned corners": ("heads", attributed("GridSample", "align_corners", 1)),
    "sampled at the nearest": ("heads", attributed("GridSample", "mode", "nearest")),
    "local maxima of a larger window": ("heads", larger_window),
    "nearest rounded up": ("heads", attributed("Resize", "nearest_mode", "ceil")),
    "second name of another tensor": ("heads", alias_of_another),
    "scores of nearly nothing made nothing": ("faint", faint_zeroed),
    "scores of nearly nothing doubled": ("faint", inserted("faint", "Mul", np.float32(2))),
    "scores of nearly nothing by other weights": ("faint", renumbered("faint.weight", lambda w: w[::-1])),
    "best beside the least number": ("masked", scores_negated(of="least")),
    "best beside a mask of −1e9": ("masked", scores_negated(of="far")),
}
SAYS = {  # what a failure must say of some
    "NaN for one class": "values that are NaN or infinite",
    "NaN in the image replaced": "NaN and infinity must spread to",
}
UNSEEN = ("one bias of a channel that is never active off",)
ALIKE = {  # each with the one that it is like
    "one weight of the classifier off": "one weight of a convolution off",
    "one number of the width's table off": "one number of the height's table off",
    "classes permuted": "classifier transposed",
    "width's table shifted by one": "height's table shifted by one",
    "scale of the queries twice": "scale of the queries missing",
    "scale twice in folded weights": "scale missing from folded weights",
    "queries and keys swapped": "keys and values swapped",
    "nearest instead of bilinear": "align_corners flipped",
    "maximum instead of average": "global maximum instead of average",
    "dilation": "stride",
    "probabilities instead of logits": "logits doubled",
    "one weight of rare classes off": "bias of a rare class off",
    "positions of the best in reverse": "positions of the best one later",
    "sampled at the nearest": "sampled with aligned corners",
    "scores of nearly nothing doubled": "scores of nearly nothing made nothing",
}
