"""What torch's exporter refuses in its own words, or writes wrongly, is told with layer, line and remedy."""

import re

import pytest
import torch
from torch import nn
from torch.nn import functional

import aaexport
from aaexport.capture import program
from aaexport.capture.program import export_program
from aaexport.errors import ExportError, GraphError, ParityError

SHAPE = (3, 12, 10)


class Of(nn.Module):
    """A function of a convolution's map."""

    def __init__(self, function):
        super().__init__()
        self.c, self.function = nn.Conv2d(3, 4, 3, padding=1), function

    def forward(self, x):
        return self.function(self.c(x))


class Inside(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.stages = nn.Sequential(nn.Identity(), layer)

    def forward(self, x):
        return self.stages(x)


class Autocast(nn.Module):
    def __init__(self, device="cpu", dtype=torch.bfloat16, enabled=True):
        super().__init__()
        self.c, self.how = nn.Conv2d(3, 4, 1), {"device_type": device, "dtype": dtype, "enabled": enabled}

    def forward(self, x):
        with torch.autocast(**self.how):
            y = self.c(x)
        return y.float()


def stretched(y, factor):
    return functional.interpolate(torch.cat([y] * 5, 3), scale_factor=factor, mode="bilinear")


def resized(**how):
    return lambda: Of(lambda y: functional.interpolate(y, **how))


TOLD = {
    "divisor": (
        lambda: Of(lambda y: functional.avg_pool2d(y, 3, 2, 1, divisor_override=2)),
        "torch's exporter leaves out divisor_override=2; leave it out and multiply the result by 9 / 2",
    ),
    "adaptive maximum": (lambda: Of(nn.AdaptiveMaxPool2d(3)), r"\(12, 10\) is not divided by \(3, 3\)"),
    "autocast": (Autocast, "it computes in bfloat16 inside torch.autocast, .*; export it in float32"),
    "complex": (lambda: Of(torch.fft.rfft2), "it returns complex numbers, .*; return torch.view_as_real"),
    "fractional bilinear": (
        resized(scale_factor=1.3, mode="bilinear"),
        r"=1.3 makes 13 of 10 in PyTorch, and 12 by ONNX's rule, .*; give size=\(15, 13\), .* scale_factor=1.3000001",
    ),
    "fractional nearest": (
        resized(scale_factor=1.3, mode="nearest"),
        r"scale_factor=1.3 makes 13 of 10 .* themselves$",
    ),
    "fractional antialiased": (
        resized(scale_factor=1.3, mode="bilinear", antialias=True),
        r"leaves out scale_factor=1.3 of an antialiased resize, which makes 15 of 12; give size=\(15, 13\)",
    ),
    "fractional in float32": (
        lambda: Of(lambda y: stretched(y, 2.3)),
        r"=2.3 makes 114 of 50 in PyTorch, and 115 in onnxruntime, .*; give size=\(27, 114\), .*_factor=2.2999997",
    ),
    "divisor without padding": (
        lambda: Of(lambda y: functional.avg_pool2d(y, 3, 2, 1, count_include_pad=False, divisor_override=2)),
        "leave it out, give count_include_pad=True and multiply the result by 9 / 2",
    ),
    "divisor of the window without padding": (
        lambda: Of(lambda y: functional.avg_pool2d(y, 3, 2, 1, count_include_pad=False, divisor_override=9)),
        "leave it out and give count_include_pad=True$",
    ),
    "divisor beyond the map": (
        lambda: Of(lambda y: functional.avg_pool2d(y, (4, 3), 3, 1, ceil_mode=True, divisor_override=2)),
        r"leave it, ceil_mode and padding out, "
        r"pool torch.nn.functional.pad\(x, \(1, 1, 1, 3\)\) and multiply the result by 12 / 2",
    ),
}
FINE = {
    "average": lambda: Of(nn.AvgPool2d(3)),
    "autocast elsewhere": lambda: Autocast(enabled=False),
    "divisor of the window": lambda: Of(lambda y: functional.avg_pool2d(y, 2, ceil_mode=True, divisor_override=4)),
    "adaptive maximum of whole windows": lambda: Of(nn.AdaptiveMaxPool2d((3, 5))),
    "adaptive maximum of all": lambda: Of(nn.AdaptiveMaxPool2d(1)),
    "adaptive maximum of one axis": lambda: Of(lambda y: functional.adaptive_max_pool1d(y.flatten(2), 1)),
    "antialiased": resized(scale_factor=0.5, mode="bilinear", antialias=True),
    "half as large": resized(scale_factor=0.5, mode="bilinear"),
    "1.6 times": resized(scale_factor=1.6, mode="bilinear"),
    "a size": resized(size=(15, 13), mode="bilinear"),
    "absolute values of complex numbers": lambda: Of(lambda y: torch.fft.rfft2(y).abs()),
}


@pytest.mark.parametrize("name", TOLD)
def test_what_cannot_be_written_is_told_with_layer_line_and_remedy(name):
    make, says = TOLD[name]
    with pytest.raises(ExportError, match=says) as caught:
        export_program(Inside(make()).eval(), SHAPE, "dynamic")
    text = str(caught.value)
    assert text.startswith("Inside cannot be written as ONNX: stages.1")
    assert "\n" not in text


def test_the_users_line_is_named():
    with pytest.raises(ExportError, match=r"stages.1 \(Of\), .*test_limits.py:\d+: torch's exporter leaves out"):
        export_program(Inside(TOLD["divisor"][0]()).eval(), SHAPE, "dynamic")


@pytest.mark.parametrize("name", FINE)
def test_what_can_be_written_is_not_stopped(name):
    assert export_program(FINE[name]().eval(), SHAPE, "dynamic")


CONVERTED = (
    "divisor of the window",
    pytest.param("adaptive maximum of whole windows", marks=pytest.mark.slow),
    "adaptive maximum of all",
    pytest.param("adaptive maximum of one axis", marks=pytest.mark.slow),
    pytest.param("antialiased", marks=pytest.mark.slow),
)


@pytest.mark.parametrize("name", CONVERTED)
def test_what_is_not_stopped_is_written_rightly(name, tmp_path):
    torch.manual_seed(0)
    assert aaexport.convert(FINE[name]().eval(), tmp_path / "x.onnx", input_shape=SHAPE).parity.passed


WRONG = [
    name if name in ("divisor", "adaptive maximum") else pytest.param(name, marks=pytest.mark.slow)
    for name in TOLD
    if name not in ("autocast", "complex")
]


@pytest.mark.parametrize("name", WRONG)
def test_what_is_stopped_could_not_be_written_rightly(name, tmp_path, monkeypatch):
    monkeypatch.setattr(program, "fault_of", lambda *given: None)
    torch.manual_seed(0)
    with pytest.raises((ExportError, GraphError, ParityError)):
        aaexport.convert(TOLD[name][0]().eval(), tmp_path / "x.onnx", input_shape=SHAPE)


def padded(y, kernel, *rest, times):
    return functional.avg_pool2d(y, kernel, *rest) * times


REMEDIES = {
    "divisor": lambda y: padded(y, 3, 2, 1, times=9 / 2),
    "divisor without padding": lambda y: padded(y, 3, 2, 1, times=9 / 2),
    "divisor of the window without padding": lambda y: padded(y, 3, 2, 1, times=1),
    "divisor beyond the map": lambda y: padded(functional.pad(y, (1, 1, 1, 3)), (4, 3), 3, times=12 / 2),
    "fractional bilinear": lambda y: functional.interpolate(y, scale_factor=1.3000001, mode="bilinear"),
    "fractional in float32": lambda y: stretched(y, 2.2999997),
}


@pytest.mark.parametrize("name", REMEDIES)
def test_a_remedy_computes_the_same(name):
    module = TOLD[name][0]().eval()
    images = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    y = module.c(images).detach()
    moved = 1e-5 * float(y.max() - y.min())  # by a sample that lies a hundred-thousandth of a pixel elsewhere
    torch.testing.assert_close(REMEDIES[name](y), module(images), rtol=0, atol=moved)
    with pytest.raises(ExportError):
        export_program(module, SHAPE, "dynamic")
    assert export_program(Of(REMEDIES[name]).eval(), SHAPE, "dynamic")


@pytest.mark.slow
@pytest.mark.parametrize("name", REMEDIES)
def test_a_remedy_is_written_rightly(name, tmp_path):
    torch.manual_seed(0)
    assert aaexport.convert(Of(REMEDIES[name]).eval(), tmp_path / "x.onnx", input_shape=SHAPE).parity.passed


@pytest.mark.parametrize("wanted", [(3, 3), (5, 4), (7, 10), (5, 5), (12, 4)])
def test_the_maxima_of_slices_are_those_of_the_pooling(wanted):
    """The remedy as it is told, run."""
    with pytest.raises(ExportError) as caught:
        export_program(Of(nn.AdaptiveMaxPool2d(wanted)).eval(), SHAPE, "dynamic")
    steps = re.findall(r"x = (torch\.stack\(.*?, -[12]\))(?=$|, then)", str(caught.value))
    y = torch.randn(2, 4, *SHAPE[1:], generator=torch.Generator().manual_seed(0))

    def pooled(x):
        for step in steps:
            x = eval(step, {"torch": torch, "x": x})
        return nn.AdaptiveMaxPool2d(wanted)(x) if str(caught.value).endswith("then the same pooling") else x

    assert steps
    assert torch.equal(pooled(y), nn.AdaptiveMaxPool2d(wanted)(y))
    assert export_program(Of(pooled).eval(), SHAPE, "dynamic")
