"""What an ONNX model must be before anybody relies on it: valid, plain, and typed throughout."""

from __future__ import annotations

import onnx
from onnx import checker, shape_inference

from aaexport.errors import GraphError, first_line

STANDARD_DOMAINS = ("", "ai.onnx")
# Slow or unsupported in the runtimes people deploy to; every use has a faster equal.
UNWANTED_OPERATORS = ("Einsum",)


def check_model(model: onnx.ModelProto, *, opset: int | None = None) -> None:
    """Holds `model` to the checker, strict shape inference and to operators of `ai.onnx` alone.

    Raises:
        GraphError: the first of these that does not hold; `opset` is the one it must declare.
    """
    foreign = foreign_operators(model)
    if foreign:
        raise GraphError(f"operators must be of ai.onnx, got {', '.join(foreign)}; no plain runtime has them")
    if model.functions:
        names = ", ".join(sorted(function.name for function in model.functions))
        raise GraphError(f"the model must hold no functions, got {names}")
    declared = declared_opset(model)
    if opset is not None and declared != opset:
        raise GraphError(f"the declared opset must be {opset}, got {declared}")
    try:
        checker.check_model(model, full_check=True)
        shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (checker.ValidationError, shape_inference.InferenceError) as error:
        cause = first_line(error)
        raise GraphError(f"the ONNX checker refuses the model: {cause}") from error


def check_operators(model: onnx.ModelProto) -> None:
    """GraphError if the model holds an operator that aaexport never exports (`UNWANTED_OPERATORS`)."""
    unwanted = sorted({node.op_type for node in all_nodes(model.graph)} & set(UNWANTED_OPERATORS))
    if unwanted:
        raise GraphError(f"an export must hold no {', '.join(unwanted)}; write it as a matrix product")


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
