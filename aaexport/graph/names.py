"""A graph → the names of its values, and new ones that are none of them."""

from __future__ import annotations

import itertools

import onnx_ir as ir


def names_of(graph: ir.Graph) -> set[str | None]:
    """Of every value, in subgraphs too: a new one must not be called like any of them."""
    nodes = list(graph.all_nodes())
    values = [*graph.inputs, *graph.initializers.values(), *(value for node in nodes for value in node.outputs)]
    inner = {node.graph for node in nodes if node.graph is not None and node.graph is not graph}
    return {value.name for value in values} | {name for each in inner for name in each.initializers}


def new_name(name: str, taken: set[str | None]) -> str:
    """`name`, or one like it that is not taken; it is from now on."""
    others = (f"{name}_{number}" for number in itertools.count(1))
    free = next(each for each in itertools.chain([name], others) if each not in taken)
    taken.add(free)
    return free
