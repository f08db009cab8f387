"""Right files made to deceive, in ways that need not show in their numbers: what `verify` must catch and tell.

`MISLEADING` tells which of good_files.py, what to do to the model and to the folder that it lies in, and what a
failure must say.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from mutants import MEAN, OnGraph
from onnx import FunctionProto, GraphProto, ModelProto, TensorProto, helper
from safetensors.torch import load_file, save_file
from surgery import find, initializer, insert_after, numbers, producer, put

OnFile = Callable[[ModelProto, Path], None]


def on_graph(spoil: OnGraph) -> OnFile:
    return lambda model, folder: spoil(model.graph)


def declares(opset: int) -> OnFile:
    """The model claims another opset than it was written for, and aaexport's metadata agree."""

    def spoil(model: ModelProto, folder: Path) -> None:
        model.opset_import[0].version = opset
        metadata_say("opset", str(opset))(model, folder)

    return spoil


def metadata_say(key: str, value: str) -> OnFile:
    def spoil(model: ModelProto, folder: Path) -> None:
        next(entry for entry in model.metadata_props if entry.key == f"aaexport.{key}").value = value

    return spoil


def contrib_operator(model: ModelProto, folder: Path) -> None:
    node = find(model.graph, "MatMul")
    node.op_type, node.domain = "FusedMatMul", "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def function(model: ModelProto, folder: Path) -> None:
    node = find(model.graph, "Relu")
    node.op_type, node.domain = "Rectify", "somebody"
    model.opset_import.append(helper.make_opsetid("somebody", 1))
    model.functions.append(_function("somebody", "Rectify", "Relu", list(model.opset_import)))


def _function(domain: str, name: str, op_type: str, opsets: list) -> FunctionProto:
    return helper.make_function(domain, name, ["x"], ["y"], [helper.make_node(op_type, ["x"], ["y"])], opsets)


def stored_at(location: Callable[[Path], str], *, through: str | None = None) -> OnFile:
    """The classifier's weight lies outside of the folder, and the model names it by `location` of the folder.

    With `through`, a symbolic link of that name in the folder points to it.
    """

    def spoil(model: ModelProto, folder: Path) -> None:
        weight = initializer(model.graph, "classifier.weight")
        outside = folder.parent / "outside.bin"
        outside.write_bytes(weight.raw_data)
        if through is not None:
            (folder / through).symlink_to(outside)
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=location(folder))

    return spoil


def weights_trained_on(model: ModelProto, folder: Path) -> None:
    """By so little that only their digest shows it."""
    path = folder / "weights.safetensors"
    weights = load_file(path)
    bias = weights["classifier.bias"]
    save_file(weights | {"classifier.bias": torch.nextafter(bias, bias + 1)}, path)


def recipe_changed(model: ModelProto, folder: Path) -> None:
    """In what is done to images before they reach the network, which the file's numbers know nothing of."""
    path = folder / "model.toml"
    path.write_text(path.read_text().replace(f"mean = [{MEAN}]", "mean = [0.5]"))


def last_bit_of_a_weight(graph: GraphProto) -> None:
    weight = numbers(graph, "classifier.weight")
    weight.flat[0] = np.nextafter(weight.flat[0], np.float32(np.inf))
    put(graph, "classifier.weight", weight)


def not_finite(value: float) -> OnGraph:
    def spoil(graph: GraphProto) -> None:
        weight = numbers(graph, "classifier.weight")
        weight[0, 0] = value
        put(graph, "classifier.weight", weight)

    return spoil


def output_renamed(graph: GraphProto) -> None:
    producer(graph, "logits").output[0] = graph.output[0].name = "scores"


def output_twice(graph: GraphProto) -> None:
    graph.output.append(graph.output[0])


def output_copied(graph: GraphProto) -> None:
    graph.node.append(helper.make_node("Identity", ["logits"], ["logits_2"], "mutant_Identity"))
    graph.output.append(graph.output[0])
    graph.output[1].name = "logits_2"


def output_missing(graph: GraphProto) -> None:
    del graph.output[1]


def output_in_float64(graph: GraphProto) -> None:
    insert_after(graph, "logits", "Cast", to=TensorProto.DOUBLE)
    graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE


def batch_in_the_signature(graph: GraphProto) -> None:
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2


def input_in_float64(graph: GraphProto) -> None:
    insert_after(graph, "input", "Cast", to=TensorProto.FLOAT)
    graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE


MISLEADING: dict[str, tuple[str, OnFile, str]] = {
    "contrib operator": ("digits", contrib_operator, "com.microsoft.FusedMatMul"),
    "function": ("digits", function, "functions|somebody.Rectify"),
    "opset below its reductions": ("digits", declares(17), "opset|ReduceMean|checker"),
    "opset below its Attention": ("module", declares(22), "Attention"),
    "opset of the metadata": ("digits", metadata_say("opset", "18"), "opset"),
    "batch of the metadata": ("digits", metadata_say("batch", "4"), "batch"),
    "external data in the folder above": ("digits", stored_at(lambda folder: "../outside.bin"), "external data"),
    "external data at an absolute path": (
        "digits",
        stored_at(lambda folder: str(folder.parent / "outside.bin")),
        "external data",
    ),
    "external data through a link": ("digits", stored_at(lambda folder: "in.bin", through="in.bin"), "external data"),
    "weights trained on": ("digits", weights_trained_on, "weights.*stale"),
    "recipe changed": ("digits", recipe_changed, "recipe.*stale"),
    "last bit of a weight": ("digits", on_graph(last_bit_of_a_weight), "classifier.weight"),
    "NaN in a weight": ("digits", on_graph(not_finite(np.nan)), "classifier.weight.*(finite|NaN)"),
    "infinity in a weight": ("digits", on_graph(not_finite(np.inf)), "classifier.weight.*(finite|inf)"),
    "output renamed": ("digits", on_graph(output_renamed), "scores"),
    "output listed twice": ("digits", on_graph(output_twice), "logits"),
    "output copied": ("digits", on_graph(output_copied), "logits_2"),
    "output missing": ("module", on_graph(output_missing), "output_1"),
    "output of float64": ("digits", on_graph(output_in_float64), "dtype must be float32"),
    "batch baked into the signature": ("digits", on_graph(batch_in_the_signature), "batch|dynamic"),
}
