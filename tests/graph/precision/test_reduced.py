import pytest

from aaexport.errors import ArgumentError
from aaexport.graph.precision.reduced import Layer, asked_to_stay

STEM = Layer("stem", "conv_1", "Conv")
FIRST, SECOND = Layer("layer.0.conv", "conv_2", "Conv"), Layer("layer.1.conv", "conv_3", "Conv")
LAYERS = (STEM, FIRST, SECOND)


@pytest.mark.parametrize(
    ("name", "layers"),
    [("stem", {STEM}), ("conv_2", {FIRST}), ("layer", {FIRST, SECOND}), ("layer.1", {SECOND})],
)
def test_a_name_is_a_nodes_or_that_of_a_module_around_it(name, layers):
    assert asked_to_stay([name], LAYERS, "int8") == layers


def test_names_add_up():
    assert asked_to_stay(["stem", "conv_3"], LAYERS, "int8") == {STEM, SECOND}


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("layer.2.conv", "did you mean 'layer.1.conv' or 'layer.0.conv' or 'layer.1'?"),
        ("lay", "did you mean 'layer' or 'layer.1' or 'layer.0'?"),
        ("attention", "known: layer, layer.0, layer.0.conv, layer.1, layer.1.conv, stem"),
    ],
)
def test_an_unknown_name_is_told_its_neighbours(name, remedy):
    with pytest.raises(ArgumentError) as error:
        asked_to_stay([name], LAYERS, "int8")
    assert str(error.value) == f"keep must name a module or a node that int8 reduces, got {name!r}; {remedy}"


def test_a_part_of_a_name_is_no_module():
    assert not STEM.is_named("ste")
