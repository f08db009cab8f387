import numpy as np
import pytest
from graphs import convolution
from precision_graphs import decibels, images, int8, model, run, seen

from aaexport.graph.check import check_model
from aaexport.graph.precision.switches import switchable

X = {"x": images(4, 3, 6, 6)}


@pytest.fixture(scope="module")
def given():
    nodes = [
        convolution("x", "a", ("w", "b")),
        ("Relu", ["a"], ["r"], {}),
        convolution("r", "c", ("v",)),
        ("Add", ["c", "r"], ["s"], {}),
        convolution("s", "y", ("v",)),
    ]
    constants = {"w": images(8, 3, 3, 3, scale=0.3), "b": images(8), "v": images(8, 8, 3, 3, scale=0.3)}
    return model(nodes, {"x": ["batch", 3, 6, 6]}, constants)


def test_each_switch_is_one_layer_in_8_bits(given):
    made = switchable(given, seen(given, "int8", X))
    check_model(made.model)
    names = [layer.node for layer in made.layers]
    assert names == ["Conv_0", "Conv_2", "Conv_4"]
    expected = run(given, X)
    for place, name in enumerate(names):
        found = run(made.model, X | {made.switches: np.arange(3) == place})
        alone = run(int8(given, X, keep=[other for other in names if other != name]).model, X)
        assert decibels(expected, found) == pytest.approx(decibels(expected, alone), abs=0.5)
    off, on = (run(made.model, X | {made.switches: np.full(3, state)}) for state in (False, True))
    assert decibels(expected, off) > 120
    assert 25 < decibels(expected, on) < min(decibels(expected, alone), 50)


def test_convolutions_that_were_not_seen_have_no_switch(given):
    ranges = {name: found for name, found in seen(given, "int8", X).items() if name != "y"}
    assert [layer.node for layer in switchable(given, ranges).layers] == ["Conv_0", "Conv_2"]
