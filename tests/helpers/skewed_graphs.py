"""Skewed relative attention as a small graph of named nodes, each of which a test can exchange."""

import numpy as np
from graphs import graph

HEADS, DKH, DVH = 2, 4, 2
SIDE = 3  # of a square map, so that more mistakes still fit
N = SIDE * SIDE
SIZES = (HEADS * DKH, HEADS * DKH, HEADS * DVH)
GENERATOR = np.random.default_rng(0)
TABLES = {
    "r_width": GENERATOR.normal(size=(DKH, 2 * SIDE - 1)),
    "r_height": GENERATOR.normal(size=(DKH, 2 * SIDE - 1)),
    "r_long": GENERATOR.normal(size=(DKH, 2 * N - 1)),  # of a map of one row
}


def skewed(by_position, table, name, placed, others=SIDE, length=SIDE):
    """Relative logits (B, Nh, N, N) along the second axis of positions, as the paper brings them into place."""
    heads = HEADS * others
    steps = [
        ("product", "MatMul", [table], {}),
        ("rows", "Reshape", [[0, heads, length, 2 * length - 1]], {}),
        ("column", "Pad", [[0] * 7 + [1]], {}),
        ("flat", "Reshape", [[0, heads, length * 2 * length]], {}),
        ("padded", "Pad", [[0] * 5 + [length - 1]], {}),
        ("shifted", "Reshape", [[0, heads, length + 1, 2 * length - 1]], {}),
        ("first", "Slice", [[0], [length], [2]], {}),
        ("skewed", "Slice", [[length - 1], [2 * length - 1], [3]], {}),
        ("by_head", "Reshape", [[-1, HEADS, others, 1, length, length]], {}),
        ("repeated", "Tile", [[1, 1, 1, others, 1, 1]], {}),
        ("placed", "Transpose", [], {"perm": placed}),
    ]
    nodes, current = {}, by_position
    for step, operator, more, attributes in steps:
        nodes[f"{name}_{step}"] = (operator, [current, *more], attributes)
        current = f"{name}_{step}"
    return {**nodes, name: ("Reshape", [current, [-1, HEADS, N, N]], {})}


def attention():
    """Node by the name of its output: (operator, inputs, attributes); an input that is a list is a constant."""
    return {
        "qkv": ("Split", ["x", list(SIZES)], {"axis": 1}),
        "scaled": ("Mul", ["q", 0.5], {}),
        "q_by_head": ("Reshape", ["scaled", [0, HEADS, DKH, N]], {}),
        "queries": ("Transpose", ["q_by_head"], {"perm": [0, 1, 3, 2]}),
        "keys": ("Reshape", ["k", [0, HEADS, DKH, N]], {}),
        "v_by_head": ("Reshape", ["v", [0, HEADS, DVH, N]], {}),
        "values": ("Transpose", ["v_by_head"], {"perm": [0, 1, 3, 2]}),
        "content": ("MatMul", ["queries", "keys"], {}),
        "by_position": ("Reshape", ["queries", [0, HEADS, SIDE, SIDE, DKH]], {}),
        **skewed("by_position", "r_width", "across", [0, 1, 2, 4, 3, 5]),
        "turned": ("Transpose", ["by_position"], {"perm": [0, 1, 3, 2, 4]}),
        **skewed("turned", "r_height", "down", [0, 1, 4, 2, 5, 3]),
        "half": ("Add", ["content", "down"], {}),
        "logits": ("Add", ["half", "across"], {}),
        "weights": ("Softmax", ["logits"], {"axis": -1}),
        "y": ("MatMul", ["weights", "values"], {}),
    }


def model(changed=None, *, outputs=("y",), inputs=None, batch="batch"):
    """The attention with some nodes exchanged, and new ones put before those that read them; x is (B, C, H, W)."""
    nodes = attention() | (changed or {})
    read = {name for _, given, _ in nodes.values() for name in reads(given)}
    constants = {name: numbers for name, numbers in TABLES.items() if name in read - set(inputs or {})}
    rows = []
    for name, (operator, given, attributes) in ordered(nodes):
        names = [value if isinstance(value, str) else f"{name}_{place}" for place, value in enumerate(given)]
        constants |= {
            key: np.array(value) for key, value in zip(names, given, strict=True) if not isinstance(value, str)
        }
        rows.append((operator, names, ["q", "k", "v"] if name == "qkv" else [name], attributes))
    return graph(rows, {"x": [batch, sum(SIZES), SIDE, SIDE], **(inputs or {})}, constants, outputs)


def ordered(nodes):
    """Each after those that it reads."""
    done, waiting = {"q", "k", "v"}, dict(nodes)
    while waiting:
        ready = [name for name, (_, given, _) in waiting.items() if not reads(given) & (waiting.keys() - done)]
        for name in ready:
            yield name, waiting.pop(name)


def reads(given):
    return {"qkv" if value in {"q", "k", "v"} else value for value in given if isinstance(value, str)}
