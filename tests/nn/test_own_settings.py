"""What torch was set to by others does not reach what we make, and is as they set it afterwards."""

import contextlib

import pytest
import torch

from aaexport.nn.own_settings import own_settings, settings_kept, torch_threads


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


def state():
    """Everything that decides what torch makes and computes."""
    made = torch.zeros(2, 2)
    product = made @ made
    kinds = made.dtype, product.dtype, made.device.type, made.is_inference(), torch.is_grad_enabled()
    return kinds, torch.get_default_dtype(), torch.get_default_device()


FRESH = state()
SETTINGS = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "a default device": lambda: default_device("meta"),
    "a device context": lambda: torch.device("meta"),
    "inference": torch.inference_mode,
    "no gradients": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu"),
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_nothing_of_the_callers_settings_is_seen_inside_and_all_are_there_after(settings):
    with settings():
        before = state()
        assert before != FRESH
        with own_settings():
            assert state() == FRESH
        assert state() == before
    assert state() == FRESH


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_they_are_there_after_an_error_too(settings):
    with settings():
        before = state()
        with pytest.raises(ValueError, match="it failed"), own_settings():
            raise ValueError("it failed")
        assert state() == before


def test_a_function_can_be_decorated_and_called_again():
    decorated = own_settings()(state)
    assert decorated() == FRESH
    with torch.device("meta"):
        assert decorated() == decorated() == FRESH


def test_what_a_block_sets_ends_with_it():
    with settings_kept():
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
    assert state() == FRESH


def test_what_was_set_before_such_a_block_stays():
    with default_dtype(torch.float64), default_device("meta"):
        with settings_kept():
            torch.set_default_dtype(torch.float16)
            torch.set_default_device("cpu")
        assert (torch.get_default_dtype(), torch.get_default_device().type) == (torch.float64, "meta")


def test_threads_are_as_many_as_asked_for_and_as_before_afterwards():
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    with pytest.raises(ValueError, match="it failed"), torch_threads(before + 1):
        raise ValueError("it failed")
    with torch_threads(None):
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before
