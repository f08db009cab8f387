"""The passes against those of others on the same choice of nodes: as accurate, or more."""

from pathlib import Path

import numpy as np
import pytest
from graphs import convolution
from precision_graphs import decibels, float16, images, int8, model, nodes_of, optimized, run
from precision_oracles import by_converter, by_quantizer
from sweeps import trained_models

from aaexport.data.loading import evaluation_batch
from aaexport.data.sources import load_images
from aaexport.folder import checkout
from aaexport.graph.files import read_onnx
from aaexport.parity.thresholds import THRESHOLDS
from aaexport.pipeline.convert.convert import convert

WITHIN = 1.0  # dB
WANTED = {"float16": 55, "int8": 33}  # dB


def small():
    """Three convolutions, and a residual around the last."""
    nodes = [
        convolution("x", "a", ("w1", "b1")),
        ("Relu", ["a"], ["r1"], {}),
        convolution("r1", "c", ("w2", "b2")),
        ("Relu", ["c"], ["r2"], {}),
        convolution("r2", "d", ("w3",), size=1),
        ("Add", ["d", "r2"], ["y"], {}),
    ]
    weights = {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (16, 16, 3, 3), "b2": (16,), "w3": (16, 16, 1, 1)}
    constants = {name: images(*shape, seed=seed, scale=0.2) for seed, (name, shape) in enumerate(weights.items())}
    return model(nodes, {"x": ["batch", 3, 12, 12]}, constants), {"x": images(16, 3, 12, 12, seed=9)}


def test_float16_is_as_accurate_as_the_converters():
    given, feeds = small()
    expected = run(given, feeds)
    ours, theirs = float16(given, feeds).model, by_converter(given)
    assert decibels(expected, run(ours, feeds)) == pytest.approx(decibels(expected, run(theirs, feeds)), abs=WITHIN)


def test_int8_is_as_accurate_as_onnxruntimes():
    given, feeds = small()
    expected = run(given, feeds)
    ours, theirs = int8(given, feeds).model, by_quantizer(given, feeds)
    assert len(nodes_of(ours, "QuantizeLinear")) <= len(nodes_of(theirs, "QuantizeLinear"))
    assert decibels(expected, run(ours, feeds)) == pytest.approx(decibels(expected, run(theirs, feeds)), abs=WITHIN)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [20, 23])
@pytest.mark.parametrize("name", trained_models())
def test_trained_networks_keep_their_answers_and_lose_as_much_as_by_others(name, opset, tmp_path):
    """What is wanted of the zoo's own is more than the guard asks of any network."""
    folder = checkout(name, None if Path(name).is_dir() else tmp_path / name)
    source, is_ours = tmp_path / "given.onnx", not Path(name).is_dir()
    convert(folder, source, opset=opset, verify=False)
    given = read_onnx(source)
    train, test = (
        evaluation_batch(load_images(folder.recipe, part, base=folder.path), folder.recipe).numpy()
        for part in ("train", "test")
    )
    chosen, held_out = {"input": train[np.random.default_rng(0).permutation(len(train))[:64]]}, {"input": test}
    expected = run(given, held_out)
    for kind, ours, theirs in (
        ("float16", float16(given, chosen).model, by_converter(read_onnx(source))),
        ("int8", int8(given, chosen).model, by_quantizer(given, chosen)),
    ):
        wanted = WANTED[kind] if is_ours else THRESHOLDS["SQNR", kind].bound
        found = run(ours, held_out)
        reached = decibels(expected, found)
        assert reached > wanted
        assert reached > decibels(expected, run(theirs, held_out)) - WITHIN
        changed = expected["logits"].argmax(axis=1) != found["logits"].argmax(axis=1)
        assert changed.sum() <= (1 if is_ours else len(changed) / 200)
        assert decibels(run(ours, held_out, optimized=False), found) > wanted
    assert optimized(ours, tmp_path)["QLinearConv"] == len(nodes_of(ours, "Conv"))
