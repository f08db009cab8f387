"""What torch.compile made of a module, or of a part of it, is taken off again."""

import copy

import pytest
import torch
from torch import nn

from aaexport.capture.compiled import NOTE, holds_compiled, is_compiled, uncompiled, unwrapped


def small():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(nn.ReLU(), nn.Conv2d(2, 2, 1)))


def whole():
    return torch.compile(small(), backend="eager")


def a_part():
    module = small()
    module[1] = torch.compile(module[1], backend="eager")
    return module


def in_a_compiled_one():
    module = small()
    module[1][1] = torch.compile(module[1][1], backend="eager")
    return torch.compile(module, backend="eager")


def in_place():
    module = small()
    module[1].compile(backend="eager")
    return module


COMPILED = {"whole": whole, "a part": a_part, "both": in_a_compiled_one, "in place": in_place}


@pytest.mark.parametrize("make", COMPILED.values(), ids=COMPILED)
def test_nothing_compiled_is_left_and_it_is_said(make):
    module, notes = uncompiled(make())
    assert notes == (NOTE,)
    assert not holds_compiled(module)
    assert list(module.state_dict()) == list(small().state_dict())
    assert module(torch.zeros(1, 1, 4, 4)).shape == (1, 2, 2, 2)


@pytest.mark.parametrize("make", COMPILED.values(), ids=COMPILED)
def test_a_copy_can_be_uncompiled_and_the_module_stays_as_it_is(make):
    module = make()
    copied, _ = uncompiled(copy.deepcopy(unwrapped(module)))
    assert not holds_compiled(copied)
    assert holds_compiled(module)


def test_a_module_that_was_not_compiled_is_left_alone():
    module = small()
    found, notes = uncompiled(module)
    assert (found is module, notes, is_compiled(module)) == (True, (), False)
