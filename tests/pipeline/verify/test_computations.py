"""The judge of rows, asked without a file: what another module computes in the place of the model's own."""

import numpy as np
import pytest
import torch
from torch import nn

from aaexport.parity import Case, made_up_cases, tolerances
from aaexport.pipeline.subject.subject import as_subject
from aaexport.pipeline.verify.computations import Judge
from aaexport.pipeline.verify.oracles import torch_runner
from aaexport.pipeline.verify.rows import Row

SHAPE = (2, 4, 3)
INFINITE = float("inf")


class Of(nn.Module):
    """A function of the images."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class AllLoseNaN:
    """In a file of which every operator loses NaN, and where some number that is not finite arrives at it."""

    def deciding(self, operators, batch):
        return frozenset({"output"})


def judged(right, wrong, cases=None, arrivals=None):
    """What is found of a row that computes `wrong` where `right` is the model; by default of made-up images."""
    subject = as_subject(Of(right), SHAPE)
    runner = torch_runner(subject, Of(wrong), torch.float32)
    row = Row("a row", "file", tolerances("float32", "cpu"), lambda: runner, arrivals=arrivals)
    Judge(subject).judge([row], list(made_up_cases(SHAPE, (3, 1), 2, 0)) if cases is None else cases)
    return row.result()


def ordinary(result):
    return [output for output in result.outputs if not output.extreme]


def given(scale=1.0):
    return [Case("images", scale * np.random.default_rng(0).standard_normal((4, *SHAPE), np.float32))]


def overflows(x):
    return (x * 120).exp()


@pytest.mark.parametrize("cases", [None, given()], ids=["made up", "given"])
@pytest.mark.parametrize("value", [1e30, 0.0, -5.0])
def test_a_finite_number_for_what_overflows_float32_fails(value, cases):
    def clamped(x):
        return torch.where(overflows(x).isinf(), value, overflows(x))

    assert any(output.failure for output in ordinary(judged(overflows, clamped, cases)))


def test_what_overflows_float32_as_in_pytorch_passes_for_made_up_images():
    assert judged(overflows, overflows).passed


@pytest.mark.parametrize("elsewhere", [False, True])
def test_an_infinity_loosens_no_other_number_and_no_other_output(elsewhere):
    """A channel that is off beside one of 1e6, and an infinity beside it, or in another output."""

    def right(x):
        masked = x.masked_fill(x > 1, -INFINITE)
        sizes = torch.stack([x[:, 0] * 1e6, x[:, 1]], 1)
        return (sizes, masked) if elsewhere else torch.cat([sizes, masked], 1)

    def wrong(x):
        shift = torch.zeros(1, 2 if elsewhere else 4, 1, 1)
        shift[:, 1] = 1e-2
        return (right(x)[0] + shift, right(x)[1]) if elsewhere else right(x) + shift

    assert judged(right, right).passed
    assert any("channel 1" in (output.failure or "") for output in ordinary(judged(right, wrong)))


MASKED = {
    "half as much again": lambda x: (masked(x)[0] * 1.5, masked(x)[1]),
    "infinity of the other sign": lambda x: (x.masked_fill(x < 0, INFINITE), masked(x)[1]),
    "other places": lambda x: (x.masked_fill(x < 0.1, -INFINITE), masked(x)[1]),
    "the least number": lambda x: (x.masked_fill(x < 0, torch.finfo(x.dtype).min), masked(x)[1]),
}


def masked(x):
    scores = x.masked_fill(x < 0, -INFINITE)
    return scores, scores.amax(1)


@pytest.mark.parametrize("name", MASKED)
def test_kernels_that_lose_nan_excuse_no_infinity_that_is_meant(name):
    assert judged(masked, masked, arrivals=AllLoseNaN()).passed
    assert any(output.failure for output in ordinary(judged(masked, MASKED[name], arrivals=AllLoseNaN())))


def test_an_output_that_had_a_number_in_no_case_is_a_failure():
    def detector(x):
        scores = x[:, :, 0, 0].flatten()
        return scores, scores[scores > 1e9]

    result = judged(detector, detector, given())
    assert [output.failure for output in result.outputs] == [
        None,
        "must hold numbers to compare in some case, got none; give images for which it does by --inputs",
    ]
    assert judged(detector, detector, [*given(), Case("larger", given(1e10)[0].batch)]).passed


def test_nan_that_coarse_kernels_make_is_not_allowed():
    """A sigmoid that is 2 ulps of 1 less is below 0, and its logarithm NaN: beside an infinity that is meant."""

    def right(x):
        return torch.cat([x.masked_fill(x > 1, -INFINITE), (x - 20).sigmoid().log()], 1)

    def wrong(x):
        return torch.cat([right(x)[:, :2], right(x)[:, 2:] * torch.nan], 1)

    assert judged(right, right, given()).passed
    assert not judged(right, wrong, given()).passed
