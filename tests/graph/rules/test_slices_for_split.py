import numpy as np
import pytest
from graphs import assert_same_function, graph, operators, optimized

from aaexport.graph.rules.slices_for_split import SlicesForSplit


def model(sizes, axis=1, outputs=None):
    parts = [f"part_{number}" for number in range(len(sizes))]
    nodes = [
        ("Split", ["x", "sizes"], parts, {"axis": axis}),
        *(("Neg", [part], [f"y_{part}"], {}) for part in parts),
    ]
    channels = sum(sizes)
    shape = ["batch", channels, 3, 2] if axis == 1 else ["batch", 3, 2, channels]
    return graph(
        nodes, {"x": shape}, {"sizes": np.array(sizes, np.int64)}, outputs or [f"y_{part}" for part in parts]
    )


@pytest.mark.parametrize("axis", [1, -1])
def test_parts_of_several_sizes_are_slices(axis):
    before = model((4, 4, 1), axis)
    rewritten, report = optimized(before, SlicesForSplit, target="cuda")
    assert report.applied == 1
    assert operators(rewritten) == ["Slice", "Slice", "Slice", "Neg", "Neg", "Neg"]
    assert_same_function(before, rewritten)


def test_a_part_that_is_an_output_is_left():
    _, report = optimized(model((4, 1), outputs=["y_part_0", "part_1"]), SlicesForSplit, target="cuda")
    assert report.refused == {"part_1 is an output of the graph": 1}


def test_parts_of_one_size_stay():
    rewritten, report = optimized(model((4, 4)), SlicesForSplit, target="cuda")
    assert (report.applied, report.refused) == (0, {})
    assert operators(rewritten) == ["Split", "Neg", "Neg"]


def test_sizes_must_be_known():
    nodes = [("Split", ["x"], ["a", "b"], {"axis": 0, "num_outputs": 2}), ("Neg", ["a"], ["y"], {})]
    before = graph(nodes, {"x": ["batch", 4]}, {}, ["y", "b"])
    _, report = optimized(before, SlicesForSplit, target="cuda")
    assert report.refused == {"the sizes of its parts are not known": 1}
