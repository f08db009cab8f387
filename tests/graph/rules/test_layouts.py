import numpy as np
import pytest

from aaexport.graph.rules.layouts import AS_COLUMNS, AS_ROWS, arrangement, memory_order

SIZES = (2, 3, 4, 5, 6)


def stored(order):
    """Entries, in the order of the axes, of a tensor that holds them in another."""
    entries = np.arange(np.prod(SIZES)).reshape([SIZES[axis] for axis in order])
    return entries.transpose(np.argsort(order))


@pytest.mark.parametrize("order", [AS_ROWS, AS_COLUMNS, (4, 2, 0, 3, 1), (1, 0, 3, 2, 4)])
def test_the_order_in_memory_is_found(order):
    assert memory_order(stored(order)) == order


def test_what_is_not_all_of_a_tensor_has_no_order():
    assert memory_order(stored(AS_ROWS)[:, :2]) is None
    assert memory_order(np.repeat(stored(AS_ROWS)[:, :1], 3, axis=1)) is None


@pytest.mark.parametrize(
    ("given", "before", "permutation"),
    [
        (AS_ROWS, (-1,), (0,)),  # nothing to move
        (AS_COLUMNS, (-1, 6, 20), (0, 2, 1)),  # heads stay with their images, columns with their rows
        ((1, 0, 2, 3, 4), (3, -1, 120), (1, 0, 2)),
    ],
)
def test_axes_that_stay_together_are_one(given, before, permutation):
    way = arrangement(given, AS_ROWS, SIZES)
    assert (way.before, way.permutation) == (before, permutation)
    assert way.after == tuple(before[number] for number in permutation)


@pytest.mark.parametrize("given", [AS_COLUMNS, (4, 2, 0, 3, 1), (1, 0, 3, 2, 4)])
@pytest.mark.parametrize("wanted", [AS_ROWS, AS_COLUMNS, (2, 4, 0, 1, 3)])
def test_the_way_from_one_order_to_another_arrives(given, wanted):
    way = arrangement(given, wanted, SIZES)
    memory = np.empty(np.prod(SIZES), int)
    memory[stored(given).reshape(-1)] = np.arange(memory.size)  # by canonical number
    arrived = memory.reshape(way.before).transpose(way.permutation).reshape(way.after)
    expected = np.empty(np.prod(SIZES), int)
    expected[stored(wanted).reshape(-1)] = np.arange(memory.size)
    np.testing.assert_array_equal(arrived.reshape(-1), expected)
