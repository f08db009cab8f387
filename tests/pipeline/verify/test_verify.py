"""verify: which stage broke parity, what is warned of, what is tried, and what the command prints and writes."""

import hashlib
import json
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import aaexport
from aaexport.errors import ArgumentError, FolderError, GraphError, ModuleError, ParityError, RunnerError
from aaexport.graph.evaluate import EVALUATOR
from aaexport.nn import AugmentedConv2d, relative
from aaexport.parity import Case, tolerances
from aaexport.pipeline.export import export
from aaexport.pipeline.subject.subject import as_subject
from aaexport.pipeline.verify import computations, matrix, rows
from aaexport.runners import reference
from aaexport.runners.base import Port
from aaexport.runners.ort_settings import DEFAULTS


def wrong(model):
    """The model with one bias a hundredth off."""
    spoiled = onnx.ModelProto()
    spoiled.CopyFrom(model)
    bias = next(tensor for tensor in spoiled.graph.initializer if tensor.name == "classifier.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(1e-2), bias.name))
    return spoiled


def stage_of_failure(converted, path):
    with pytest.raises(ParityError) as caught:
        aaexport.convert(converted, path)
    assert not path.exists()
    return caught.value.report


def test_a_wrong_decomposition_is_told_from_a_wrong_export(converted, tmp_path, monkeypatch):
    monkeypatch.setitem(relative.DECOMPOSITIONS, "fold", lambda q, *rest: relative.fold(q * 1.01, *rest))
    assert stage_of_failure(converted, tmp_path / "x.onnx").broken_stage == "decomposition"


def test_a_wrong_export_is_told_from_wrong_graph_rules(converted, tmp_path, monkeypatch):
    to_onnx = export.to_onnx

    def export_wrongly(*args, **options):
        written = to_onnx(*args, **options)
        return replace(written, model=wrong(written.model))

    monkeypatch.setattr(export, "to_onnx", export_wrongly)
    report = stage_of_failure(converted, tmp_path / "x.onnx")
    assert report.broken_stage == "exporter", report.notes
    assert (report.divergence.operator, report.divergence.module) == ("Gemm", "classifier")
    assert report.divergence.compared_with == "the module, traced by torch.export"


def test_wrong_graph_rules_are_told_and_located(converted, tmp_path, monkeypatch):
    optimize_model = export.optimize_model

    def optimize_wrongly(model, **options):
        optimized, rules = optimize_model(model, **options)
        return wrong(optimized), rules

    monkeypatch.setattr(export, "optimize_model", optimize_wrongly)
    report = stage_of_failure(converted, tmp_path / "x.onnx")
    assert report.broken_stage == "graph rules"
    assert (report.divergence.operator, report.divergence.module) == ("Gemm", "classifier")


def test_a_file_that_was_changed_is_told_from_a_wrong_export(converted):
    onnx.save(wrong(onnx.load(converted.onnx_path)), converted.onnx_path)
    report = aaexport.verify(converted)
    assert report.broken_stage == "file"
    assert [row.stage for row in report.computations if row.passed] == ["decomposition", "exporter", "graph rules"]
    assert report.divergence.output == "logits"
    assert report.divergence.hints
    assert report.complaint.endswith("; the first wrong node is node_linear_1 (Gemm) of classifier")


def test_a_batch_that_is_baked_in_is_hinted_at(converted):
    model = onnx.load(converted.onnx_path)
    last = [node for node in model.graph.node if node.op_type == "Reshape"][-1]
    shape = next(tensor for tensor in model.graph.initializer if tensor.name == last.input[1])
    sizes = numpy_helper.to_array(shape).copy()
    sizes[0] = 2
    model.graph.initializer.append(numpy_helper.from_array(sizes, "two"))
    last.input[1] = "two"
    onnx.save(model, converted.onnx_path)
    hints = aaexport.verify(converted).divergence.hints
    assert "right for a batch of 2 and wrong for 1, 3, 7: the batch size is baked in" in hints


def test_nothing_is_looked_for_where_that_is_not_wanted(converted):
    onnx.save(wrong(onnx.load(converted.onnx_path)), converted.onnx_path)
    report = aaexport.verify(converted, locate=False)
    assert not report.passed
    assert report.divergence is None


def test_a_diagnosis_that_fails_changes_no_verdict(converted, monkeypatch):
    from aaexport.errors import ExportError
    from aaexport.pipeline.verify import diagnose

    def fails(*_):
        raise ExportError("cannot be exported")

    monkeypatch.setattr(diagnose, "export_again", fails)
    onnx.save(wrong(onnx.load(converted.onnx_path)), converted.onnx_path)
    report = aaexport.verify(converted)
    assert not report.passed
    assert report.notes[-1] == "the place of the failure was not found: cannot be exported"


class Crooked(rows.OrtRunner):
    """onnxruntime with logits a hundredth off, by its optimizer or however it runs."""

    always = False

    def __init__(self, model, settings=DEFAULTS, **options):
        super().__init__(model, settings, **options)
        self.is_wrong = settings.optimize or self.always

    def infer(self, feeds):
        answers = super().infer(feeds)
        return answers | ({"logits": answers["logits"] * np.float32(1.01)} if self.is_wrong else {})


@pytest.mark.parametrize(("always", "stage"), [(False, "optimizer"), (True, "kernels")])
def test_a_wrong_runtime_is_told_from_a_wrong_file(converted, monkeypatch, always, stage):
    monkeypatch.setattr(rows, "OrtRunner", Crooked)
    monkeypatch.setattr(Crooked, "always", always)
    report = aaexport.verify(converted)
    assert report.broken_stage == stage
    trusted = "onnx's reference evaluator" if always else "onnxruntime CPU, unoptimized"
    assert (report.divergence.output, report.divergence.compared_with) == ("logits", trusted)


def test_pytorch_in_float32_that_is_hardly_the_function_is_warned_of(tmp_path):
    class Cancelling(nn.Module):
        def forward(self, x):
            return (x + 1e6) - 1e6

    aaexport.convert(Cancelling(), tmp_path / "x.onnx", input_shape=(1, 2, 2), verify=False)
    report = aaexport.verify(Cancelling(), tmp_path / "x.onnx", input_shape=(1, 2, 2), atol=1.0)
    assert any("PyTorch itself is off by" in warning for warning in report.warnings)


def open_convolution(path, kernel):
    """A convolution that leaves batch, height and width open."""
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", channels, None, None])
        for name, channels in (("x", 1), ("output", 2))
    ]
    node = helper.make_node("Conv", ["x", "w"], ["output"], kernel_shape=[3, 3])
    graph = helper.make_graph([node], "g", ports[:1], ports[1:], [numpy_helper.from_array(kernel, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def test_sizes_that_a_file_leaves_open_are_tried(tmp_path):
    torch.manual_seed(0)
    module = nn.Conv2d(1, 2, 3, bias=False)
    open_convolution(tmp_path / "x.onnx", module.weight.detach().numpy())
    report = aaexport.verify(module, tmp_path / "x.onnx", input_shape=(1, 5, 7))
    assert report.passed
    assert {"10×7, batch 1", "5×14, batch 1"} <= {output.case for output in report.outputs}


def test_sizes_that_pytorch_does_not_take_are_noted(tmp_path):
    torch.manual_seed(0)
    convolution = nn.Conv2d(1, 2, 3, bias=False)
    module = nn.Sequential(convolution, nn.Flatten(), nn.Unflatten(1, (2, 3, 5)))
    open_convolution(tmp_path / "x.onnx", convolution.weight.detach().numpy())
    report = aaexport.verify(module, tmp_path / "x.onnx", input_shape=(1, 5, 7))
    assert report.passed
    assert sum("PyTorch takes no" in note for note in report.notes) == 2


def test_a_verification_tells_where_the_nodes_ran(converted):
    placement = aaexport.verify(converted).placement
    assert (placement.provider, placement.on_cpu) == ("CPU", ())
    assert placement.nodes["CPU"] > 10


def test_strict_fails_on_a_warning(cli, converted, tmp_path, rng):
    np.savez(tmp_path / "pixels.npz", x=rng.integers(0, 256, (2, 1, 8, 8)).astype(np.float32))
    arguments = ("verify", converted.path, "--inputs", tmp_path / "pixels.npz", "--runtimes", "onnxruntime")
    assert cli(*arguments).code == 0
    assert cli(*arguments, "--strict").code == 3


def test_the_command_prints_markdown_and_writes_junit(cli, converted, tmp_path):
    outcome = cli("verify", converted.path, "--markdown", "--junit", tmp_path / "parity.xml")
    assert outcome.code == 0
    assert outcome.out.startswith("#")
    suite = ET.parse(tmp_path / "parity.xml").getroot().find("testsuite")
    assert suite.attrib["failures"] == "0"
    assert int(suite.attrib["tests"]) > 50


def test_the_command_takes_a_bound_for_one_output_and_says_so(cli, converted):
    outcome = cli("verify", converted.path, "--atol", "logits=0", "--rtol", "0", "--json", "--no-locate")
    report = json.loads(outcome.out)
    assert outcome.code == 3
    assert "set by hand: atol 0 of logits" in report["notes"]


def test_a_looser_bound_by_hand_holds(cli, converted):
    onnx.save(wrong(onnx.load(converted.onnx_path)), converted.onnx_path)
    strip_metadata(converted.onnx_path)
    assert cli("verify", converted.path, "--no-locate").code == 3
    outcome = cli("verify", converted.path, "--atol", "logits=0.1", "--no-locate", "--json")
    assert outcome.code == 0, outcome.err
    assert "set by hand: atol 0.1 of logits" in json.loads(outcome.out)["notes"]


def strip_metadata(path, *keys):
    """Takes entries of aaexport out of the file's metadata; all, if none is named."""
    model = onnx.load(path)
    kept = [e for e in model.metadata_props if keys and e.key.removeprefix("aaexport.") not in keys]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, path)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (("weights_digest",), "the file's metadata must be whole, got parts of them"),
        (("weights_digest", "decomposition", "opset", "graph_digest"), "metadata must be whole, got parts of them"),
        (("recipe_digest", "labels"), "metadata aaexport.labels must be the recipe's"),
    ],
    ids=" ".join,
)
def test_metadata_that_were_taken_out_in_part_are_a_failure(converted, keys, words):
    strip_metadata(converted.onnx_path, *keys)
    assert any(words in line for line in aaexport.verify(converted, locate=False).failures)


def test_a_file_that_does_not_tell_its_recipe_is_warned_of(converted):
    strip_metadata(converted.onnx_path, "recipe_digest")
    report = aaexport.verify(converted)
    assert report.passed
    assert any("must tell the recipe that it was made from" in line for line in report.warnings)


def test_a_file_that_tells_nothing_is_said_to(converted):
    strip_metadata(converted.onnx_path)
    report = aaexport.verify(converted)
    assert report.passed
    assert any(note.startswith("the file tells nothing of its origin") for note in report.notes)


def test_a_report_that_cannot_be_kept_is_given_all_the_same(cli, converted):
    converted.parity_path.unlink()
    converted.parity_path.mkdir()
    outcome = cli("verify", converted.path, "--json")
    report = json.loads(outcome.out)
    assert (outcome.code, report["passed"]) == (0, True)
    assert any("the report is not kept: " in note for note in report["notes"])


def test_the_report_names_the_file_by_its_digest(converted):
    report = aaexport.verify(converted)
    assert report.onnx_sha256 == hashlib.sha256(converted.onnx_path.read_bytes()).hexdigest()


def test_junit_of_what_cannot_be_judged_is_not_the_former_green_one(cli, converted, tmp_path):
    junit = tmp_path / "parity.xml"
    junit.write_text("<testsuites/>")
    converted.onnx_path.write_text("text")
    assert cli("verify", converted.path, "--junit", junit).code == 1
    suite = ET.parse(junit).getroot().find("testsuite")
    assert (suite.attrib["tests"], suite.attrib["errors"]) == ("1", "1")
    assert "its bytes are not an ONNX model" in suite.find("testcase/error").attrib["message"]


@pytest.mark.parametrize(
    "arguments",
    [("--onnx", "gone.onnx"), ("--inputs", "gone.npz"), ("--module", "gone.py:Net"), ("--device", "tpu")],
    ids=lambda arguments: arguments[0],
)
def test_junit_of_a_refused_call_is_not_the_former_green_one(cli, converted, tmp_path, arguments):
    junit = tmp_path / "parity.xml"
    junit.write_text('<testsuites tests="1" failures="0"/>')
    assert cli("verify", converted.path, "--junit", junit, *arguments).code in (1, 2)
    suite = ET.parse(junit).getroot().find("testsuite")
    assert (suite.attrib["tests"], suite.attrib["errors"]) == ("1", "1")


def test_junit_of_an_unknown_model_is_not_the_former_green_one(cli, tmp_path):
    junit = tmp_path / "parity.xml"
    junit.write_text('<testsuites tests="1" failures="0"/>')
    assert cli("verify", "nosuch", "--junit", junit).code == 1
    assert ET.parse(junit).getroot().find("testsuite").attrib["errors"] == "1"


def test_junit_replaces_no_file_of_another_kind(cli, converted):
    before = converted.onnx_path.read_bytes()
    outcome = cli("verify", converted.path, "--junit", converted.onnx_path)
    assert (outcome.code, converted.onnx_path.read_bytes()) == (2, before)
    assert "junit must name a new file or an XML file to replace" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--json", "--markdown"), "contradict each other"),
        (("--atol", "logits=much"), "atol must be a number or NAME=NUMBER, got 'logits=much'"),
        (("--runtimes", "onnx"), "runtimes must be known ones, got 'onnx'"),
        (("--batch", "100000"), "batch must be between 1 and 4096, got 100000"),
    ],
)
def test_wrong_options_are_usage_errors(cli, converted, arguments, words):
    outcome = cli("verify", converted.path, *arguments)
    assert outcome.code == 2
    assert words in outcome.err


@pytest.mark.parametrize("what", ["no ONNX", "other inputs", "no weights", "no inputs"])
def test_what_cannot_be_judged_is_one_line_and_exit_code_1(cli, converted, tmp_path, what):
    arguments = ["verify", converted.path]
    if what == "no ONNX":
        converted.onnx_path.write_text("text")
    elif what == "other inputs":
        open_convolution(converted.onnx_path, np.zeros((2, 1, 3, 3), np.float32))
        model = onnx.load(converted.onnx_path)
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 3
        onnx.save(model, converted.onnx_path)
    elif what == "no weights":
        converted.weights_path.unlink()
    else:
        arguments += ["--inputs", tmp_path / "missing.npz"]
    outcome = cli(*arguments)
    assert outcome.code == 1
    assert outcome.err.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in outcome.err


def edited(converted, edit):
    """The folder's file, changed by `edit`; its digests are left as they are."""
    model = onnx.load(converted.onnx_path)
    edit(model)
    onnx.save(model, converted.onnx_path)
    return aaexport.verify(converted, locate=False)


def cut_behind(model, name, kept):
    """Only the first 8 of a batch are left of `name`, with `kept` of zeros appended if that is so."""
    zero, eight, last = (numpy_helper.from_array(np.asarray([n], np.int64), f"cut_{n}") for n in (0, 8, 2**40))
    model.graph.initializer.extend([zero, eight, last, numpy_helper.from_array(np.float32([0]), "nothing")])
    head = helper.make_node("Slice", [name, "cut_0", "cut_8", "cut_0"], ["head"])
    tail = helper.make_node("Slice", [name, "cut_8", f"cut_{2**40}", "cut_0"], ["tail"])
    black = helper.make_node("Mul", ["tail", "nothing"], ["black"])
    joined = helper.make_node("Concat", ["head", "black"], ["joined"], axis=0)
    return [head, tail, black, joined] if kept else [head]


def blacken_images_behind_the_eighth(model):
    nodes = cut_behind(model, "input", kept=True)
    for node in model.graph.node:
        node.input[:] = ["joined" if name == "input" else name for name in node.input]
    for node in reversed(nodes):
        model.graph.node.insert(0, node)


def test_scores_of_large_batches_are_judged_too(converted):
    report = edited(converted, blacken_images_behind_the_eighth)
    assert {output.case for output in report.outputs if not output.passed} == {"images, batch 64"}


def give_eight_scores_at_most(model):
    last = model.graph.node[-1]
    last.output[0] = "all"
    (node,) = cut_behind(model, "all", kept=False)
    node.output[0] = "logits"
    model.graph.node.append(node)


def test_scores_that_are_missing_in_large_batches_are_a_failure(converted):
    report = edited(converted, give_eight_scores_at_most)
    assert any("shape must be (64, 10), got (8, 10)" in failure for failure in report.failures)


@pytest.mark.parametrize("key", ["input.mean", "input.std", "labels"])
def test_metadata_that_would_make_people_feed_the_file_wrongly_fails(converted, key):
    def edit(model):
        (entry,) = [entry for entry in model.metadata_props if entry.key == f"aaexport.{key}"]
        entry.value = "[0.9]"

    assert any(f"metadata aaexport.{key} must be the recipe's" in line for line in edited(converted, edit).failures)


def test_sizes_that_are_open_and_cannot_be_fail(converted):
    def edit(model):
        for dimension in model.graph.input[0].type.tensor_type.shape.dim[2:]:
            dimension.dim_param = "open"

    assert any("height and width must be fixed, got open ones" in line for line in edited(converted, edit).failures)


def test_outputs_in_another_order_fail(tmp_path):
    class Two(nn.Module):
        def forward(self, x):
            return {"boxes": x + 1, "scores": x * 2}

    path = tmp_path / "x.onnx"
    aaexport.convert(Two(), path, input_shape=(1, 2, 2), verify=False)
    model = onnx.load(path)
    model.graph.output.reverse()
    onnx.save(model, path)
    failures = aaexport.verify(Two(), path, input_shape=(1, 2, 2), locate=False).failures
    assert failures == ("outputs must be ['boxes', 'scores'], in this order, got ['scores', 'boxes']",)


def test_a_file_that_nothing_has_run_does_not_pass(converted, monkeypatch):
    for module in (matrix, rows):
        monkeypatch.setattr(module, "REFERENCE_MACS", 1)
    with pytest.raises(ArgumentError, match="runtimes must be for files of up to 1 MACs"):
        aaexport.verify(converted, runtimes=("reference",))
    report = aaexport.verify(converted)
    assert report.passed
    assert any("onnx's reference evaluator is too slow" in note for note in report.notes)


def test_an_evaluator_that_fails_alone_is_warned_of(converted, monkeypatch):
    def refuses(*_):
        raise RunnerError(f"{EVALUATOR} cannot run the model: could not broadcast")

    monkeypatch.setattr(rows.ReferenceRunner, "infer", refuses)
    report = aaexport.verify(converted)
    assert report.passed
    assert any(
        "logits of zeros: onnx's reference evaluator cannot run the model" in warning for warning in report.warnings
    )


def test_an_evaluator_that_cannot_load_the_file_is_warned_of(converted, monkeypatch):
    def refuses(*_):
        raise GraphError(f"{EVALUATOR} cannot load the model: no such operator")

    monkeypatch.setattr(reference, "Evaluator", refuses)
    report = aaexport.verify(converted)
    assert report.passed
    assert any(
        "logits of every input: onnx's reference evaluator cannot load the model" in one for one in report.warnings
    )


@pytest.mark.parametrize("zeroed", [False, True])
def test_what_is_smaller_than_a_kernel_is_accurate_is_judged_without_the_kernel(tmp_path, zeroed):
    torch.manual_seed(0)
    module = nn.Sequential(nn.InstanceNorm2d(3), nn.Conv2d(3, 2, 3), nn.Sigmoid()).eval()
    nn.init.constant_(module[1].bias, -18.0)
    nn.init.normal_(module[1].weight, std=0.05)
    path = tmp_path / "x.onnx"
    aaexport.convert(module, path, input_shape=(3, 6, 5), verify=False)
    if zeroed:
        model = onnx.load(path)
        node = next(node for node in model.graph.node if node.op_type == "Sigmoid")
        name, node.output[0] = node.output[0], "score"
        model.graph.node.append(helper.make_node("Sub", ["score", "score"], [name]))
        onnx.save(model, path)
    report = aaexport.verify(module, path, input_shape=(3, 6, 5), runtimes=("onnxruntime",), locate=False)
    assert report.passed is not zeroed
    if zeroed:
        assert any("no more than a hundredth of the largest number" in failure for failure in report.failures)
    else:
        assert len([one for one in report.warnings if "1 / (1 + exp(-x)) in its place" in one]) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"atol": {"logit": 1.0}}, "did you mean 'logits'"),
        ({"dtype": "float16"}, "dtype must be float32, in which the file computes, got 'float16'"),
    ],
)
def test_what_would_not_do_what_it_seems_to_is_refused(converted, changes, words):
    with pytest.raises(ArgumentError, match=words):
        aaexport.verify(converted, converted.onnx_path, **changes)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_folder_without_a_file_of_that_dtype_is_told_how_to_get_one(converted, dtype):
    with pytest.raises(FolderError, match=f"write it with `aaexport convert .* --dtype {dtype}`"):
        aaexport.verify(converted, dtype=dtype)


def test_a_folder_has_no_file_in_bfloat16_of_its_own(converted):
    with pytest.raises(ArgumentError, match="dtype must be float32, float16, int8 for a file of the folder's own"):
        aaexport.verify(converted, dtype="bfloat16")


@pytest.mark.parametrize("key", ["opset", "batch", "layers"])
def test_metadata_out_of_all_bounds_are_no_accident(converted, key):
    def edit(model):
        (entry,) = [entry for entry in model.metadata_props if entry.key == f"aaexport.{key}"]
        entry.value = "[" * 100_000 if key == "layers" else "9" * 5000

    assert edited(converted, edit).passed == (key != "opset")


class Forgetful(nn.Module):
    """Drops numbers in evaluation too."""

    def forward(self, x):
        return nn.functional.dropout(x, 0.5)  # without `training=self.training`


class Pooled(nn.Module):
    def forward(self, x):
        return nn.functional.max_pool2d(x, 2)


class Broken(nn.Module):
    def forward(self, x):
        return torch.sqrt(-1 - x * x)


def test_a_model_that_answers_otherwise_each_time_cannot_be_judged(tmp_path):
    aaexport.convert(nn.Identity(), tmp_path / "x.onnx", input_shape=(1, 4, 4), verify=False)
    with pytest.raises(ModuleError, match="must answer the same images with the same output"):
        aaexport.verify(Forgetful(), tmp_path / "x.onnx", input_shape=(1, 4, 4))


def test_a_model_without_one_finite_answer_does_not_pass(tmp_path):
    aaexport.convert(Broken(), tmp_path / "x.onnx", input_shape=(1, 4, 4), verify=False)
    report = aaexport.verify(Broken(), tmp_path / "x.onnx", input_shape=(1, 4, 4))
    assert (report.passed, report.complaint) == (False, "nothing was compared")


def without_nan(model, *more):
    """Lets the file take 0 for every NaN of the input; `more` are further nodes."""
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.float32(0), "zero"))
    asked = helper.make_node("IsNaN", ["input"], ["is_nan"])
    taken = helper.make_node("Where", ["is_nan", "zero", "input"], ["masked"])
    for node in graph.node:
        node.input[:] = ["masked" if name == "input" else name for name in node.input]
    nodes = [asked, taken, *more, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


@pytest.mark.parametrize("excuse", ["none", "Clip of what is masked", "Clip of the input"])
def test_a_file_brings_no_excuse_of_its_own_for_nan_that_is_lost(tmp_path, excuse):
    """ONNX leaves open what a maximum makes of NaN, but there is none in the model."""
    aaexport.convert(nn.ReLU(), tmp_path / "x.onnx", input_shape=(1, 4, 4), verify=False)
    model = onnx.load(tmp_path / "x.onnx")
    low, high = (numpy_helper.from_array(np.float32(limit), name) for limit, name in ((-1e30, "low"), (1e30, "high")))
    model.graph.initializer.extend([low, high])
    what = "masked" if "masked" in excuse else "input"
    without_nan(model, *([] if excuse == "none" else [helper.make_node("Clip", [what, "low", "high"], ["clipped"])]))
    if excuse != "none":
        model.graph.node[-1].input[0] = "clipped"
    onnx.save(model, tmp_path / "x.onnx")
    report = aaexport.verify(nn.ReLU(), tmp_path / "x.onnx", input_shape=(1, 4, 4), locate=False)
    assert any("NaN and infinity must spread" in line for line in report.failures)


def test_nan_that_never_arrives_at_the_models_maximum_is_no_fault_of_a_kernel(tmp_path):
    path = tmp_path / "x.onnx"
    aaexport.convert(Pooled(), path, input_shape=(1, 4, 4), verify=False)
    assert aaexport.verify(Pooled(), path, input_shape=(1, 4, 4)).passed
    model = onnx.load(path)
    without_nan(model)
    onnx.save(model, path)
    report = aaexport.verify(Pooled(), path, input_shape=(1, 4, 4), locate=False)
    assert any("NaN and infinity must spread" in line for line in report.failures)


def test_an_output_of_text_is_a_failure_and_no_accident(converted):
    def edit(model):
        last = model.graph.node[-1]
        last.output[0] = "numbers"
        model.graph.node.append(helper.make_node("Cast", ["numbers"], ["logits"], to=TensorProto.STRING))
        model.graph.output[0].type.tensor_type.elem_type = TensorProto.STRING

    edited(converted, edit)
    report = aaexport.verify(converted)
    assert any("dtype must be float32" in line for line in report.failures)


def test_names_that_are_no_text_are_refused_in_one_line(converted):
    data = converted.onnx_path.read_bytes()
    name = onnx.load(converted.onnx_path).graph.node[0].name.encode()
    converted.onnx_path.write_bytes(data.replace(name, b"\xff" * len(name)))
    with pytest.raises(GraphError, match="it holds names that are not UTF-8"):
        aaexport.verify(converted)


def test_a_file_that_computes_in_float16_by_casts_alone_may_be_meant_to(tmp_path):
    class Half(nn.Module):
        def forward(self, x):
            return ((x + 1).half() * 2).float()

    path = tmp_path / "x.onnx"
    aaexport.convert(Half(), path, input_shape=(1, 2, 2), verify=False)
    assert aaexport.verify(Half(), path, input_shape=(1, 2, 2), dtype="float16").passed


class Canned:
    """A runner that gives one answer for some images, and another for all others."""

    inputs = (Port("input", np.dtype(np.float32), (None, 1, 2, 2)),)

    def __init__(self, images, answer, otherwise):
        self.images, self.answer, self.otherwise = images, answer, otherwise

    def infer(self, feeds):
        return {"output": self.answer if np.array_equal(feeds["input"], self.images) else self.otherwise}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.mark.parametrize(("kind", "passes"), [("extreme", True), ("ordinary", False)])
def test_a_function_that_tips_over_at_a_touch_is_held_to_more_than_one_run(rng, kind, passes):
    images = rng.standard_normal((1, 1, 2, 2), np.float32)
    judge = computations.Judge(as_subject(nn.Identity(), (1, 2, 2)))
    tipped = -images
    judge.baseline = Canned(images, images, tipped)  # PyTorch is lucky once
    row = rows.Row("other", "file", tolerances("float32", "cpu"), lambda: Canned(None, None, tipped))
    judge.judge([row], [Case("random", images, kind, made_up=True)])
    assert row.result().passed == passes


def test_a_size_that_tips_over_at_a_touch_is_told_and_no_excuse(rng):
    """As that of the different ones of rounded numbers."""
    images = rng.standard_normal((1, 1, 2, 2), np.float32)
    judge = computations.Judge(as_subject(nn.Identity(), (1, 2, 2)))
    smaller = images[..., :1]
    judge.baseline = Canned(images, images, smaller)
    row = rows.Row("other", "file", tolerances("float32", "cpu"), lambda: Canned(None, None, smaller))
    judge.judge([row], [Case("random", images, "extreme", made_up=True)])
    (failure,) = row.result().failures
    assert "shape must be (1, 1, 2, 2), got (1, 1, 2, 1)" in failure


@pytest.mark.parametrize(
    "written", [nn.Identity, lambda: AugmentedConv2d(1, 4, 3, dk=2, dv=2, num_heads=1, height=2, width=2)]
)
def test_what_a_module_of_no_folder_answers_becomes_golden_vectors(rng, written):
    """Whether or not a layer of it is written anew: nobody is to be asked again."""
    judge = computations.Judge(as_subject(written(), (1, 2, 2)))
    judge.truth(Case("random", rng.standard_normal((1, 1, 2, 2), np.float32), "ordinary", made_up=True))
    assert [truth.case.name for truth in judge.truths] == ["random"]
