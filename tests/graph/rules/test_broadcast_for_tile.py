import numpy as np
import pytest
from graphs import assert_same_function, graph, operators, optimized

from aaexport.graph.rules.broadcast_for_tile import BroadcastForTile

H, W = 3, 4
CONSTANTS = {
    "times": np.array([1, 1, H, 1, 1]),
    "size": np.array([2, H, H, W, W]),
    "flat": np.array([-1, H * W, H * W]),
}
TILE = ("Tile", ["once", "times"], ["tiled"], {})
EXPAND = ("Expand", ["once", "size"], ["tiled"], {})
# [h, i, w, j] → [h, w, i, j], as the public implementations have it.
TRANSPOSE = ("Transpose", ["tiled"], ["placed"], {"perm": [0, 1, 3, 2, 4]})
RESHAPE = ("Reshape", ["placed", "flat"], ["along"], {})
ADD = ("Add", ["logits", "along"], ["y"], {})


def model(*nodes, once=(2, H, 1, W, W), logits=(2, H * W, H * W), outputs=("y",), flat2=(0, -1)):
    used = {name for _, inputs, _, _ in nodes for name in inputs}
    constants = {key: value for key, value in (CONSTANTS | {"flat2": np.array(flat2)}).items() if key in used}
    return graph(nodes, {"once": list(once), "logits": list(logits)}, constants, outputs)


@pytest.mark.parametrize("repeat", [TILE, EXPAND], ids=["Tile", "Expand"])
@pytest.mark.parametrize("add", [ADD, ("Add", ["along", "logits"], ["y"], {})], ids=["right", "left"])
def test_what_was_repeated_is_broadcast(repeat, add):
    before = model(repeat, TRANSPOSE, RESHAPE, add)
    rewritten, report = optimized(before, BroadcastForTile)
    assert report.applied == 1
    assert not {"Tile", "Expand"} & set(operators(rewritten))
    assert_same_function(before, rewritten)


def test_a_dynamic_number_of_maps_stays_dynamic():
    before = model(TILE, TRANSPOSE, RESHAPE, ADD, once=("maps", H, 1, W, W), logits=("maps", H * W, H * W))
    rewritten, report = optimized(before, BroadcastForTile)
    assert report.applied == 1
    assert_same_function(before, rewritten, 3)


def test_both_axes_are_broadcast_one_after_the_other():
    nodes = [
        TILE, TRANSPOSE, RESHAPE, ("Add", ["logits", "along"], ["half"], {}),
        ("Tile", ["other", "times"], ["tiled2"], {}),
        ("Transpose", ["tiled2"], ["placed2"], {"perm": [0, 3, 1, 4, 2]}),
        ("Reshape", ["placed2", "flat"], ["along2"], {}),
        ("Add", ["half", "along2"], ["y"], {}),
    ]  # fmt: skip
    size = 3
    constants = {"times": np.array([1, 1, size, 1, 1]), "flat": np.array([-1, size * size, size * size])}
    inputs = {name: ["maps", size, 1, size, size] for name in ("once", "other")}
    before = graph(nodes, {**inputs, "logits": ["maps", size * size, size * size]}, constants)
    rewritten, report = optimized(before, BroadcastForTile)
    assert report.applied == 2
    assert "Tile" not in operators(rewritten)
    assert_same_function(before, rewritten)


def test_repeated_numbers_that_others_read_are_left():
    before = model(TILE, TRANSPOSE, RESHAPE, ADD, outputs=("y", "tiled"))
    rewritten, report = optimized(before, BroadcastForTile)
    assert report.refused == {"the output of Tile Tile_0 is read elsewhere too": 1}
    assert operators(rewritten) == operators(before)


def test_more_than_one_number_repeated_is_left():
    constants = {"times": np.array([1, 2]), "flat": np.array([-1, 8])}
    nodes = [("Tile", ["once", "times"], ["placed"], {}), RESHAPE, ADD]
    before = graph(nodes, {"once": [3, 4], "logits": [3, 8]}, constants)
    rewritten, report = optimized(before, BroadcastForTile)
    assert report.refused == {"more than axes of size 1 is repeated": 1}
    assert operators(rewritten) == operators(before)


def test_an_addition_that_repeats_by_itself_is_left():
    before = model(TILE, TRANSPOSE, RESHAPE, ADD, logits=(1, H * W, H * W))
    _, report = optimized(before, BroadcastForTile)
    assert report.refused == {"the addition repeats numbers by itself, or sizes are not known": 1}


def test_two_dynamic_sizes_are_left():
    before = model(TILE, TRANSPOSE, ("Reshape", ["placed", "flat2"], ["along"], {}), ADD,
                   once=("maps", "rows", 1, W, W), logits=("maps", "n", H * W), flat2=[0, -1, H * W])  # fmt: skip
    _, report = optimized(before, BroadcastForTile)
    assert report.refused == {"more than one size is not known": 1}


def test_sizes_of_other_names_are_left():
    nodes = [("Tile", ["once", "times"], ["placed"], {}), ("Reshape", ["placed", "flat"], ["along"], {}), ADD]
    constants = {"times": np.array([1, 1, 4]), "flat": np.array([-1, 4])}
    before = graph(nodes, {"once": ["b", 1, 1], "logits": ["a", 4]}, constants)
    for value in before.graph.value_info:
        if value.name == "along":
            value.type.tensor_type.shape.dim[0].dim_param = "b"
    _, report = optimized(before, BroadcastForTile)
    assert report.refused == {"the addition repeats numbers by itself, or sizes are not known": 1}
