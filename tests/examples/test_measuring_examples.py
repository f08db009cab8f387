"""The examples that measure: what can be tested of them without a GPU and without believing a number."""

import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from repository import ROOT

from aaexport.folder import find_model
from aaexport.nn.build import build_network
from aaexport.runners.ort import best_device

RESULTS = ROOT / "docs/results"
SCRIPT = ROOT / "examples/04_measure_on_gpu/measure_gpu.py"


def run(*arguments):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def gpu():
    """The script as a module, and those beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPT.parent))
        import measure_gpu

        yield measure_gpu


@pytest.fixture
def doubling(tmp_path):
    """A file that answers 2·x, for one image."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 2, 2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "test", [x], [y])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), tmp_path / "m.onnx"
    )
    return tmp_path / "m.onnx"


def test_the_references_small_network_is_built_from_its_recipe():
    """Its counts by hand: 16-2 augments the stem, twelve convolutions and three shortcuts."""
    from aaexport.nn.augmented import augmented_layers

    network = build_network(find_model(ROOT / "examples/03_measure_attention/aa_wrn16_2_reference").recipe)
    layers = augmented_layers(network)
    assert len(layers) == 1 + 12 + 3
    assert {(layer.out_channels, layer.dk, layer.dv) for layer in layers.values()} == {
        (20, 40, 4),
        (40, 80, 8),
        (80, 160, 16),
        (120, 240, 24),
    }


@pytest.mark.slow
def test_without_a_gpu_it_ends_with_5_and_one_line():
    if best_device() == "cuda":
        pytest.skip("CUDA works here")
    before = sorted(RESULTS.iterdir())
    outcome = run()
    assert (outcome.returncode, outcome.stdout) == (5, "")
    (line,) = outcome.stderr.splitlines()
    assert line.startswith("Error: CUDAExecutionProvider ")
    assert sorted(RESULTS.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--device", "tpu"), 2, "Error: device must be cpu, cuda or cuda:N, got 'tpu'"),
        (("--device", "cpu", "--opset", "99"), 2, "Error: opset must be between 18 and 25, got 99"),
        (("--device", "cpu", "--rounds", "0"), 2, "rounds must be at least 1, got '0'"),
        (("--device", "cpu", "--json", "/nowhere/x.json"), 1, "Error: /nowhere must be a folder, got none"),
    ],
)
def test_a_wrong_argument_is_one_line_before_anything_is_measured(gpu, monkeypatch, capsys, arguments, code, words):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    try:
        ended = gpu.main()
    except SystemExit as end:  # argparse's own way
        ended = end.code
    printed = capsys.readouterr()
    assert (ended, printed.out) == (code, "")
    assert words in printed.err.splitlines()[-1]


def test_results_are_named_after_the_hardware(gpu):
    assert gpu.result_path("NVIDIA X100 80GB (PCIe)", 23).name == "attention_nvidia_x100_80gb_pcie_opset23.json"


def test_a_halved_file_takes_and_gives_halves(gpu, doubling):
    graph = onnx.load(gpu.halved(doubling, doubling.with_name("half.onnx"))).graph
    types = {value.type.tensor_type.elem_type for value in [*graph.input, *graph.output]}
    assert types == {TensorProto.FLOAT16}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_latency_leaves_the_answer_that_sides_are_compared_by(gpu, doubling, precision):
    path = doubling if precision == "fp32" else gpu.halved(doubling, doubling.with_name("half.onnx"))
    assert gpu.CHILDREN["latency"](str(path), "cpu", "off", "0.01") > 0
    images = np.random.default_rng(0).standard_normal((1, 1, 2, 2), dtype=np.float32)
    np.testing.assert_allclose(np.load(path.with_suffix(".npy")), 2 * images, rtol=1e-2)


def test_sides_that_answer_differently_are_found(gpu, tmp_path):
    for name, answer in (("a", [1.0, 4.0]), ("b", [1.0, 5.0])):
        np.save(tmp_path / f"{name}.npy", np.asarray(answer))
    assert gpu.difference(tmp_path / "a.onnx", tmp_path / "b.onnx") == 0.2


def test_nodes_are_counted_by_the_provider_that_ran_them(gpu, doubling):
    found = gpu.CHILDREN["nodes"](str(doubling), "cpu")
    assert found == {"CPUExecutionProvider": {"Add": 1}, "kernels": {}}
    assert not list(doubling.parent.glob("*.json"))


def test_torch_tells_what_its_attention_is_made_of(gpu):
    assert "aten::softmax" in gpu.CHILDREN["sdpa"]("4", "2", "fp32", "cpu")["kernels"]


@pytest.fixture
def session(gpu, tmp_path, monkeypatch):
    """A measurement whose children are this script's."""
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--device", "cpu", "--quick", "--rounds", "1"])
    return gpu.Measurement(tmp_path, gpu.parsed())


@pytest.mark.slow
def test_a_row_that_cannot_be_measured_has_a_reason_instead(session):
    order = ("latency", "missing.onnx", "cpu", "off", "0.01")
    row = session.row("nothing", order, order)
    assert row["what"] == "nothing"
    assert "missing.onnx" in row["failed"]


def test_what_was_not_measured_is_printed(gpu, capsys):
    gpu.print_table([{"what": "this", "failed": "because of that"}])
    assert "not measured: this: because of that" in capsys.readouterr().out


@pytest.mark.slow
def test_all_of_it_runs_on_the_cpu_in_tiny_sizes(tmp_path):
    target = tmp_path / "rows.json"
    outcome = run("--device", "cpu", "--quick", "--rounds", 1, "--seconds", "0.02", "--json", target)
    assert outcome.returncode == 0, outcome.stderr
    value = json.loads(target.read_text())
    assert [row["failed"] for row in value["rows"] if "failed" in row] == []
    assert len(value["kernels"]) == 6
    assert "not measured" not in outcome.stdout
