"""What torch's exporter has nothing for is told by the user's own line, with a remedy that computes the same."""

import re

import pytest
import torch
from torch import nn

import aaexport
from aaexport.capture.program import export_program
from aaexport.capture.unwritten import REMEDIES, why_not_written
from aaexport.errors import ExportError

SHAPE = (4, 6, 5)
EDGES = torch.linspace(-1, 1, 9)


class Of(nn.Module):
    """A function of images, or the remedy for it: what x, y and edges are in it is what its line calls so."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


# The name in torch → what the user writes. Images are x; y are those turned around.
LINES = {
    "median": lambda x: x.median(1)[0],
    "median, by name": lambda x: torch.median(x, dim=-1)[0],
    "median, kept": lambda x: x.median(1, keepdim=True)[0],
    "median of all": lambda x: x.median(),
    "nanmedian": lambda x: x.nanmedian(2)[0],
    "nanmedian, kept": lambda x: x.nanmedian(2, keepdim=True)[0],
    "kthvalue": lambda x: x.kthvalue(2, 1)[0],
    "kthvalue of the last": lambda x: torch.kthvalue(x, k=3)[0],
    "kthvalue, kept": lambda x: x.kthvalue(2, 1, keepdim=True)[0],
    "mode": lambda x: torch.mode(x.round(), 1)[0],
    "mode, kept": lambda x: torch.mode(x.round(), 1, keepdim=True)[0],
    "cummax": lambda x: x.cummax(3)[0],
    "cummin": lambda x: x.cummin(-2)[0],
    "cumprod": lambda x: x.cumprod(3),
    "cdist": lambda x: torch.cdist(x, x.flip(1)),
    "cdist, other norm": lambda x: torch.cdist(x, x.flip(1), 1.0),
    "cdist, largest": lambda x: torch.cdist(x, x.flip(1), float("inf")),
    "searchsorted": lambda x: torch.searchsorted(EDGES, x),
    "searchsorted to the right": lambda x: torch.searchsorted(EDGES, x.round(), right=True),
    "hypot": lambda x: torch.hypot(x, x.flip(1)),
}


def with_remedies(program):
    """The nodes that there is a remedy for, each with what gives it."""
    for node in program.graph.nodes:
        name = str(getattr(node.target, "__name__", "")).partition(".")[0]
        yield from ((node, give) for pattern, give in REMEDIES if re.fullmatch(pattern, name))


def call(line):
    """The remedy for the last operator in it that there is one for."""
    program = export_program(Of(line), SHAPE, "dynamic")
    *_, (node, give) = with_remedies(program)
    return give(node)


def as_written(remedy):
    """The remedy as a function of x."""
    code = remedy.removeprefix("write ").partition(", which is")[0]
    *before, last = code.split("; ")

    def function(x):
        known = {"torch": torch, "x": x, "y": x.flip(1), "edges": EDGES}
        if last.startswith("values, places = "):
            exec(last, known)
            return known["values"]
        for statement in before:
            exec(statement.replace("x = x.", "x = x.round()."), known)  # what `mode` is asked about
        return eval(last, known)

    return function


@pytest.mark.parametrize("name", LINES)
def test_a_remedy_computes_the_same(name):
    x = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    if "right" in name:
        x = x.round()
    wanted, found = LINES[name](x), as_written(call(LINES[name]))(x)
    assert (wanted.shape, wanted.dtype) == (found.shape, found.dtype)
    torch.testing.assert_close(found, wanted)


def test_the_median_of_what_is_no_nan_looks_at_no_nan():
    x = torch.tensor([[[[3.0, torch.nan, 1.0, 2.0, torch.inf, torch.nan]]], [[[torch.nan] * 5 + [-1.0]]]])
    found = as_written(call(lambda x: x.nanmedian(-1)[0]))(x)
    torch.testing.assert_close(found, x.nanmedian(-1)[0])
    assert as_written(call(lambda x: x.median(-1)[0]))(x)[0, 0, 0] != found[0, 0, 0]


ORDER = torch.arange(9)
WITHOUT = [  # nobody can write a formula down, with sizes that are open or none, or it would be another one
    lambda x: x.flatten().median(0)[0],
    lambda x: x.median(0)[0],
    lambda x: x.nanmedian(),
    lambda x: x.cumprod(0),
    lambda x: x.cummax(0)[0],
    lambda x: x.cumprod(3, dtype=torch.float64),
    lambda x: torch.searchsorted(EDGES, x, sorter=ORDER),
    lambda x: torch.searchsorted(EDGES, x, out_int32=True),
    lambda x: torch.searchsorted(EDGES, 0.5),
    lambda x: x.sum().median(0)[0],
    lambda x: x.sum().nanmedian(0)[0],
    lambda x: x.sum().kthvalue(1)[0],
    lambda x: x.sum().mode()[0],
    lambda x: x.sum().cummin(0)[0],
    lambda x: x.sum().cumprod(0),
    lambda x: x.roll(1, 2),
    lambda x: torch.fft.fftshift(x, (-2, -1)),
]


def test_where_no_formula_is_the_same_there_is_none():
    program = export_program(Of(lambda x: [line(x) for line in WITHOUT]), SHAPE, "dynamic")
    asked = [(node.name, give(node)) for node, give in with_remedies(program)]
    assert len(asked) == len(WITHOUT)
    assert not [(name, remedy) for name, remedy in asked if remedy]


def test_what_is_moved_over_all_axes_moves_images():
    program = export_program(Of(torch.fft.ifftshift), SHAPE, "dynamic")
    assert [give(node) for node, give in with_remedies(program)] == [
        "name the axes of the map, dim=(-2, -1): it moves images into one another"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", LINES)
def test_what_is_refused_is_converted_by_its_remedy(tmp_path, name):
    operator = name.split(",")[0].split(" ")[0]
    with pytest.raises(
        ExportError, match=rf"test_unwritten.py:\d+: torch's exporter knows no torch.{operator}; "
    ) as e:
        aaexport.convert(Of(LINES[name]).eval(), tmp_path / "x.onnx", input_shape=SHAPE)
    assert "\n" not in str(e.value)
    remedy = str(e.value).partition(f"torch.{operator}; ")[2]
    assert aaexport.convert(Of(as_written(remedy)).eval(), tmp_path / "y.onnx", input_shape=SHAPE).parity.passed


def test_the_line_is_the_users_and_the_operator_the_one_that_they_called(tmp_path):
    """The exporter itself speaks of `_linalg_svd`."""

    class Inside(nn.Module):
        def __init__(self):
            super().__init__()
            self.stages = nn.Sequential(nn.Identity(), Of(torch.linalg.svdvals))

        def forward(self, x):
            return {"map": None, "values": self.stages(x)}

    with pytest.raises(ExportError) as caught:
        aaexport.convert(Inside().eval(), tmp_path / "x.onnx", input_shape=SHAPE)
    assert re.fullmatch(
        r"torch's ONNX exporter failed at opset 20: stages.1 \(Of\), \S*test_unwritten.py:\d+: "
        r"torch's exporter knows no torch.linalg.svdvals; ONNX has no operator for it: .*",
        str(caught.value),
    )
    assert not list(tmp_path.iterdir())


def test_an_error_without_a_node_is_told_in_the_exporters_own_words():
    assert why_not_written(RuntimeError("no room"), None) == "no room"
