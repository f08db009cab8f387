"""The turns that the measuring examples take."""

import alternating


def test_the_sides_take_turns_and_who_goes_first_changes():
    order = []
    pairs = alternating.pairs(lambda side: order.append(side) or len(order), "a", "b", 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert pairs == [[1, 2], [4, 3], [5, 6]]


def test_two_equal_sides_are_still_two_measurements():
    numbers = iter([1.0, 2.0, 3.0, 4.0])
    assert alternating.pairs(lambda side: next(numbers), "same", "same", 2) == [[1.0, 2.0], [4.0, 3.0]]


def test_a_row_has_the_ratios_of_its_pairs(capsys):
    row = alternating.ratio("this ÷ that", [[2.0, 1.0], [9.0, 3.0], [1.0, 2.0]], unit="ms")
    assert row == {"what": "this ÷ that", "median": 2.0, "lowest": 0.5, "highest": 3.0, "runs": 3, "unit": "ms"}
    assert capsys.readouterr().err == "this ÷ that: 2\n"
