"""What all results have in common: one line, the command's text, its JSON, and of which call they are and when."""

import dataclasses
import inspect
import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from xml.etree import ElementTree

import pytest
from bench_reports import CPU, HOSTILE, INTERRUPTED, INVALID, NOTHING
from bench_reports import REPORTS as BENCHES

import aaexport
from aaexport.cli.command_line import command_line
from aaexport.deployment.artefact import Check
from aaexport.load.machine import Environment
from aaexport.nn.choice import AttentionSizes, Choice
from aaexport.outcome import Outcome, called, verb
from aaexport.parity import TOLERANCES, Computation, OutputParity, ParityReport
from aaexport.report.bench.html import bench_html
from aaexport.report.parity.junit import parity_junit
from aaexport.report.parity.markdown import parity_markdown
from aaexport.results import (
    AttentionPicture,
    Candidate,
    ConvertResult,
    DeployResult,
    InspectResult,
    LayerAttention,
    OptimizeResult,
    TunedLayer,
    TuneResult,
)
from aaexport.training import Epoch, TrainingComparison, TrainResult
from aaexport.training.compare import TimeRatio, TrainedModel

ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
OUTPUT = OutputParity("zeros", "logits", None, max_abs_error=2.9e-6, error_ratio=1.25)
PARITY = ParityReport("x.onnx", (Computation("onnxruntime CPU", "file", TOLERANCES["float32", "cpu"], (OUTPUT,)),))
WRONG = dataclasses.replace(PARITY, structure=("the file is stale",))
SIZES = AttentionSizes(height=4, width=4, num_heads=2, dkh=2, dvh=2, relative=True)


def results(tmp_path):
    """One of every type, made by hand, by its name."""
    import numpy as np

    onnx = tmp_path / "x.onnx"
    converted = ConvertResult(onnx, 20, "skew", "dynamic", {"Conv": 2, "MatMul": 3}, 550_000, 1.5, PARITY)
    layer = LayerAttention("features.6", (0,), ((1, 1),), ((0, 0),), np.full((1, 1, 2, 2), 0.25, np.float32))
    epochs = (Epoch(1, 0.5, 0.9, 0.91, 1.0, 0.1, 1000.0, 2.0),)
    trained = TrainResult(tmp_path, epochs, "cpu", "float32", 10)
    models = (
        TrainedModel("aa", 1200, True, trained, 2.0, TimeRatio(1.5, 1.4, 1.6, 1)),
        TrainedModel("conv", 1000, False, trained, 1.3, None),
    )
    choice = Choice("skew")
    tuned = TunedLayer(SIZES, ("features.6",), (Candidate(choice),), choice, choice, None, None)
    machine = Environment("a CPU", 2, "Linux", "3.11", None, None, None)
    return {
        "ConvertResult": converted,
        "OptimizeResult": OptimizeResult(onnx, "cpu", {"Conv": 3}, {"Conv": 2}, (), PARITY),
        "DeployResult": DeployResult(
            tmp_path, "ray", "aa", "ab" * 32, {"threads": 2}, {"README.md": 9}, (Check("files", True, "1 whole"),)
        ),
        "InspectResult": InspectResult(tmp_path / "model", None, None, has_weights=True, graph=None),
        "ParityReport": PARITY,
        "BenchReport": CPU,
        "TuneResult": TuneResult(
            tmp_path / "tuning.json", "onnxruntime CPU", "CPU", 20, 4, None, 2.0, 0, (tuned,), machine, {}, 9.0
        ),
        "TrainResult": trained,
        "TrainingComparison": TrainingComparison(models, "conv", "digits", 64, 10, ()),
        "AttentionPicture": AttentionPicture(tmp_path / "x.png", tmp_path / "digit.png", "aa", (layer,)),
    }


TYPES = ("ConvertResult", "DeployResult", "OptimizeResult", "InspectResult", "ParityReport", "BenchReport",
         "TuneResult", "TrainResult", "TrainingComparison", "AttentionPicture")  # fmt: skip
every_type = pytest.mark.parametrize("name", TYPES)


@pytest.fixture
def result(name, tmp_path):
    return results(tmp_path)[name]


def test_every_type_of_result_is_here(tmp_path):
    def kinds(of):
        return {one.__name__ for one in of.__subclasses__()}.union(*map(kinds, of.__subclasses__()))

    assert kinds(Outcome) == set(TYPES) == set(results(tmp_path))


# One line


@every_type
def test_repr_is_one_short_line_that_names_the_type(name, result):
    assert repr(result).startswith(f"<{name} ")
    assert "\n" not in repr(result)
    assert len(repr(result)) < 300


def test_repr_tells_what_most_come_for(tmp_path):
    assert repr(PARITY) == "<ParityReport of x.onnx: PASS, largest error 2.9e-06, 1.2 × PyTorch's own>"
    assert repr(WRONG) == "<ParityReport of x.onnx: FAIL, the file is stale>"
    assert re.fullmatch(
        r"<BenchReport of aa_cnn3_digits: VALID, p50 0\.\d+ ms, p99 0\.\d+ ms, single-stream on onnxruntime CPU>",
        repr(CPU),
    )
    assert ": INVALID, " in repr(INVALID)
    assert ": INCOMPLETE, " in repr(INTERRUPTED)
    assert "p50 withheld, p99 withheld" in repr(NOTHING)
    converted = results(tmp_path)["ConvertResult"]
    assert "opset 20, 5 operators, 0.55 MB, PASS, largest error 2.9e-06" in repr(converted)
    assert repr(dataclasses.replace(converted, parity=None)).endswith("not verified>")


def test_names_with_line_breaks_stay_on_the_line():
    assert "\n" not in repr(dataclasses.replace(PARITY, onnx="a\nb.onnx"))
    assert "\n" not in repr(dataclasses.replace(CPU, model=HOSTILE + "\n"))


# The command's formats


@every_type
def test_str_is_plain_text_without_blanks_at_the_ends_of_lines(name, result):
    assert "\x1b" not in str(result)
    assert str(result)
    assert all(line == line.rstrip() for line in str(result).splitlines())


@every_type
def test_the_dict_is_json_and_tells_schema_date_and_command(name, result):
    value = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert value["schema"].startswith("aaexport.")
    assert (value["date"], value["command"]) == (result.date, result.command)


def lines(text):
    return [line.rstrip() for line in text.rstrip("\n").splitlines()]


def without_call(value):
    return {key: entry for key, entry in value.items() if key not in ("date", "command")}


def test_inspect_has_the_words_and_the_values_of_its_command(cli):
    found = aaexport.inspect("aa_cnn3_digits")
    assert lines(str(found)) == lines(cli("inspect", "aa_cnn3_digits").out)
    printed = json.loads(cli("inspect", "aa_cnn3_digits", "--json").out)
    assert without_call(printed) == without_call(json.loads(json.dumps(found.to_dict())))


def test_verify_has_the_words_and_the_values_of_its_command(cli, converted):
    found = aaexport.verify(converted)
    kept = json.loads(converted.parity_path.read_text())
    assert (kept["date"], kept["command"]) == (found.date, "aaexport.verify")
    options = ("verify", converted.path)
    assert lines(str(found)) == lines(cli(*options).out)
    printed = json.loads(cli(*options, "--json").out)
    assert without_call(printed) == without_call(json.loads(json.dumps(found.to_dict())))


def test_a_format_is_the_one_that_the_command_has(tmp_path):
    assert PARITY.to_markdown() == parity_markdown(PARITY)
    assert PARITY.to_junit() == parity_junit(PARITY)
    assert CPU.to_html() == bench_html(CPU)
    assert "| aa " in results(tmp_path)["TrainingComparison"].to_markdown()
    assert "scheduled_ns" in CPU.to_dict(raw=True)["blocks"][0]
    assert "scheduled_ns" not in CPU.to_dict()["blocks"][0]


def test_a_result_of_no_command_cannot_be_shown():
    class Another(Outcome):
        pass

    with pytest.raises(TypeError, match="a Another has no such format"):
        str(Another())


# Notebooks


@every_type
def test_a_notebook_is_shown_well_formed_html_with_the_words_of_the_command(name, result):
    shown = "".join(ElementTree.fromstring(f"<div>{result._repr_html_()}</div>").itertext())
    words = [word for word in re.findall(r"[\w.]+", str(result)) if len(word) > 3]
    assert words
    assert [word for word in words if word not in shown] == []


@pytest.mark.parametrize("report", BENCHES.values(), ids=BENCHES)
def test_a_measurement_brings_its_page_in_a_frame_that_may_do_nothing(report):
    tree = ElementTree.fromstring(f"<div>{report._repr_html_()}</div>")
    (frame,) = tree.iter("iframe")
    assert frame.get("sandbox") == ""
    assert frame.get("srcdoc").startswith("<!DOCTYPE html>")
    assert not list(tree.iter("script"))


def test_a_picture_is_shown_while_it_is_there(tmp_path):
    picture = results(tmp_path)["AttentionPicture"]
    assert "<img" not in picture._repr_html_()
    picture.path.write_bytes(b"a picture")
    assert 'src="data:image/png;base64,YSBwaWN0dXJl"' in picture._repr_html_()


# Of which call


def test_a_result_says_which_function_made_it_and_when():
    before = datetime.now(UTC).replace(microsecond=0)
    found = aaexport.inspect("aa_cnn3_digits")
    assert found.command == "aaexport.inspect"
    assert ISO.fullmatch(found.date)
    assert before <= datetime.fromisoformat(found.date) <= datetime.now(UTC)


def test_a_result_says_which_command_line_made_it(cli):
    assert json.loads(cli("inspect", "aa_cnn3_digits", "--json").out)["command"] == (
        "aaexport inspect aa_cnn3_digits --json"
    )


def test_all_results_of_one_call_say_the_same(tmp_path):
    @verb
    def outer():
        return [PARITY, ParityReport("y"), inner()]

    @verb
    def inner():
        return ParityReport("z")

    _, first, second = outer()
    assert first.command == second.command == "aaexport.outer"
    assert first.date == second.date


def test_what_is_made_by_hand_is_of_no_call():
    with called("aaexport.outer"):
        pass
    assert ParityReport("x").command is None


def test_when_it_was_made_does_not_tell_two_results_apart():
    assert dataclasses.replace(PARITY, date="2000-01-01T00:00:00Z", command="another") == PARITY
    assert PARITY != WRONG


def test_a_changed_result_keeps_its_call():
    with called("aaexport.verify"):
        made = ParityReport("x")
    assert dataclasses.replace(made, seed=1).command == "aaexport.verify"


def test_every_verb_says_its_name():
    verbs = ("compare_training", "convert", "convert_source", "draw_attention", "inspect", "optimize", "serve_bench",
             "train", "tune", "verify")  # fmt: skip
    assert [name for name in verbs if not hasattr(getattr(aaexport, name), "__wrapped__")] == []
    assert "model" in inspect.signature(aaexport.verify).parameters


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["verify", "a b", "--seed", "1"], "aaexport verify 'a b' --seed 1"),
        (["convert", "f.py:N", "--kwargs", "key=s3cret", "--kwargs", "n=2"],
         "aaexport convert f.py:N --kwargs 'key=…' --kwargs 'n=…'"),
        (["convert", "--kwargs=key=s3cret"], "aaexport convert '--kwargs=key=…'"),
        (["convert", "--kwargs", "s3cret"], "aaexport convert --kwargs '…'"),
        (["convert", "--kwargs", "--kwargs", "key=x"], "aaexport convert --kwargs '…' key=x"),
    ],
)  # fmt: skip
def test_a_command_line_is_one_that_can_be_typed_and_tells_no_secret(words, line):
    assert command_line(words) == line


def test_results_are_shown_without_help_of_the_command_line():
    code = (
        "import sys; from aaexport.parity import ParityReport; report = ParityReport('x')\n"
        "assert 'FAIL' in str(report); assert not {'click', 'onnxruntime'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
