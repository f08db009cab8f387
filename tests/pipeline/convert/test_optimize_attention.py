"""optimize on layers as public code writes them, by both of torch's exporters: found, rewritten, still the same."""

import contextlib
import io
import warnings

import numpy as np
import onnx
import pytest
import torch
from public_layers import (
    ChannelsFirst,
    ContentScaled,
    Expanded,
    KeysFirst,
    Permuted,
    SideBySide,
    SixAxes,
    Unpermuted,
)

import aaexport
from aaexport.capture.program import fast_tracing
from aaexport.graph.check import unportable
from aaexport.graph.optimize import RuleReport
from aaexport.graph.rules.skewed_relative_attention import SkewedRelativeAttention
from aaexport.nn.choice import Choice
from aaexport.runners.ort import OrtRunner

GONE = {"Einsum", "Tile", "ScatterND", "Shape", "ConstantOfShape", "Gather", "Expand"}


def module(kind, **arguments):
    torch.manual_seed(0)
    return kind(**arguments).eval()


def export(network, path, *, dynamo, opset, dynamic, size=(3, 3)):
    """By torch's own exporter of either kind; gradients off, because some scale in place."""
    batch, more = torch.export.Dim("batch"), {}
    if dynamo:
        more = {"external_data": False, "verbose": False, "dynamic_shapes": ({0: batch},) if dynamic else None}
    elif dynamic:
        more = {"input_names": ["x"], "dynamic_axes": {"x": {0: "batch"}}}
    with warnings.catch_warnings(), torch.no_grad(), fast_tracing(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (torch.zeros(2, 3, *size),), path, opset_version=opset, dynamo=dynamo, **more)
    return path


def attentions(result):
    (report,) = (rule for rule in result.rules if rule.title == SkewedRelativeAttention.title)
    return report


def declared(path):
    return onnx.load(path).opset_import[0].version


def assert_same_answers(network, path, batches, size=(3, 3)):
    """As PyTorch in float64, as near as float32 gets."""
    generator = torch.Generator().manual_seed(1)
    with OrtRunner(path) as runner:
        for batch in batches:
            x = torch.randn(batch, 3, *size, generator=generator)
            with torch.no_grad():
                expected = network.double()(x.double()).numpy()
            (found,) = runner.infer({runner.inputs[0].name: x.numpy()}).values()
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)


ALL = (Unpermuted, KeysFirst, Permuted, Expanded, ContentScaled, ChannelsFirst, SixAxes)
TORCHSCRIPT, DYNAMO = False, True
STATIC, DYNAMIC = False, True


@pytest.mark.parametrize(
    ("dynamo", "opset", "dynamic", "kinds"),
    [
        (TORCHSCRIPT, 11, STATIC, [ContentScaled]),  # the others' einsums are not to be had before 12
        (TORCHSCRIPT, 11, DYNAMIC, [ContentScaled]),
        pytest.param(TORCHSCRIPT, 12, STATIC, ALL, marks=pytest.mark.slow),
        pytest.param(TORCHSCRIPT, 13, DYNAMIC, [Permuted, Expanded, ChannelsFirst, SixAxes], marks=pytest.mark.slow),
        (TORCHSCRIPT, 17, DYNAMIC, [Unpermuted]),
        (TORCHSCRIPT, 20, STATIC, [Permuted]),
        pytest.param(DYNAMO, 18, STATIC, [Expanded, ContentScaled, SixAxes], marks=pytest.mark.slow),
        pytest.param(DYNAMO, 20, DYNAMIC, [Unpermuted, ChannelsFirst], marks=pytest.mark.slow),  # a ScatterND
    ],
)  # fmt: skip
def test_every_way_of_writing_is_found_and_written_anew(tmp_path, dynamo, opset, dynamic, kinds):
    network = module(SideBySide, kinds=kinds)
    path = export(network, tmp_path / "in.onnx", dynamo=dynamo, opset=opset, dynamic=dynamic)
    result = aaexport.optimize(path, tmp_path / "out.onnx")
    assert attentions(result).refused == {}
    assert attentions(result).applied == len(kinds)
    assert not GONE & result.after.keys()
    assert declared(tmp_path / "out.onnx") == declared(path) == opset
    assert_same_answers(network, tmp_path / "out.onnx", [1, 2, 3, 5] if dynamic else [2])


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A layer of 3×4 positions, and its module."""
    network = module(Permuted)
    path = tmp_path_factory.mktemp("layer") / "layer.onnx"
    return network, export(network, path, dynamo=False, opset=17, dynamic=False, size=(3, 4))


@pytest.mark.parametrize(
    "choice", [Choice("fold", 3), Choice("shift"), Choice("shift", 3), Choice("shift", 6)], ids=str
)
def test_every_form_and_number_of_blocks_is_the_same_function(file, tmp_path, monkeypatch, choice):
    """6 blocks of 12 queries: parts of rows."""
    monkeypatch.setattr("aaexport.nn.choice.choose", lambda *_: choice)
    network, path = file
    result = aaexport.optimize(path, tmp_path / "out.onnx")
    assert result.after["Softmax"] == choice.blocks
    assert_same_answers(network, tmp_path / "out.onnx", [2], size=(3, 4))


@pytest.mark.parametrize("size", [(1, 4), (4, 1)], ids=str)
def test_a_map_may_be_a_single_row_or_column(tmp_path, size):
    network = module(Permuted, size=size)
    path = export(network, tmp_path / "in.onnx", dynamo=False, opset=17, dynamic=False, size=size)
    result = aaexport.optimize(path, tmp_path / "out.onnx")
    assert attentions(result).applied == 1
    assert_same_answers(network, tmp_path / "out.onnx", [2], size)


def test_a_second_time_finds_nothing(file, tmp_path, monkeypatch):
    monkeypatch.setattr("aaexport.nn.choice.choose", lambda *_: Choice("shift", 2))
    aaexport.optimize(file[1], tmp_path / "once.onnx")
    again = aaexport.optimize(tmp_path / "once.onnx", tmp_path / "twice.onnx")
    assert attentions(again) == RuleReport(SkewedRelativeAttention.title, 0, {})
    assert again.before == again.after


def test_the_command_tells_of_it(cli, file):
    outcome = cli("optimize", file[1], "out.onnx")
    assert outcome.code == 0
    (line,) = (line for line in outcome.out.splitlines() if SkewedRelativeAttention.title in line)
    assert "1" in line


def test_what_is_written_runs_anywhere_and_scales_no_queries(file, tmp_path):
    result = aaexport.optimize(file[1], tmp_path / "out.onnx")
    assert unportable(onnx.load(tmp_path / "out.onnx")) == ()
    assert "Mul" not in result.after
