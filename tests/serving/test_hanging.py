"""Which processes hang: known by what they tell themselves, and by what the system tells of them."""

from aaexport.serving.hanging import LONGEST, STOPPED, SURE, TIMES, Hanging

NONE = frozenset()


def test_one_that_is_at_a_query_for_too_long_hangs_and_its_neighbours_do_not():
    hanging = Hanging()
    now = 1000.0
    began = {7: now - LONGEST - 1, 8: now - 1}
    assert hanging.found(began, NONE, now) == {}
    assert hanging.found(began, NONE, now + SURE) == {7: f"was at one query for more than {LONGEST:.0f} s"}


def test_a_model_of_which_a_full_batch_takes_long_has_the_time_for_it():
    """One image took 5 s, and 32 share a run; once it had to wait for others."""
    hanging = Hanging()
    hanging.seen("slow", 5.0, 1, 32)
    hanging.seen("slow", 50.0, 1, 32)
    hanging.seen("quick", 0.1, 4, 32)
    allowed = TIMES * 5 * 32
    assert hanging.found({7: -allowed + 1}, NONE, 0) == hanging.found({7: -allowed + 1}, NONE, SURE - 1) == {}
    assert hanging.found({8: -allowed - 1}, NONE, 0) == {}
    assert hanging.found({8: -allowed - 1}, NONE, SURE) == {8: f"was at one query for more than {allowed:.0f} s"}


def test_one_that_goes_on_meanwhile_does_not():
    """As where the whole machine stood still for a minute."""
    hanging = Hanging()
    now = 1000.0
    assert hanging.found({7: now - 600}, NONE, now) == {}
    assert hanging.found({7: now + 1}, NONE, now + SURE) == {}
    assert hanging.found({7: now + 1}, NONE, now + LONGEST) == {}


def test_one_that_is_stopped_hangs_unless_it_goes_on():
    hanging = Hanging()
    assert hanging.found({}, frozenset([7, 8]), 0) == {}
    assert hanging.found({}, frozenset([7]), SURE) == {7: STOPPED}
    assert hanging.found({}, frozenset([8]), SURE) == {}


def test_a_model_of_any_size_has_any_time_and_one_that_is_known_to_be_slow_its_own():
    hanging = Hanging()
    assert not hanging.may_last(1.0)  # of models that are quick a late answer is told by golden vectors
    hanging.seen("slow", 5.0, 1, 32)
    assert hanging.may_last(TIMES * 5 * 32)
    assert not hanging.may_last(TIMES * 5 * 32 + 1)
    hanging.seen("any", float("inf"), 1, 32)
    assert not hanging.may_last(1.0)
    assert hanging.found({7: 0.0}, NONE, 1e6) == hanging.found({7: 0.0}, NONE, 1e6 + SURE) == {}
