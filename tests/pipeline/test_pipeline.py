"""The verbs on real folders: convert, verify, serve-bench, inspect, list, and what they leave on disk."""

import copy
import json
import re
import zipfile

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file
from torch import nn

import aaexport
from aaexport.errors import ArgumentError, DataError, FolderError, GraphError, ParityError, RunnerError
from aaexport.folder import find_model, sha256, zoo_models
from aaexport.graph.check import UNWANTED_OPERATORS, foreign_operators
from aaexport.nn import AugmentedConv2d
from aaexport.recipe import DECOMPOSITION_NAMES, OPSETS
from aaexport.weights.safetensors import load_weights, save_weights


class TwoHeads(nn.Module):
    """A module that aaexport has never seen: an augmented layer in it, two outputs, another size of image."""

    def __init__(self):
        super().__init__()
        self.layer = AugmentedConv2d(3, 16, dk=8, dv=8, num_heads=2, height=6, width=10, stride=2, bias=True)
        self.near, self.far = nn.Conv2d(16, 4, 1), nn.Conv2d(16, 2, 1)

    def forward(self, x):
        features = torch.relu(self.layer(x))
        return self.near(features), self.far(features)


@pytest.fixture(scope="module")
def two_heads():
    torch.manual_seed(0)
    return TwoHeads()


def test_the_trained_zoo_model_gives_its_golden_vectors():
    golden = load_file(find_model("aa_cnn3_digits").golden_path)
    with torch.no_grad():
        logits = aaexport.build_model("aa_cnn3_digits")(golden["input"])
    torch.testing.assert_close(logits, golden["logits"], rtol=0, atol=1e-5)


def test_the_trained_zoo_model_classifies_98_percent_of_the_test_part():
    from aaexport.data import load_images
    from aaexport.training import accuracy

    recipe = find_model("aa_cnn3_digits").recipe
    model = aaexport.build_model("aa_cnn3_digits")
    assert accuracy(model, load_images(recipe, "test"), recipe, torch.device("cpu")) >= 0.98


def test_build_model_says_when_there_are_no_weights():
    import logging

    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger("aaexport").addHandler(handler)
    try:
        aaexport.build_model("resnet20_cifar10")
    finally:
        logging.getLogger("aaexport").removeHandler(handler)
    assert lines == ["resnet20_cifar10 has no weights yet: built with fresh random ones"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("opset", "decomposition", "chosen"),
    [
        pytest.param(OPSETS[0], "skew", "skew", marks=pytest.mark.slow),
        pytest.param(OPSETS[-1], "table", "table", marks=pytest.mark.slow),
        pytest.param(OPSETS[-1], "fold", "fold", marks=pytest.mark.slow),  # `auto` takes both
        pytest.param(OPSETS[-1], "fused", "fused", marks=pytest.mark.slow),
        (OPSETS[0], "auto", "fold"),
        (OPSETS[-1], "auto", "fused"),
    ],
)
def test_convert_keeps_parity_for_every_decomposition(converted, tmp_path, opset, decomposition, chosen):
    result = aaexport.convert(converted, tmp_path / "x.onnx", opset=opset, decomposition=decomposition)
    assert result.parity.passed
    model = onnx.load(result.path)
    assert (result.opset, result.decomposition) == (opset, chosen)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    assert not foreign_operators(model)
    assert not model.functions
    assert "Einsum" not in result.operators


class Mixing(nn.Module):
    """A user's module that aaexport's own rules for its networks do not bind."""

    def forward(self, x):
        return torch.einsum("bchw,dc->bdhw", x, torch.ones(2, 3, dtype=x.dtype))


def test_a_module_with_operators_that_runtimes_lack_is_converted_and_noted(tmp_path):
    result = aaexport.convert(Mixing(), tmp_path / "x.onnx", input_shape=(3, 4, 5))
    assert result.parity.passed
    held = [note.partition("it holds ")[2] for note in result.notes if "it holds " in note]
    assert held == ["Einsum; write it as a matrix product"]


def test_a_network_of_ours_with_operators_that_runtimes_lack_is_not_written(converted, tmp_path, monkeypatch):
    monkeypatch.setitem(UNWANTED_OPERATORS, "Softmax", "do without")
    with pytest.raises(GraphError, match="an export must hold no Softmax; do without"):
        aaexport.convert(converted, tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


def test_an_export_names_input_output_and_batch(converted):
    graph = onnx.load(converted.onnx_path).graph
    (taken,), (given,) = graph.input, graph.output
    assert (taken.name, given.name) == ("input", "logits")
    sizes = [d.dim_param or d.dim_value for d in taken.type.tensor_type.shape.dim]
    assert sizes == ["batch", 1, 8, 8]
    assert given.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_only_the_batch_itself_is_called_batch(converted):
    """Heads · batch is another size: onnxruntime reuses buffers of dimensions that share a name."""
    names = {
        dimension.dim_param
        for value in onnx.load(converted.onnx_path).graph.value_info
        for dimension in value.type.tensor_type.shape.dim
        if dimension.dim_param
    }
    assert names == {"batch", "2*batch"}


def test_an_export_says_where_it_came_from(converted):
    entries = {entry.key: entry.value for entry in onnx.load(converted.onnx_path).metadata_props}
    assert entries["aaexport.recipe_digest"] == converted.recipe.digest()
    assert entries["aaexport.decomposition"] == "fold"
    assert entries["aaexport.opset"] == "20"
    assert len(entries["aaexport.weights_digest"]) == 64
    assert json.loads(entries["aaexport.labels"]) == list(converted.recipe.input.labels)
    assert "torch" in json.loads(entries["aaexport.tools"])


def test_an_export_carries_no_path_of_the_machine_that_made_it(converted):
    content = converted.onnx_path.read_bytes()
    assert b".py" not in content
    assert str(converted.path.parent).encode() not in content


@pytest.mark.slow
def test_a_fixed_batch_is_fixed(converted, tmp_path):
    result = aaexport.convert(converted, tmp_path / "x.onnx", batch=3)
    assert onnx.load(result.path).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 3
    assert result.parity.passed
    assert any("fixes the batch at 3" in note for note in result.parity.notes)


def test_convert_takes_a_module_it_has_never_seen(two_heads, tmp_path):
    before = copy.deepcopy(two_heads.state_dict())
    result = aaexport.convert(two_heads, tmp_path / "x.onnx", input_shape=(3, 6, 10))
    assert result.parity.passed
    assert two_heads.training, "the module is left in the mode it was in"
    assert all(torch.equal(before[name], tensor) for name, tensor in two_heads.state_dict().items())
    session = onnxruntime.InferenceSession(result.path, providers=["CPUExecutionProvider"])
    near, far = session.run(["output_0", "output_1"], {"input": np.zeros((5, 3, 6, 10), np.float32)})
    assert (near.shape, far.shape) == ((5, 4, 3, 5), (5, 2, 3, 5))


def test_a_module_on_images_of_the_wrong_size_is_refused(two_heads, tmp_path):
    with pytest.raises(ArgumentError, match=r"input must have the shape \(batch, 3, 6, 10\), got"):
        aaexport.convert(two_heads, tmp_path / "x.onnx", input_shape=(3, 10, 6))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"input_shape": None}, "input_shape must be given for a module"),
        ({"input_shape": (3, 6)}, r"input_shape must be \(C, H, W\)"),
        ({"path": None}, "path must be given"),
        ({"opset": 17}, "opset must be between 18 and 25, got 17"),
        ({"batch": 0}, "batch must be dynamic or between 1 and 65536, got 0"),
    ],
)
def test_wrong_arguments_of_convert(two_heads, tmp_path, changes, words):
    arguments = {"path": tmp_path / "x.onnx", "input_shape": (3, 6, 10)} | changes
    with pytest.raises(ArgumentError, match=words):
        aaexport.convert(two_heads, **arguments)
    assert not list(tmp_path.iterdir())


def test_a_half_precision_module_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(ArgumentError, match=r"float32 parameters, got 'torch.float16'; call module.float\(\)"):
        aaexport.convert(nn.Conv2d(1, 1, 1).half(), tmp_path / "x.onnx", input_shape=(1, 4, 4))


def test_a_module_that_returns_no_tensors_is_refused(tmp_path):
    class Talker(nn.Module):
        def forward(self, x):
            return "hello"

    with pytest.raises(RunnerError, match="must return tensors, got str"):
        aaexport.convert(Talker(), tmp_path / "x.onnx", input_shape=(1, 4, 4))


def test_convert_into_a_missing_folder_is_refused_at_once(converted, tmp_path):
    with pytest.raises(FolderError, match="must be a folder, got none"):
        aaexport.convert(converted, tmp_path / "missing" / "x.onnx")


def test_convert_leaves_records(converted):
    parity = json.loads(converted.parity_path.read_text())
    manifest = json.loads(converted.manifest_path.read_text())
    assert parity["schema"] == "aaexport.parity/2"
    assert parity["passed"] is True
    assert manifest["files"]["model.onnx"]["sha256"] == sha256(converted.onnx_path)
    written = {"model.toml", "weights.safetensors", "model.onnx", "parity.json", "truth.safetensors"}
    assert set(manifest["files"]) == written


MADE_UP = [
    "zeros",
    "constant",
    "one pixel",
    "random × 1000",
    "random × 1e-6",
    "NaN in a pixel",
    "infinity in a pixel",
]


def test_verify_judges_images_and_made_up_inputs_of_every_kind(converted):
    report = aaexport.verify(converted)
    assert report.passed
    sizes = [f"{kind}, batch {size}" for kind in ("images", "random") for size in (7, 3, 2, 1)]
    assert [o.case for o in report.computations[-1].outputs] == [*sizes, *MADE_UP, "images, batch 64"]
    assert report.accuracy.images == 359


def test_verify_has_a_row_for_every_stage(converted):
    stages = {row.name: row.stage for row in aaexport.verify(converted).computations}
    assert stages == {
        "PyTorch, fold": "decomposition",
        "onnx reference": "file",
        "onnxruntime CPU, unoptimized": "file",
        "onnxruntime CPU": "optimizer",
    }


def test_verify_runs_on_the_runtimes_that_were_asked_for(converted):
    pytest.importorskip("openvino")
    report = aaexport.verify(converted, runtimes=("openvino", "unoptimized"), batch=9)
    assert report.passed
    assert [row.name for row in report.computations[1:]] == ["onnxruntime CPU, unoptimized", "OpenVINO CPU"]
    assert {"images, batch 9", "random, batch 9"} <= {output.case for output in report.outputs}
    # OpenVINO's maximum loses NaN: that is told, and fails the strict, but the file is right.
    assert {line.split(":")[0] for line in report.warnings} == {"OpenVINO CPU"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"runtimes": ("opnvino",)}, "runtimes must be known ones, got 'opnvino'; did you mean 'openvino'?"),
        ({"runtimes": ()}, "runtimes must name at least one"),
        ({"runtimes": ("tf32",)}, "device must be cuda for tf32, got 'cpu'"),
        ({"batch": 0}, "batch must be between 1 and 4096, got 0"),
        ({"dtype": "float8"}, "dtype must be one of"),
    ],
)
def test_wrong_arguments_of_verify(converted, changes, words):
    with pytest.raises(ArgumentError, match=re.escape(words)):
        aaexport.verify(converted, **changes)


def save_npz(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("name", ["own.npz", "own.safetensors"])
def test_verify_takes_inputs_of_the_users(converted, tmp_path, rng, name):
    images = rng.standard_normal((3, 1, 8, 8), dtype=np.float32)
    path = tmp_path / name
    save_file({"input": images}, path) if path.suffix == ".safetensors" else save_npz(path, anything=images)
    report = aaexport.verify(converted, inputs=path)
    assert report.passed
    assert f"{name}, batch 7" in {output.case for output in report.outputs}
    assert not any(output.case.startswith("images") for output in report.outputs)


def test_verify_takes_a_folder_of_images_as_the_recipe_preprocesses_them(converted, tmp_path):
    from PIL import Image

    Image.new("L", (9, 12), 200).save(tmp_path / "gray.png")
    report = aaexport.verify(converted, inputs=tmp_path)
    assert any(output.case == f"{tmp_path.name}, batch 2" for output in report.outputs)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.zeros((2, 1, 8, 9), np.float32)}, "must have the shape"),
        ({"x": np.zeros((2, 1, 8, 8))}, "must be float32, got float64"),
        ({"x": np.zeros((0, 1, 8, 8), np.float32)}, "must have the shape"),
        ({"x": np.full((2, 1, 8, 8), np.nan, np.float32)}, "must be finite"),
        ({"x": np.zeros(1), "y": np.zeros(1)}, "must be one array, or one named input"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(converted, tmp_path, arrays, words):
    with pytest.raises(DataError, match=words):
        aaexport.verify(converted, inputs=save_npz(tmp_path / "x.npz", **arrays))


UNREADABLE = ["missing.npz", "text.txt", "empty", "broken.npz", "broken.safetensors"]
UNREADABLE += ["one.npz", "damaged.npz", "odd.npz"]


@pytest.mark.parametrize("name", UNREADABLE)
def test_inputs_that_cannot_be_read_are_refused(converted, tmp_path, name):
    for broken in ("broken.npz", "broken.safetensors", "text.txt"):
        (tmp_path / broken).write_text("no arrays")
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    np.savez_compressed(tmp_path / "damaged.npz", x=np.arange(1000.0))
    damaged = bytearray((tmp_path / "damaged.npz").read_bytes())
    damaged[100:200] = bytes(100)
    (tmp_path / "damaged.npz").write_bytes(damaged)
    with zipfile.ZipFile(tmp_path / "odd.npz", "w") as archive:
        archive.writestr("readme", "no array")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="inputs must"):
        aaexport.verify(converted, inputs=tmp_path / name)


def test_pixels_that_were_not_normalised_are_warned_of(converted, tmp_path, rng):
    pixels = rng.integers(0, 256, (3, 1, 8, 8)).astype(np.float32)
    report = aaexport.verify(converted, inputs=save_npz(tmp_path / "x.npz", x=pixels))
    assert report.passed
    assert any("pixels that were not normalised?" in warning for warning in report.warnings)


def test_a_bound_may_be_set_for_one_output(converted):
    report = aaexport.verify(converted, atol={"logits": 0.0}, rtol=0.0)
    assert "must be at most 0," in report.failures[0]
    assert {"set by hand: atol 0 of logits", "set by hand: rtol 0 of every output"} <= set(report.notes)


def test_verify_is_decided_by_its_seed(converted):
    first, again, other = (aaexport.verify(converted, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize("factor", [1 + 1e-3, float("nan")])
def test_verify_fails_on_a_changed_weight(converted, factor):
    model = onnx.load(converted.onnx_path)
    weight = next(w for w in model.graph.initializer if w.name == "classifier.weight")
    values = onnx.numpy_helper.to_array(weight).copy()
    values *= factor
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(model, converted.onnx_path)
    report = aaexport.verify(converted)
    assert not report.passed
    assert json.loads(converted.parity_path.read_text())["passed"] is False


def test_verify_fails_on_weights_that_changed_since(converted):
    module = aaexport.build_model(converted)
    with torch.no_grad():
        module.classifier.bias += 1e-7
    save_weights(module, converted.weights_path)
    assert any("the file is stale: convert again" in failure for failure in aaexport.verify(converted).failures)


def test_verify_fails_on_another_model_file(converted, two_heads, tmp_path):
    aaexport.convert(two_heads, tmp_path / "other.onnx", input_shape=(3, 6, 10))
    with pytest.raises(GraphError, match="input input must have the shape"):
        aaexport.verify(converted, tmp_path / "other.onnx")


def test_a_looser_tolerance_is_said_in_the_report(converted):
    tolerance = aaexport.verify(converted, atol=1.0).computations[-1].tolerance
    assert tolerance.atol == 1.0
    assert "set by hand" in tolerance.reason


def test_parity_failure_carries_its_report(converted, tmp_path):
    with pytest.raises(ParityError) as caught:
        aaexport.convert(converted, tmp_path / "x.onnx", atol=0.0, rtol=0.0)
    assert caught.value.exit_code == 3
    assert not caught.value.report.passed
    assert not (tmp_path / "x.onnx").exists()


def test_inspect_tells_cost_and_graph(converted):
    result = aaexport.inspect(converted)
    module = aaexport.build_model(converted)
    assert result.cost.parameters == sum(p.numel() for p in module.parameters())
    assert result.cost.macs > result.cost.attention_macs > 0
    assert result.graph.operators["Softmax"] == 1
    assert result.has_weights


def test_macs_of_a_plain_network_are_those_of_the_textbook():
    """k²·Cin·Cout·H·W a convolution and in·out for the classifier; the strides are 1, 2, 1 on 8×8 images."""
    result = aaexport.inspect("conv_cnn3_digits")
    expected = 9 * (1 * 64 * 64 + 64 * 128 * 16 + 128 * 192 * 16) + 192 * 10
    assert result.cost.macs == expected
    assert result.cost.attention_macs == 0


def test_inspect_works_on_any_onnx_file(cli, converted, tmp_path):
    outcome = cli("inspect", converted.onnx_path, "--json")
    value = json.loads(outcome.out)
    assert value["schema"] == "aaexport.inspect/1"
    assert value["cost"] is None
    assert value["graph"]["inputs"] == [{"name": "input", "dtype": "float", "shape": ["batch", 1, 8, 8]}]


def test_list_names_what_is_there(cli, monkeypatch):
    few = {name: zoo_models()[name] for name in ("aa_cnn3_digits", "resnet20_cifar10")}  # counting takes its time
    monkeypatch.setattr("aaexport.pipeline.look.inspect.zoo_models", lambda: few)
    value = json.loads(cli("list", "--json").out)
    assert set(value["models"]) == set(few)
    assert value["models"]["aa_cnn3_digits"]["has_weights"] is True
    assert list(value["decompositions"]) == list(DECOMPOSITION_NAMES)
    assert {"digits", "cifar100"} <= set(value["datasets"])
    assert value["providers"]["CPUExecutionProvider"] == "works"


def test_serve_bench_measures_and_records(cli, converted):
    outcome = cli("serve-bench", converted.path, "--scenario", "single-stream", "--duration", "0.6", "--warmup",
                  "0.05", "--batch", "1,4", "--device", "cpu", "--json")  # fmt: skip
    value = json.loads(outcome.out)
    assert outcome.code == 0
    assert value["valid"] is True
    assert 0 < value["percentiles"]["p50"]["value"] <= value["percentiles"]["p90"]["value"]
    assert value["provider"] == "CPUExecutionProvider"
    (comparison,) = value["comparisons"]  # its ratio is withheld on a busy machine, which may be this one
    assert comparison["p50"] > 0
    assert (comparison["ratio"] is None) == (comparison["withheld"] is not None)
    assert [entry["batch"] for entry in value["throughput"]] == [1, 4]
    assert value["unanswered"] == value["check"]["wrong"] == 0 < value["check"]["checked"]
    recorded = json.loads(converted.bench_path.read_text())
    assert sum(block["queries"] for block in recorded["blocks"]) == value["queries"]


def test_serve_bench_is_invalid_where_the_file_answers_differently(cli, converted):
    module = aaexport.build_model(converted)
    load_weights(module, converted.weights_path)
    with torch.no_grad():
        module.classifier.bias += 1.0
    save_weights(module, converted.weights_path)
    outcome = cli("serve-bench", converted.path, "--duration", "0.3", "--warmup", "0.05", "--batch", "1")
    assert outcome.code == 4
    assert "INVALID: answers must equal those of PyTorch eager cpu float32" in outcome.out


def test_results_go_to_stdout_and_progress_to_stderr(cli, converted):
    outcome = cli("verify", converted.path, "--json")
    assert json.loads(outcome.out)["passed"] is True
    assert outcome.err == "verifying against PyTorch\n"


def test_quiet_says_nothing_but_the_result(cli, converted):
    outcome = cli("--quiet", "convert", converted.path, "--no-verify")
    assert outcome.err == ""
    assert "not verified (--no-verify)" in outcome.out


def test_converting_without_verification_removes_the_old_verdict(cli, converted):
    assert converted.parity_path.is_file()
    cli("convert", converted.path, "--no-verify")
    assert not converted.parity_path.exists()


def test_a_zoo_name_is_copied_here_and_worked_on(cli, tmp_path):
    outcome = cli("convert", "conv_cnn3_digits", "--random-weights", "--no-verify")
    assert outcome.code == 0
    assert "copied conv_cnn3_digits to conv_cnn3_digits" in outcome.err
    assert (tmp_path / "conv_cnn3_digits" / "model.onnx").is_file()
    assert not find_model("conv_cnn3_digits").path.samefile(zoo_models()["conv_cnn3_digits"].path)


def test_verify_converts_first_where_there_is_no_file(cli, converted):
    converted.onnx_path.unlink()
    outcome = cli("verify", converted.path)
    assert outcome.code == 0
    assert "has no model.onnx yet: converting it first" in outcome.err


def test_a_file_with_a_batch_of_nothing_cannot_be_judged(converted):
    model = onnx.load(converted.onnx_path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 0
    onnx.save(model, converted.onnx_path)
    with pytest.raises(GraphError, match="have a batch of at least 1"):
        aaexport.verify(converted)


def test_a_module_that_changes_its_input_in_place_keeps_parity(tmp_path):
    module = nn.Sequential(nn.LeakyReLU(0.1, inplace=True), nn.Conv2d(1, 2, 3))
    assert aaexport.convert(module, tmp_path / "x.onnx", input_shape=(1, 5, 5)).parity.passed


def test_the_ratio_is_to_the_error_that_pytorch_really_has(converted):
    for output in aaexport.verify(converted).outputs:
        assert output.error_ratio == output.max_abs_error / output.baseline_max_abs_error


def test_verify_keeps_the_manifest_true(converted):
    aaexport.verify(converted, seed=5)
    manifest = json.loads(converted.manifest_path.read_text())
    assert manifest["files"]["parity.json"]["sha256"] == sha256(converted.parity_path)


def test_a_new_file_outdates_the_old_measurement(converted):
    converted.bench_path.write_text("{}")
    aaexport.convert(converted, verify=False)
    assert not converted.bench_path.exists()


@pytest.mark.slow
def test_macs_of_a_file_are_those_of_the_network(converted):
    aaexport.convert(converted, decomposition="table", verify=False)
    result = aaexport.inspect(converted)
    assert result.graph.macs == result.cost.macs


def test_inspect_survives_brackets_in_metadata(cli, converted):
    model = onnx.load(converted.onnx_path)
    model.metadata_props.add(key="note", value="see [/docs] by [alice]")
    onnx.save(model, converted.onnx_path)
    outcome = cli("inspect", converted.onnx_path)
    assert outcome.code == 0
    assert "see [/docs] by [alice]" in outcome.out


@pytest.mark.slow
def test_a_file_of_the_users_does_not_stand_in_for_the_standard_librarys(cli, converted, tmp_path):
    (tmp_path / "random.py").write_text("raise SystemExit('the user's random.py was run')")
    outcome = cli(
        "serve-bench", converted.path, "--duration", "0.2", "--warmup", "0", "--batch", "1", "--compare", "none"
    )
    assert outcome.code == 0


@pytest.mark.slow
def test_serve_bench_says_what_it_fed_and_what_it_left_out(converted, tmp_path):
    result = aaexport.convert(converted, tmp_path / "x.onnx", batch=2, verify=False)
    report = aaexport.serve_bench(result.path, duration=0.2, warmup=0.0, batches=(1, 2), compare=[])
    assert report.inputs == "random inputs"
    assert any("fixes the batch at 2: no other size was measured" in note for note in report.notes)


def test_a_dict_of_outputs_keeps_its_names(tmp_path):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)

        def forward(self, x):
            features = self.conv(x)
            return {"features": features, "score": features.mean((1, 2, 3))}

    result = aaexport.convert(Named(), tmp_path / "x.onnx", input_shape=(1, 5, 5))
    assert {output.output for output in result.parity.outputs} == {"features", "score"}


def test_a_module_for_one_batch_size_is_refused_with_the_remedy(tmp_path):
    class Fixed(nn.Module):
        def forward(self, x):
            return x.reshape(2, -1)

    with pytest.raises(aaexport.errors.ExportError, match="--batch N"):
        aaexport.convert(Fixed(), tmp_path / "x.onnx", input_shape=(1, 4, 4))
