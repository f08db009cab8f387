"""Right files of modules that nobody here designed pass: what is special about each is a way to cry wolf."""

import pytest
import torch
from torch import nn

import aaexport


class Of(nn.Module):
    """A convolution, and a function of its map."""

    def __init__(self, function, channels=8, kernel=3):
        super().__init__()
        self.convolution, self.function = nn.Conv2d(3, channels, kernel), function

    def forward(self, x):
        return self.function(self.convolution(x))


class Standardised(nn.Module):
    """Of nothing but equal numbers it makes NaN."""

    def forward(self, x):
        return (x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True)


MODULES = {
    "maximum pooled": lambda: Of(nn.MaxPool2d(2)),
    "several maps": lambda: Of(lambda y: {"fine": y, "coarse": nn.functional.max_pool2d(y, 2)}),
    "largest": lambda: Of(lambda y: y.amax((2, 3))),
    "best classes": lambda: Of(lambda y: y.mean((2, 3)).topk(3)),
    "classes of a map": lambda: Of(lambda y: y.argmax(1)),
    "mask": lambda: Of(lambda y: y > 0.1),
    "not a number of zeros": Standardised,
    "logarithm": lambda: Of(lambda y: (y.abs().mean((1, 2, 3)) - 0.3).log()),
    "instances normalised": lambda: Of(nn.InstanceNorm2d(8)),
    "instances of single pixels normalised": lambda: Of(nn.InstanceNorm2d(8), kernel=1),
    "groups normalised": lambda: Of(nn.GroupNorm(8, 8), kernel=1),
    "deviation": lambda: Of(lambda y: y.std((2, 3))),
    "logarithm of probabilities": lambda: Of(lambda y: y.mean((2, 3)).log_softmax(1)),
    "transposed convolution in groups": lambda: Of(nn.ConvTranspose2d(8, 8, 2, groups=2)),
    "shares": lambda: Of(lambda y: y / y.sum(1, keepdim=True)),
    "boxes and scores": lambda: Of(lambda y: torch.cat([y[:, :4] * 1e6, y[:, 4:].softmax(1)], 1)),
}


class Rare(nn.Module):
    """A head of rare classes, as RetinaNet begins: every score is about 0.01, or `prior`."""

    def __init__(self, prior=-4.595, gated=False):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2, 3, padding=1)
        self.gated = gated
        nn.init.normal_(self.last.weight, std=0.01)
        nn.init.constant_(self.last.bias, prior)

    def forward(self, x):
        y = self.first(x).relu()
        scores = self.last(y).sigmoid()
        return y[:, :2] * scores if self.gated else scores


class Warp(nn.Module):
    """A spatial transformer: samples at learned places."""

    def __init__(self):
        super().__init__()
        self.c = nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, x):
        places = torch.tanh(self.c(x)).permute(0, 2, 3, 1)
        return nn.functional.grid_sample(x, places, align_corners=False)


def peaks(y):
    return y * (nn.functional.max_pool2d(y, 3, 1, 1) == y).float()


def best(y):
    return y.sigmoid().flatten(1).topk(5, 1)


def best_of_zeros(y):
    """Most of the scores are the same zero."""
    return (y - 1.2).relu().flatten(1).topk(40, 1)[1]


def masked(value):
    """Its function gives classes of which every third never is one."""
    return lambda y: y.masked_fill(torch.arange(8)[None, :, None, None] % 3 == 0, value).argmax(1)


def places_of_best(y):
    index = y.sigmoid().flatten(1).topk(5, 1)[1]
    return index // y.shape[3], index % y.shape[3]


class Both(nn.Module):
    """Returns its input too, and a buffer."""

    def __init__(self):
        super().__init__()
        self.c = nn.Conv2d(3, 4, 1)
        self.register_buffer("classes", torch.arange(4.0))

    def forward(self, x):
        y = self.c(x)
        return {"map": y, "images": x, "again": y, "classes": self.classes}


COMMON = tuple(MODULES)  # whose kinds the tests of `convert` have too

MODULES |= {
    "rare classes": Rare,
    "very rare classes": lambda: Rare(-9.0),
    "classes of nearly nothing": lambda: Rare(-14.0),
    "gate of nearly nothing": lambda: Rare(-17.0, gated=True),
    "best of nearly nothing": lambda: Of(lambda y: (y - 18).sigmoid().flatten(1).topk(5, 1)[0], channels=2),
    "classes of a map beside the least number": lambda: Of(masked(torch.finfo(torch.float32).min)),
    "classes of a map beside a mask": lambda: Of(masked(-1e9)),
    "gate that is nearly closed": lambda: Rare(gated=True),
    "warped": Warp,
    "local maxima": lambda: Of(peaks),
    "best places": lambda: Of(best, channels=2),
    "best places of mostly zeros": lambda: Of(best_of_zeros, channels=2),
    "places of the best, by row and column": lambda: Of(places_of_best, channels=2),
    "order": lambda: Of(lambda y: y.mean((2, 3)).argsort(1, descending=True)),
    "one tensor under two names": lambda: Of(lambda y: {"logits": y, "aux": y}),
    "input and output": Both,
    "nearest by a fraction": lambda: Of(lambda y: nn.functional.interpolate(y, scale_factor=1.6, mode="nearest")),
}

LESS_COMMON = {
    "logarithm of zeros": lambda y: y.relu().log(),
    "one over zeros": lambda y: 1 / y.relu(),
    "all over zero": lambda y: y / (y - y.detach()).relu(),
    "logarithm of minus one and one": lambda y: torch.log1p(-(y > 0).float()),
    "rows of nothing": lambda y: y.flatten(2).masked_fill(ROWS[:, None] > 5, -torch.inf).logsumexp(2),
    "masked scores": lambda y: y.masked_fill(y < 0, -torch.inf),
    "best of masked scores": lambda y: y.flatten(1).masked_fill(y.flatten(1) < 0.5, -torch.inf).topk(5, 1),
    "exponentials of large numbers": lambda y: (y * 120).exp(),
    "logarithm of scores": lambda y: y.sigmoid().log(),
    "filtered": lambda y: torch.fft.irfft2(torch.fft.rfft2(y), s=y.shape[-2:]),
    "filtered, normalized at both ends": lambda y: (
        torch.fft.ifft2(torch.fft.fft2(y, norm="ortho"), norm="ortho").real
    ),
    "spectrum": lambda y: torch.view_as_real(torch.fft.fft(y)),
    "spectrum over time": lambda y: torch.stft(
        y.flatten(1), 30, window=torch.hann_window(30), return_complex=True
    ).abs(),
    "numbers that are there": lambda y: torch.unique((y * 2).round()),
    "places above a threshold": lambda y: torch.nonzero(y.relu() > 0.3),
    "numbers above a threshold": lambda y: y[y > 0.2],
    "quantiles": lambda y: y.flatten(1).quantile(0.9, dim=1),
    "logarithm of at least a little": lambda y: (y.relu() + 1e-8).log(),
    "divided by at least a little": lambda y: y.relu() / (y.relu().sum(1, keepdim=True) + 1e-12),
    "angles": lambda y: torch.atan2(y, y + 1),
    "signs": torch.sign,
    "one over the root of nearly nothing": lambda y: (y.abs() + 1e-3).rsqrt(),
    "logarithm of the sigmoid": nn.functional.logsigmoid,
    "logarithm of two exponentials": lambda y: torch.logaddexp(y, y.flip(1)),
    "odds": lambda y: torch.logit(y.sigmoid(), 1e-6),
    "signs and odds in place": lambda y: torch.cat([y.clone().sign_(), y.sigmoid().logit_(1e-6)], 1),
    "signed root": lambda y: torch.cat([y.sign() * y.abs().sqrt(), (y.abs() + 1).log()], 1),
    "signed root beside a map": lambda y: {"root": y.sign() * y.abs().sqrt(), "map": y},
    "signs beside a sum of exponentials": lambda y: torch.cat(
        [(y**13).sign(), torch.logaddexp(4 * y, torch.zeros(()))], 1
    ),
    "steps": lambda y: torch.heaviside(y, torch.full((), 0.5)),
}
ROWS = torch.arange(8)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in COMMON else []) for name in MODULES]
)
def test_a_right_file_passes(name, tmp_path):
    torch.manual_seed(0)
    module = MODULES[name]().eval()
    parity = aaexport.convert(module, tmp_path / "x.onnx", input_shape=(3, 12, 10)).parity
    assert parity.passed, parity.failures


def test_where_minus_infinity_is_meant_nothing_is_warned_of(tmp_path):
    torch.manual_seed(0)
    module = Of(LESS_COMMON["masked scores"], channels=2).eval()
    parity = aaexport.convert(module, tmp_path / "x.onnx", input_shape=(3, 6, 5), opset=20).parity
    assert (parity.passed, parity.warnings) == (True, ())
    assert 0 < parity.max_abs_error < 1e-5


# Where the first of the batches that are tried has less rounding than the others.
SHAPES = {"one over the root of nearly nothing": (3, 12, 10)}


@pytest.mark.slow
@pytest.mark.parametrize("name", LESS_COMMON)
def test_a_right_file_of_what_is_less_common_passes(name, tmp_path):
    torch.manual_seed(0)
    module = Of(LESS_COMMON[name]).eval()
    parity = aaexport.convert(module, tmp_path / "x.onnx", input_shape=SHAPES.get(name, (3, 14, 12))).parity
    assert parity.passed, parity.failures


# What a file computes instead of one of them; the weights are the same.
MUTANTS = {
    "a large number for infinity": ("masked scores", lambda y: y.masked_fill(y < 0, -1e30)),
    "the least number for infinity": ("masked scores", lambda y: y.masked_fill(y < 0, torch.finfo(y.dtype).min)),
    "infinity of the other sign": ("masked scores", lambda y: y.masked_fill(y < 0, torch.inf)),
    "NaN for infinity": ("masked scores", lambda y: y.masked_fill(y < 0, torch.nan)),
    "another threshold": ("masked scores", lambda y: y.masked_fill(y < 0.05, -torch.inf)),
    "numbers beside infinity a little off": ("masked scores", lambda y: y.masked_fill(y < 0, -torch.inf) * 1.0001),
    "logarithm of at least a little": ("logarithm of zeros", lambda y: (y.relu() + 1e-30).log()),
    "logarithm of twice the number": ("logarithm of zeros", lambda y: (2 * y.relu()).log()),
    "minus one over zeros": ("one over zeros", lambda y: -1 / y.relu()),
    "one over at least a little": ("one over zeros", lambda y: 1 / y.relu().clamp(min=1e-20)),
    "normalized at one end": (
        "filtered",
        lambda y: torch.fft.irfft2(torch.fft.rfft2(y, norm="ortho"), s=y.shape[-2:]),
    ),
    "conjugate spectrum": ("filtered", lambda y: torch.fft.irfft2(torch.fft.rfft2(y.flip(-1, -2)), s=y.shape[-2:])),
    "shifted spectrum": ("spectrum", lambda y: torch.view_as_real(torch.fft.fft(y)).roll(1, 3)),
    "conjugate": ("spectrum", lambda y: torch.view_as_real(torch.fft.fft(y)) * torch.tensor([1.0, -1.0])),
    "filtered, a little off": (
        "filtered",
        lambda y: torch.fft.irfft2(torch.fft.rfft2(y), s=y.shape[-2:]) * (1 + 5e-4),
    ),
    "a spectrum a little off": ("spectrum", lambda y: torch.view_as_real(torch.fft.fft(y)) * (1 + 5e-4)),
    "signs of nearly nothing left out": ("signs", lambda y: torch.where(y.abs() < 1e-2, 0.0, y.sign())),
    "steps at a little": ("steps", lambda y: torch.heaviside(y - 1e-2, torch.full((), 0.5))),
    "one over the root of a little more": (
        "one over the root of nearly nothing",
        lambda y: (y.abs() + 1.0005e-3).rsqrt(),
    ),
    "one over the root of a little more still": (
        "one over the root of nearly nothing",
        lambda y: (y.abs() + 1.002e-3).rsqrt(),
    ),
    "NaN of another output replaced": (
        "signed root beside a map",
        lambda y: {"root": y.sign() * y.abs().sqrt(), "map": y.nan_to_num(7.0, 7.0, 7.0)},
    ),
    "a sum of exponentials that overflows": (
        "signs beside a sum of exponentials",
        lambda y: torch.cat([(y**13).sign(), ((4 * y).exp() + 1).log()], 1),
    ),
    "one over the root, a little off": (
        "one over the root of nearly nothing",
        lambda y: (y.abs() + 1e-3).rsqrt() * (1 + 1e-3),
    ),
    "another bound of odds": ("odds", lambda y: torch.logit(y.sigmoid(), 1e-5)),
    "a hundredth off": ("spectrum", lambda y: torch.view_as_real(torch.fft.fft(y)) * 1.01),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_file_of_them_fails(name, tmp_path):
    right, wrong = MUTANTS[name]
    torch.manual_seed(0)
    module = Of(LESS_COMMON[right]).eval()
    other = Of(wrong).eval()
    other.load_state_dict(module.state_dict())
    shape = SHAPES.get(right, (3, 14, 12))
    aaexport.convert(other, tmp_path / "x.onnx", input_shape=shape, verify=False)
    report = aaexport.verify(module, tmp_path / "x.onnx", input_shape=shape, locate=False)
    assert not report.passed
    assert "evaluator cannot" not in report.complaint


@pytest.mark.slow
def test_a_filter_of_other_lengths_than_powers_of_two_that_is_a_little_off_fails(tmp_path):
    """Kernels are not off by the same all over a spectrum, which would gather in one place of the image."""
    torch.manual_seed(0)
    module = Of(LESS_COMMON["filtered"]).eval()
    other = Of(lambda y: LESS_COMMON["filtered"](y) + 5e-4).eval()
    other.load_state_dict(module.state_dict())
    aaexport.convert(other, tmp_path / "x.onnx", input_shape=(3, 62, 62), verify=False)
    assert not aaexport.verify(module, tmp_path / "x.onnx", input_shape=(3, 62, 62), locate=False).passed
