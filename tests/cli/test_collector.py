"""What commands load is set aside for the garbage collector, which then goes on as before."""

import gc
import sys

import pytest

from aaexport.cli.collector import SMALL, converting, loading

MODULE = "antigravity_of_ours"


@pytest.fixture(autouse=True)
def _kept():
    was_on = gc.isenabled()
    yield
    sys.modules.pop(MODULE, None)
    (gc.enable if was_on else gc.disable)()


@pytest.mark.parametrize("switch", [gc.enable, gc.disable])
def test_nothing_is_collected_while_libraries_load_and_then_it_is_as_before(switch):
    switch()
    before = gc.isenabled()
    with loading():
        assert not gc.isenabled()
    assert gc.isenabled() == before


def test_an_import_that_fails_leaves_it_as_it_was():
    gc.enable()
    with pytest.raises(ImportError), loading():
        raise ImportError
    assert gc.isenabled()


def test_what_was_loaded_is_set_aside_and_nothing_where_nothing_was(monkeypatch):
    frozen = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(True))
    with loading():
        pass
    assert not frozen
    with loading():
        sys.modules[MODULE] = sys
    assert frozen


@pytest.mark.parametrize(("size", "is_collected"), [(SMALL - 1, False), (SMALL, True), (None, True)])
def test_only_a_large_networks_conversion_is_collected(tmp_path, size, is_collected):
    """Or one whose weights cannot be read, and then as before in either case."""
    weights = tmp_path / "weights.safetensors"
    if size is not None:
        with weights.open("wb") as file:
            file.truncate(size)
    gc.enable()
    with pytest.raises(ZeroDivisionError), converting(weights):
        assert gc.isenabled() == is_collected
        raise ZeroDivisionError
    assert gc.isenabled()
    gc.disable()
    with converting(weights):
        assert not gc.isenabled()
    assert not gc.isenabled()
