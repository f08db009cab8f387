"""What an ONNX model must be before anybody relies on it: valid, plain, typed throughout, and at home everywhere."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import checker, shape_inference

from aaexport.errors import GraphError, first_line
from aaexport.graph.light import light

STANDARD_DOMAINS = ("", "ai.onnx")
# What runtimes that people deploy to lack or run slowly, and what does the same.
UNWANTED_OPERATORS = {
    "Einsum": "write it as a matrix product",
    "ScatterND": "put the parts together instead of writing into a whole",
    "Shape": "take sizes from what is known before the model runs, or fix the batch",
    "Size": "take sizes from what is known before the model runs, or fix the batch",
    "Tile": "broadcast instead of copying",
}
MAX_RANK = 5


def check_model(model: onnx.ModelProto, *, opset: int | None = None) -> None:
    """Holds `model` to the checker, strict shape inference and to operators of `ai.onnx` alone.

    Raises:
        GraphError: the first of these that does not hold; `opset` is the one it must declare.
    """
    for fault in operator_faults(model):
        raise GraphError(fault)
    declared = declared_opset(model)
    if opset is not None and declared != opset:
        raise GraphError(f"the declared opset must be {opset}, got {declared}")
    infer_strictly(model)


def operator_faults(model: onnx.ModelProto) -> Iterator[str]:
    """What is in the model besides operators of `ai.onnx`, a line each."""
    foreign = foreign_operators(model)
    if foreign:
        yield f"operators must be of ai.onnx, got {', '.join(foreign)}; no plain runtime has them"
    if model.functions:
        names = ", ".join(sorted(function.name for function in model.functions))
        yield f"the model must hold no functions, got {names}"


def infer_strictly(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every shape that can be inferred, and its large initializers as inputs (`light`).

    Raises:
        GraphError: the checker or strict shape inference refuses it.
    """
    model = light(model)
    try:
        checker.check_model(model, full_check=True)
        return shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (checker.ValidationError, shape_inference.InferenceError) as error:
        cause = first_line(error)
        raise GraphError(f"the ONNX checker refuses the model: {cause}") from error


def is_valid(model: onnx.ModelProto) -> bool:
    """Whether the checker and strict shape inference take it; onnx's own refuses a few of its own test models."""
    try:
        infer_strictly(model)
    except GraphError:
        return False
    return True


def check_operators(model: onnx.ModelProto, *, ours: bool = True) -> tuple[str, ...]:
    """Holds a network of ours to what runs anywhere; of a user's module, notes what does not (`unportable`).

    Raises:
        GraphError: the network is `ours` and not portable.
    """
    found = unportable(model)
    if ours and found:
        raise GraphError(f"an export must hold no {found[0]}")
    return tuple(f"some runtimes refuse the file, or run it slowly: it holds {thing}" for thing in found)


def unportable(model: onnx.ModelProto) -> tuple[str, ...]:
    """What some runtimes lack or run slowly, each thing with its remedy: operators, then tensors of too many axes.

    Empty for every network of ours. Operators are looked for in subgraphs too, tensors in the outermost graph.
    """
    held = {node.op_type for node in all_nodes(model.graph)}
    found = [f"{operator}; {remedy}" for operator, remedy in UNWANTED_OPERATORS.items() if operator in held]
    name, rank = _highest_rank(model)
    if rank > MAX_RANK:
        found.append(f"tensor of {rank} dimensions ({name}); most runtimes stop at {MAX_RANK}")
    return tuple(found)


def _highest_rank(model: onnx.ModelProto) -> tuple[str, int]:
    """The first tensor with the most dimensions of all whose shape can be inferred."""
    graph = shape_inference.infer_shapes(light(model)).graph
    ranks = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    values = [*graph.input, *graph.value_info, *graph.output]
    ranks |= {value.name: len(value.type.tensor_type.shape.dim) for value in values}
    return max(ranks.items(), key=lambda item: item[1], default=("", 0))


def declared_opset(model: onnx.ModelProto) -> int:
    """The version of `ai.onnx` that the model declares; 0 if it declares none."""
    return next((entry.version for entry in model.opset_import if entry.domain in STANDARD_DOMAINS), 0)


def foreign_operators(model: onnx.ModelProto) -> list[str]:
    """`domain.Operator` of every node outside ai.onnx, sorted, each once; subgraphs included."""
    nodes = all_nodes(model.graph)
    return sorted({f"{n.domain}.{n.op_type}" for n in nodes if n.domain not in STANDARD_DOMAINS})


def all_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Every node of the graph and of the graphs inside its nodes (the branches of an If, the body of a Loop)."""
    nodes = []
    for node in graph.node:
        nodes.append(node)
        for attribute in node.attribute:
            subgraphs = [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]
            for subgraph in subgraphs:
                nodes += all_nodes(subgraph)
    return nodes
