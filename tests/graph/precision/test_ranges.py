import numpy as np
import pytest

from aaexport.errors import GraphError
from aaexport.graph.precision.ranges import Range, RangeCollector
from aaexport.graph.precision.reduced import Layer

LAYERS = {"a": Layer("stem.conv", "conv_1", "Conv"), "b": Layer("", "add_1", "Add")}


def seen(*batches, images=2):
    collector = RangeCollector(LAYERS)
    for number, batch in enumerate(batches):
        collector.add(batch, first=number * images, images=images)
    return collector.ranges


def refusal(batch, first=4, images=2):
    with pytest.raises(GraphError) as error:
        RangeCollector(LAYERS).add(batch, first=first, images=images)
    return str(error.value)


def test_ranges_grow_with_each_batch():
    found = seen({"a": np.float32([[1], [2]])}, {"a": np.float32([[-3], [1]]), "b": np.float32([[0], [0]])})
    assert found == {"a": Range(-3, 2), "b": Range(0, 0)}


def test_a_tensor_without_numbers_has_no_range():
    assert seen({"a": np.zeros((2, 0), np.float32)}) == {}


def test_the_largest_is_a_magnitude():
    assert Range(-3, 2).largest == 3
    assert np.isnan(Range(float("nan"), 2).largest)


def test_nan_names_node_module_and_image():
    text = refusal({"a": np.float32([[1, 2], [3, np.nan]])})
    assert text == "the output of Conv conv_1 of stem.conv must be finite on calibration, got NaN for image 5"


def test_infinity_of_a_tensor_with_another_first_axis_names_the_batch():
    text = refusal({"b": np.float32([1, 2, -np.inf])})
    said = "the output of Add add_1 must be finite on calibration, got infinity for "
    assert text == said + "one of 2 images from image 4 to image 5"


def test_an_image_is_called_as_it_was_given():
    names = {4: "IMG_7.png", 5: "IMG_9.png"}
    with pytest.raises(GraphError, match=r"got NaN for IMG_9\.png$"):
        RangeCollector(LAYERS, called=names.__getitem__).add({"a": np.float32([1, np.nan])}, first=4, images=2)


def test_of_several_the_first_in_the_graphs_order_is_named():
    bad = np.float32([[np.inf], [1]])
    assert refusal({"b": bad, "a": bad}).startswith("the output of Conv conv_1 of stem.conv")


def test_an_input_that_is_not_finite_is_one():
    text = refusal({"x": np.float32([np.nan])}, images=1)
    assert text == "input x must be finite on calibration, got NaN for image 4"
