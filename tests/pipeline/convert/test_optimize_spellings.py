"""The same attention in the words of many: all of them are found, and none that computes something else."""

import contextlib
import io
import warnings

import numpy as np
import onnx
import pytest
import torch
from spellings import CHANNELS, SIDE, WRONG, SideBySide, Spelling

from aaexport.capture.program import fast_tracing
from aaexport.graph.check import check_model
from aaexport.graph.optimize import optimize_model
from aaexport.graph.rules import FILE_RULES, SOFTMAXES, SkewedRelativeAttention
from aaexport.runners.ort import OrtRunner

TORCHSCRIPT, DYNAMO = False, True
STATIC, DYNAMIC = False, True
A_FILE = 10  # layers: most of an export's time goes to the file as a whole


def layers(seeds, kinds=None):
    """One layer a seed, right, or wrong in one of the `kinds` each."""
    found = []
    for seed, wrong in zip(seeds, kinds or [None] * len(seeds), strict=True):
        torch.manual_seed(seed)
        found.append(Spelling(seed, wrong))
    return SideBySide(found).eval()


def exported(network, path, *, dynamo, opset, dynamic):
    more = {"input_names": ["x"], "dynamic_axes": {"x": {0: "batch"}} if dynamic else None}
    if dynamo:
        shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
        more = {"external_data": False, "verbose": False, "dynamic_shapes": shapes}
    with warnings.catch_warnings(), torch.no_grad(), fast_tracing(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        images = torch.zeros(2, CHANNELS, SIDE, SIDE)
        torch.onnx.export(network, (images,), path, opset_version=opset, dynamo=dynamo, **more)
    return path


def rewritten(path, *, dynamic):
    """The file in its new form, and what the rule says of it; where the batch is known it needs few other rules."""
    rules = FILE_RULES if dynamic else [*SOFTMAXES, SkewedRelativeAttention]
    model, reports = optimize_model(onnx.load(path), rules=rules)
    check_model(model)
    onnx.save(model, path)
    return next(report for report in reports if report.title == SkewedRelativeAttention.title)


def assert_same_answers(network, path, batches):
    """As PyTorch in float64, as near as float32 gets."""
    generator = torch.Generator().manual_seed(1)
    with OrtRunner(path) as runner, torch.no_grad():
        for batch in batches:
            x = torch.randn(batch, CHANNELS, SIDE, SIDE, generator=generator)
            expected = network.double()(x.double()).numpy()
            (found,) = runner.infer({runner.inputs[0].name: x.numpy()}).values()
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)


def assert_all_found(seeds, path, *, dynamo, opset, dynamic):
    def report_on(network):
        exported(network, path, dynamo=dynamo, opset=opset, dynamic=dynamic)
        return rewritten(path, dynamic=dynamic)

    network = layers(seeds)
    report = report_on(network)
    if (report.applied, report.refused) != (len(seeds), {}):
        alone = {seed: report_on(layers([seed])) for seed in seeds}
        missed = {seed: report.refused for seed, report in alone.items() if not report.applied}
        pytest.fail(f"not found, by seed, with what was said of them: {missed}")
    assert_same_answers(network, path, [1, 3, 5] if dynamic else [2])


# Between them these draw every word and every branch of spellings.py that all of the first forty do.
@pytest.mark.parametrize(
    ("seeds", "opset", "dynamic"),
    [(range(8), 12, STATIC), (range(12, 20), 13, STATIC), (range(24, 28), 20, STATIC), (range(36, 39), 17, DYNAMIC)],
)
def test_every_spelling_is_found(tmp_path, seeds, opset, dynamic):
    assert_all_found(seeds, tmp_path / "in.onnx", dynamo=TORCHSCRIPT, opset=opset, dynamic=dynamic)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seeds", "opset", "dynamic"),
    [(range(8, 12), 12, STATIC), (range(20, 24), 13, STATIC), (range(28, 36), 20, STATIC), ([39], 17, DYNAMIC)],
)
def test_every_spelling_of_the_first_forty_is_found(tmp_path, seeds, opset, dynamic):
    assert_all_found(seeds, tmp_path / "in.onnx", dynamo=TORCHSCRIPT, opset=opset, dynamic=dynamic)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(100, 300, A_FILE))
def test_every_spelling_is_found_in_many_more(tmp_path, first):
    opset, dynamic = (11 + first // A_FILE % 8 + 1, first // A_FILE % 2 == 1)
    seeds = range(first, first + A_FILE)
    assert_all_found(seeds, tmp_path / "in.onnx", dynamo=TORCHSCRIPT, opset=opset, dynamic=dynamic)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(300, 340, A_FILE))
def test_every_spelling_is_found_in_what_the_other_exporter_writes(tmp_path, first):
    opset, dynamic = 18 + first // A_FILE % 4, first // A_FILE % 2 == 1
    seeds = range(first, first + A_FILE)
    assert_all_found(seeds, tmp_path / "in.onnx", dynamo=DYNAMO, opset=opset, dynamic=dynamic)


def assert_none_found(network, path, *, dynamo, opset, dynamic):
    report = rewritten(exported(network, path, dynamo=dynamo, opset=opset, dynamic=dynamic), dynamic=dynamic)
    assert report.applied == 0
    assert_same_answers(network, path, [1, 3] if dynamic else [2])


def test_none_that_is_wrong_is_found(tmp_path):
    network = layers([0] * len(WRONG), WRONG)
    assert_none_found(network, tmp_path / "in.onnx", dynamo=TORCHSCRIPT, opset=13, dynamic=STATIC)


@pytest.mark.slow
@pytest.mark.parametrize("wrong", WRONG)
def test_none_of_many_more_that_are_wrong_is_found(tmp_path, wrong):
    network = layers(range(100, 100 + A_FILE), [wrong] * A_FILE)
    assert_none_found(network, tmp_path / "in.onnx", dynamo=TORCHSCRIPT, opset=17, dynamic=DYNAMIC)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200, 204))
def test_none_that_is_wrong_is_found_in_what_the_other_exporter_writes(tmp_path, seed):
    network = layers([seed] * len(WRONG), WRONG)
    assert_none_found(network, tmp_path / "in.onnx", dynamo=DYNAMO, opset=18, dynamic=STATIC)
