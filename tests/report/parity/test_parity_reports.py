"""A ParityReport for people, for machines, for CI and for a pull request: each format tells the verdict and why."""

import dataclasses
import io
import json
import re
from typing import get_args, get_origin, get_type_hints
from xml.etree import ElementTree

import pytest
from parity_reports import (
    CASES,
    DIVERGENCE,
    EMPTY,
    FAILED,
    GUARD,
    LOSSY,
    MANY,
    PASSED,
    REPORTS,
    STRICT,
    UNRUNNABLE,
    judged,
    row,
)
from repository import ROOT
from rich.console import Console
from schema_pages import described, leaves

from aaexport.parity import (
    TOLERANCES,
    Accuracy,
    Computation,
    Divergence,
    ErrorStep,
    OutputParity,
    ParityReport,
    Placement,
    TensorFacts,
    made_up_cases,
)
from aaexport.parity.by_tensor import tensor_rows
from aaexport.parity.guard import TensorLoss
from aaexport.report.machine import parity_json
from aaexport.report.parity.junit import parity_junit
from aaexport.report.parity.layers import layer_rows
from aaexport.report.parity.markdown import parity_markdown
from aaexport.report.parity.matrix import Cell, batches, matrix
from aaexport.report.parity.terminal import parity_view

SCHEMA = ROOT / "docs" / "parity_schema.md"
OPEN = ("placement.nodes",)  # objects whose names are free
HOSTILE = "a|b `c` <d> *e* \x1b[31m\x00&\ud800"
every_report = pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)


def printed(report, width=110):
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False, emoji=False)
    console.print(parity_view(report))
    return console.file.getvalue()


def cells(report):
    """name of the row → heading → text."""
    found = matrix(report)
    return {name: dict(zip(found.headings, (c.text for c in line), strict=True)) for name, line in found.rows}


# The matrix


def test_batches_of_one_kind_share_a_column_and_the_worst_ratio_is_shown():
    report = ParityReport("x", (row(outputs=(judged("images, batch 7", 0.8), judged("images, batch 1", 2.5))),))
    assert cells(report) == {"onnxruntime CPU": {"images": "2.5×"}}
    assert batches(report) == [1, 7]


def test_a_cell_says_what_failed_what_has_no_ratio_and_what_was_not_run():
    assert cells(FAILED) == {
        "onnx reference": {"images": "0.8×", "zeros": "0.8×", "NaN": "pass"},
        "onnxruntime CPU": {"images": "FAIL", "zeros": "0.8×", "NaN": "–"},
    }


def test_a_cell_with_a_warning_says_so_unless_something_failed():
    warned = judged("zeros", warning="NaN is lost")
    report = ParityReport("x", (row(outputs=(warned, judged("zeros"))),))
    assert cells(report) == {"onnxruntime CPU": {"zeros": "warn"}}
    wrong = ParityReport("x", (row(outputs=(warned, judged("zeros", failure="wrong"))),))
    assert cells(wrong) == {"onnxruntime CPU": {"zeros": "FAIL"}}


def test_what_could_not_be_run_fails_everywhere():
    assert set(cells(UNRUNNABLE)["onnxruntime CPU"].values()) == {"FAIL"}


def test_a_cell_pools_all_outputs():
    assert cells(MANY) == {"onnxruntime CPU": {"zeros": "2.0×"}}


def test_every_made_up_case_has_a_short_heading_of_its_own():
    names = [case.name for case in made_up_cases((1, 2, 2), (3, 1), 2, 0)]
    headings = matrix(ParityReport("x", (row(outputs=tuple(map(judged, names))),))).headings
    assert len(headings) == len(names) - 1
    assert max(map(len, headings)) <= 6


def test_columns_that_are_too_many_are_one():
    names = [f"photo {number}" for number in range(12)]
    outputs = tuple(judged(name, failure="wrong" if name == "photo 11" else None) for name in names)
    shown = cells(ParityReport("x", (row(outputs=outputs),)))["onnxruntime CPU"]
    assert list(shown) == [*names[:9], "others"]
    assert shown["others"] == "FAIL"


@pytest.mark.parametrize(("ratio", "text"), [(0.0, "0.0×"), (9.96, "10×"), (9000.0, "9000×"), (2e5, "2e+05×")])
def test_a_ratio_stays_short(ratio, text):
    assert Cell("pass", ratio).text == text


# The terminal


def test_the_last_line_is_the_verdict_with_the_tolerance_of_the_worst_row():
    cuda = Computation("CUDA", "device", TOLERANCES["float32", "cuda"], (judged("zeros", 12.0),))
    report = dataclasses.replace(PASSED, computations=(*PASSED.computations, cuda))
    last = "PASS: largest error {} against float64, at most {} × PyTorch's own (allowed {} ×)"
    assert printed(PASSED).splitlines()[-1] == last.format("4.2e-06", "4.2", "10")
    assert printed(report).splitlines()[-1] == last.format("1.2e-05", "12.0", "30")


@pytest.mark.parametrize(
    ("report", "line"),
    [
        (FAILED, "FAIL: 1 failure"),
        (STRICT, "FAIL: 1 failure, 1 of them warnings (--strict)"),
        (EMPTY, "FAIL: nothing was compared"),
    ],
)
def test_a_verdict_of_failure_says_how_much_is_wrong(report, line):
    assert printed(report).splitlines()[-1] == line


def test_what_was_tried_is_told():
    text = printed(PASSED)
    assert "batches tried: 1, 7; seed 0" in text
    assert "worst of ordinary inputs: cosine 1.000000000" in text
    assert "accuracy on 359 held-out images: 99.00% in PyTorch, 98.00% in onnxruntime CPU" in text
    assert "fell back to the CPU: node_1" in text


def test_the_worst_figures_are_of_ordinary_inputs_without_tf32():
    extreme = row(outputs=(judged("random × 1000", cosine=0.5, extreme=True),))
    tf32 = row("onnxruntime CUDA, TF32", "TF32", (judged("zeros", cosine=0.7),))
    ordinary = row(outputs=(judged("zeros", cosine=0.9), judged("constant", cosine=0.99)))
    text = printed(ParityReport("x", (ordinary, extreme, tf32)))
    assert "worst of ordinary inputs: cosine 0.900000000\n" in text.replace(" \n", "\n")


NODES = {"CUDAExecutionProvider": ("a (Conv)", "b (Relu)"), "CPUExecutionProvider": ("c (Cast)",)}


def test_what_a_session_for_cuda_left_to_the_cpu_has_fallen_back():
    placement = Placement.of(NODES, "CUDAExecutionProvider")
    assert placement == Placement("CUDA", {"CUDA": 2, "CPU": 1}, ("c (Cast)",))
    assert placement.fallen_back == "1 node runs on the CPU instead of CUDA: c (Cast)"


def test_a_session_for_cuda_that_left_everything_to_the_cpu_has_fallen_back():
    placement = Placement.of({"CPUExecutionProvider": ("a", "b")}, "CUDAExecutionProvider")
    assert (placement.provider, placement.on_cpu) == ("CUDA", ("a", "b"))


def test_what_tensorrt_leaves_to_cuda_has_not_fallen_back():
    nodes = {"TensorrtExecutionProvider": ("a",), "CUDAExecutionProvider": ("b",)}
    assert Placement.of(nodes, "TensorrtExecutionProvider").fallen_back is None


def test_a_session_for_the_cpu_runs_there_as_it_was_asked_to():
    placement = Placement.of({"CPUExecutionProvider": ("a",)}, "CPUExecutionProvider")
    assert (placement.provider, placement.on_cpu, placement.fallen_back) == ("CPU", (), None)


@pytest.mark.parametrize("nodes", [None, {}])
def test_a_placement_that_is_not_known_is_none(nodes):
    assert Placement.of(nodes, "CUDAExecutionProvider") is None


def test_a_file_that_runs_on_the_cpu_as_asked_has_no_line_on_its_placement():
    own = Placement("CPUExecutionProvider", {"CPUExecutionProvider": 90})
    assert "ExecutionProvider" not in printed(dataclasses.replace(PASSED, placement=own))


def test_a_warning_is_yellow_news_or_with_strict_a_failure():
    assert "warning: an input is not used" in printed(PASSED)
    assert "warning:" not in printed(STRICT)
    assert "FAIL: an input is not used" in printed(STRICT)


def test_a_failure_tells_its_stage_and_the_node():
    text = printed(FAILED)
    assert "FAIL: onnxruntime CPU: logits of images, batch 7: too far off" in text
    assert "broken stage: optimizer: onnxruntime's graph optimizer changed the function" in text
    for words in ("node_Mul_3 (Mul)", "features.0.qkv", "mul_3", "2.5e-01", "node_Conv_1", "hint: each number is 2"):
        assert words in text
    assert re.search(r"largest +1 +2\.5\b", text)


def test_a_computation_tells_its_first_failure_and_counts_the_others():
    outputs = tuple(judged("zeros", failure="wrong", output=f"attention.conv.head{n}") for n in range(14))
    text = printed(ParityReport("x", (row(outputs=outputs), row("another", outputs=outputs[:1]))))
    assert text.count("wrong") == 2
    assert "FAIL: onnxruntime CPU: attention.conv.head0 of zeros: wrong; and 13 more (see --json)" in text
    assert "FAIL: another: attention.conv.head0 of zeros: wrong\n" in text


def test_failures_of_the_file_beyond_ten_are_counted():
    text = printed(ParityReport("x", (row(),), structure=("wrong",) * 14))
    assert text.count("wrong") == 10
    assert "FAIL: … and 4 more (see --json)" in text


@pytest.mark.parametrize("width", [80, 110])
def test_the_widest_matrix_is_whole(width):
    names = ["images, batch 7", *(case.name for case in made_up_cases((1, 2, 2), (3, 1), 2, 0))]
    outputs = tuple(judged(name, error_ratio=12345.0) for name in names)
    report = ParityReport("x", (row("onnxruntime CPU, unoptimized", outputs=outputs),))
    lines = printed(report, width).splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    assert sum(line.count("1e+04×") for line in lines) == len(matrix(report).headings) == 9


# What a file in fewer bits has left of each layer


def noisy(*decibels):
    """A report with a layer for each number."""
    losses = [TensorLoss(f"stages.{n}", f"conv_{n}", f"t{n}", "activation", db, 0.0) for n, db in enumerate(decibels)]
    return dataclasses.replace(LOSSY, guard=dataclasses.replace(LOSSY.guard, tensors=tuple(losses)))


def test_kept_layers_and_a_bar_for_each_layer_are_in_every_form():
    report = noisy(40.0, 20.0)
    for told in (printed(report), parity_markdown(report).replace("\\", ""), report._repr_html_()):
        assert "it was asked to stay in float32" in told
        assert "features.1.conv" in told
        full, half = (re.search(rf"stages.{n}\b.*?(█+)", told, flags=re.DOTALL)[1] for n in (0, 1))
        assert len(full) == 2 * len(half)


def test_a_terminal_is_shown_the_noisiest_of_many_layers_and_markdown_all():
    report = noisy(*range(60, 40, -1))
    told = printed(report)
    assert "by themselves, the 8 noisiest of 20 layers" in told
    assert [f"stages.{n} " in told for n in (0, 11, 12, 19)] == [False, False, True, True]
    assert parity_markdown(report).count("█") > told.count("█")
    assert all(f"stages.{n} |" in parity_markdown(report) for n in range(20))


def test_a_layer_without_signal_has_no_bar():
    assert [row[-1] for row in layer_rows(noisy(30.0, -3.0, float("-inf")).guard)] == ["█" * 24, "", ""]
    assert not layer_rows(dataclasses.replace(GUARD, tensors=()))


def test_what_few_images_do_not_judge_is_told():
    losses = [TensorLoss("stages.0", "conv", "t", "activation", 30.0, 4.0)]
    guard = dataclasses.replace(LOSSY.guard, rows=(*LOSSY.guard.rows, *tensor_rows("int8", losses, 30.0, 3)))
    for told in (
        printed(dataclasses.replace(LOSSY, guard=guard)),
        parity_markdown(dataclasses.replace(LOSSY, guard=guard)),
    ):
        assert "not judged: at least 8 different images tell ranges, got 3" in " ".join(told.split())


# JSON


def paths(value):
    return leaves(value, OPEN)


def documented():
    return described(SCHEMA)


FULL = dataclasses.replace(FAILED, structure=("stale",), warnings=("unused",), guard=GUARD, kept=LOSSY.kept)


def test_the_documented_fields_are_those_written():
    assert set(documented()) == {path for path, _ in paths(parity_json(FULL))}


@pytest.mark.parametrize("report", [FULL, PASSED], ids=["full", "passed"])
def test_what_is_written_has_the_documented_type(report):
    names = {str: "string", bool: "boolean", int: "number", float: "number", type(None): "null"}
    types = documented()
    whole = dataclasses.replace(report, divergence=DIVERGENCE, accuracy=FULL.accuracy, guard=FULL.guard)
    for path, value in paths(parity_json(whole)):
        assert names[type(value)] in types[path].split(" or "), path


def test_what_may_be_null_is_documented_as_such():
    for kind, path in ((OutputParity, "computations[].outputs[]"), (Divergence, "divergence"),
                       (TensorFacts, "divergence.actual"), (ErrorStep, "divergence.growth[]")):  # fmt: skip
        for name, hint in get_type_hints(kind).items():
            if f"{path}.{name}" in documented() and get_origin(hint) is not tuple:
                assert (type(None) in get_args(hint)) == ("null" in documented()[f"{path}.{name}"]), name


def test_the_documented_schema_is_the_one_written():
    assert f"`{parity_json(EMPTY)['schema']}`" in SCHEMA.read_text(encoding="utf-8").splitlines()[0]


@every_report
def test_json_begins_with_the_verdict_and_keeps_every_row(report):
    value = json.loads(json.dumps(parity_json(report), allow_nan=False))
    assert list(value)[:2] == ["schema", "passed"]
    assert value["passed"] is report.passed
    assert value["failures"] == list(report.failures)
    assert [len(c["outputs"]) for c in value["computations"]] == [len(c.outputs) for c in report.computations]


@pytest.mark.parametrize(("figure", "written"), [(float("nan"), "NaN"), (float("-inf"), "-Infinity"), (None, None)])
def test_json_has_no_number_that_is_not_finite(figure, written):
    report = ParityReport("x", (row(outputs=(judged("zeros", max_rel_error=figure),)),))
    value = json.loads(json.dumps(parity_json(report), allow_nan=False))
    assert value["computations"][0]["outputs"][0]["max_rel_error"] == written


# JUnit


def suite_of(report):
    return ElementTree.fromstring(parity_junit(report).encode()).find("testsuite")


@every_report
def test_a_report_that_does_not_pass_has_a_failed_test(report):
    assert (suite_of(report).get("failures") == "0") is report.passed


@every_report
def test_the_counts_are_those_of_the_tests(report):
    suite = suite_of(report)
    found = {name: len(suite.findall(f"testcase/{tag}")) for name, tag in (("failures", "failure"), ("skipped",) * 2)}
    assert {name: int(suite.get(name)) for name in found} == found
    assert int(suite.get("tests")) == len(suite.findall("testcase"))
    assert suite.get("errors") == "0"
    assert "time" not in suite.attrib


@every_report
def test_no_test_has_the_name_of_another(report):
    names = [(case.get("classname"), case.get("name")) for case in suite_of(report).findall("testcase")]
    assert len(set(names)) == len(names)


def test_each_output_of_each_case_is_a_test():
    suite = suite_of(FAILED)
    assert len(suite.findall("testcase[@classname='onnx reference']")) == len(CASES)
    wrong = suite.find("testcase[@name='images, batch 7: logits'][@classname='onnxruntime CPU']")
    assert wrong.find("failure").get("message") == "too far off"
    assert "node_Mul_3 (Mul)" in suite.find("system-out").text


def test_a_warning_is_skipped_or_with_strict_failed():
    assert suite_of(PASSED).find("testcase[@classname='warnings']/skipped").get("message") == "an input is not used"
    assert suite_of(STRICT).find("testcase[@classname='warnings']/failure") is not None


def test_a_fault_that_the_guard_finds_is_a_failed_test():
    suite = suite_of(dataclasses.replace(LOSSY, guard=GUARD))
    (case,) = suite.findall("testcase[@classname='guard']")
    assert case.find("failure").get("message") == GUARD.faults[0]
    assert suite.get("failures") == "1"


def test_the_suite_says_how_to_have_the_same_inputs_again():
    properties = {
        p.get("name"): p.get("value") for p in suite_of(dataclasses.replace(PASSED, seed=3)).iter("property")
    }
    assert (properties["seed"], properties["file"]) == ("3", "model.onnx")
    assert properties["tolerance of onnxruntime CPU"].startswith("atol 1e-05, rtol 1e-05, ratio 10")


# Markdown


def test_markdown_begins_with_the_verdict_then_the_matrix():
    lines = parity_markdown(FAILED).splitlines()
    assert lines[0] == "### Parity of model.onnx: FAIL"
    assert "| onnxruntime CPU | FAIL | 0.8× | – |" in lines
    assert "- **FAIL**: onnxruntime CPU: logits of images, batch 7: too far off" in lines
    assert "**first diverging node: node_Mul_3 (Mul)**".replace("_", r"\_") in lines


def test_markdown_folds_what_is_not_the_verdict():
    folded = "".join(re.findall(r"<details>.*?</details>", parity_markdown(PASSED), flags=re.DOTALL))
    assert "the batch is fixed" in folded
    assert "same arithmetic in another order of summation" in folded
    assert "an input is not used" not in folded


@every_report
def test_every_table_in_markdown_has_as_many_cells_in_each_line(report):
    for table in re.findall(r"(?:^\|.*\n)+", parity_markdown(report), flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


# Names from files of anybody

NAMED = ParityReport(
    HOSTILE,
    (row(HOSTILE, outputs=(judged(HOSTILE, failure=HOSTILE, output=HOSTILE),)),),
    (HOSTILE,),
    (HOSTILE,),
    (HOSTILE,),
    Accuracy(1, 1.0, 1.0),
    Placement("CUDA", {HOSTILE: 1}, (HOSTILE,)),
    dataclasses.replace(
        DIVERGENCE, node=HOSTILE, operator=HOSTILE, output=HOSTILE, module=HOSTILE, case=HOSTILE,
        compared_with=HOSTILE, growth=(ErrorStep(HOSTILE, HOSTILE, HOSTILE, 0.1),), hints=(HOSTILE,),
    ),
)  # fmt: skip


@pytest.mark.parametrize("form", [printed, parity_junit, parity_markdown])
def test_control_characters_of_names_reach_nobody(form):
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]", form(NAMED))


def test_names_in_junit_are_escaped():
    assert suite_of(NAMED).get("name") == "parity of a|b `c` <d> *e* [31m&"


def test_names_in_markdown_are_escaped():
    written = re.sub(r"</?(details|summary)>|\*\*(FAIL|warning|hint)\*\*: ", "", parity_markdown(NAMED))
    body = "\n".join(line for line in written.splitlines() if not line.startswith("|"))
    assert not re.search(r"(?<!\\)[|`<>\[]", body)
    assert r"a\|b \`c\` \<d\>" in body
