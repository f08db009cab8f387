"""serve-bench --compare: what model.onnx is measured beside, how they take turns, and what is said of them."""

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from rich.console import Console
from torch import nn

import aaexport
from aaexport.errors import ArgumentError, ExportError, ProviderError, RunnerError
from aaexport.folder import open_folder
from aaexport.graph.files import summarize
from aaexport.graph.plain import export_plainly
from aaexport.load import machine
from aaexport.load.measurement import ColdStart
from aaexport.load.run import QueryLog
from aaexport.pipeline.bench import rivals
from aaexport.pipeline.bench import session as bench_session
from aaexport.pipeline.bench.contender import OURS, Answers, Served
from aaexport.pipeline.bench.options import BenchOptions
from aaexport.pipeline.bench.orders import BLOCKS
from aaexport.pipeline.bench.rival_names import RIVALS, check_rivals, is_autocast, torch_ways
from aaexport.pipeline.bench.samples import Samples
from aaexport.pipeline.bench.serve_bench import serve_bench
from aaexport.pipeline.bench.session import BenchSession
from aaexport.pipeline.bench.worker_models import WorkerSpec
from aaexport.report.bench.as_json import BENCH_SCHEMA, bench_json
from aaexport.report.bench.terminal import bench_view
from aaexport.runners.compiled import CompiledRunner
from aaexport.runners.torch import TorchRunner

NO_PROCESS = 2**30

# Turns


class Pretended:
    """Stands for a worker process: block `n` lasts `milliseconds[n]` a query; writes down what it is asked."""

    process_ids, provider, max_batch = (NO_PROCESS,), "none", None

    def __init__(self, name, diary, milliseconds=(1.0,), answer=(1.0, 2.0)):
        self.label, self.name, self.diary = f"{name} at work", name, diary
        self.milliseconds, self.answered = list(milliseconds) * BLOCKS, np.asarray([answer])

    def cold_start(self, batch):
        self.diary.append(f"{self.name}: cold start")
        return ColdStart(1.0, 0.1, 0.5)

    def answers(self, path, count, batch):
        self.diary.append(f"{self.name}: answers")
        np.savez(path, y=self.answered)
        return Answers(1, bool(np.isfinite(self.answered).all()))

    def expect(self, path):
        self.diary.append(f"{self.name}: expect")

    def run(self, order, progress):
        self.diary.append(f"{self.name}: {order.load.scenario}")
        times = np.arange(8) * round(self.milliseconds.pop(0) * 1e6)
        return Served(QueryLog(times, times, times + times[1], np.ones(8, np.int32)))

    def phases(self, batch):
        return None

    def first_query(self, batch):
        return 0.5


def session_of(diary, names="abc", **options):
    """A session of pretended contenders."""
    ours, *rivals = (Pretended(name, diary) for name in names)
    return BenchSession(ours, {one.name: one for one in rivals}, BenchOptions(**options), SAMPLES, None, silent)


def silent(step, share):
    """Nobody watches."""


SAMPLES = Samples({"x": np.zeros((1, 1), np.float32)}, True, None, "zeros")


def pretended(diary, room=None, **opponents):
    """What a measurement of pretended contenders finds; each rival's options by its name."""
    rivals = {name: Pretended(name, diary, **options) for name, options in opponents.items()}
    ours = Pretended("ours", diary, milliseconds=[2.0, 4.0])
    options = BenchOptions(device="cpu", duration=1, warmup=0, check=room is not None)
    session = BenchSession(ours, rivals, options, SAMPLES, room, silent)
    session.start()
    session.check_answers(None)
    session.measure()
    return session.measured


def test_contenders_take_turns_and_another_one_begins_each_round():
    diary = []
    session = session_of(diary, device="cpu")
    session.start()
    diary.clear()
    session._closed_loop()
    order = [line[0] for line in diary]
    rounds = ["".join(order[start : start + 3]) for start in range(0, len(order), 3)]
    assert rounds == (["abc", "bca", "cab"] * BLOCKS)[:BLOCKS]


def test_every_contender_starts_cold_before_it_is_asked_anything_else():
    diary = []
    pretended(diary, eager={}, skew={})
    assert diary[:3] == ["ours: cold start", "eager: cold start", "skew: cold start"]


def test_each_ratio_is_taken_between_blocks_of_one_round(monkeypatch):
    monkeypatch.setattr(bench_session, "why_no_ratio", lambda environment: None)  # this machine may well be busy
    measured = pretended([], eager={"milliseconds": [4.0, 4.0]}, skew={"milliseconds": [6.0, 12.0]})
    assert [(other.ratio.median, other.ratio.lowest, other.ratio.highest) for other in measured.comparisons] == [
        (1.5, 1.0, 2.0),
        (3.0, 3.0, 3.0),
    ]


def test_all_ratios_are_withheld_on_a_busy_machine(monkeypatch):
    monkeypatch.setattr(bench_session, "why_no_ratio", lambda environment: "it is busy")
    measured = pretended([], eager={}, skew={})
    assert [(other.ratio, other.withheld) for other in measured.comparisons] == [(None, "it is busy")] * 2


@pytest.mark.parametrize("answer", [(1.0, 2.5), (1.0, float("nan")), (1.0,)])
def test_a_contender_with_another_answer_is_named(tmp_path, answer):
    measured = pretended([], tmp_path, compile={}, skew={"answer": answer})
    assert {other.name: other.same_answers for other in measured.comparisons} == {"compile": True, "skew": False}


def test_another_model_may_answer_otherwise_and_it_is_noted(tmp_path):
    measured = pretended([], tmp_path, **{"onnx:other.onnx": {"answer": (1.0, 3.0)}})
    assert measured.reasons == []
    assert measured.notes == ["onnx:other.onnx answers otherwise (5.0e-01 of the largest output): another model"]
    assert measured.comparisons[0].same_answers is None


# Whose CPU time it was


def test_the_cpu_time_of_a_running_worker_is_our_own():
    code = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        ticks = machine._ticks_of(process.pid)
        process.communicate("\n")
    assert ticks >= 0.25 * os.sysconf("SC_CLK_TCK")


def test_a_worker_that_has_gone_has_no_time_of_its_own():
    assert machine._ticks_of(NO_PROCESS) == 0


# The plain export


@pytest.fixture(scope="module")
def folder(converted_once, tmp_path_factory):
    """A converted folder of this file's own, which the measurement below leaves its record in."""
    return open_folder(shutil.copytree(converted_once, tmp_path_factory.mktemp("compared") / "tiny"))


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """Where the measurement below puts its temporary files."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def measured(folder, room, tmp_path_factory):
    """(report, path): one measurement against skew and eager, and a copy of the file that skew ran."""
    kept = tmp_path_factory.mktemp("kept")

    def export_and_keep(network, path, **options):
        export_plainly(network, path, **options)
        for file in path.parent.glob("skew*"):
            shutil.copy(file, kept)

    options = {"duration": 0.3, "warmup": 0.0, "batches": [1], "threads": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(room))
        patch.setattr(rivals, "export_plainly", export_and_keep)
        report = serve_bench(folder, device="cpu", compare=("skew", "eager"), **options)
    return report, kept / "skew.onnx"


@pytest.fixture
def plain_skew(measured):
    return measured[1]


@pytest.fixture
def report(measured):
    return measured[0]


def test_skew_runs_like_our_own_file_on_another_one(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(rivals, "export_plainly", lambda *arguments, **options: None)
    ours = WorkerSpec("onnxruntime", str(folder.onnx_path), "samples.npy", "cpu", threads=1)
    spec = rivals.rival_spec("skew", folder, ours, summarize(folder.onnx_path), tmp_path)
    assert vars(spec) == {**vars(ours), "model": str(tmp_path / "skew.onnx")}


@pytest.mark.slow
def test_skew_is_written_by_torch_alone(plain_skew):
    model = onnx.load(plain_skew)
    assert model.producer_name == "pytorch"
    assert not model.metadata_props


@pytest.mark.slow
def test_skew_tiles_its_relative_logits_as_the_paper_does(plain_skew, folder):
    paths = (plain_skew, folder.onnx_path)
    counts = [summarize(path).operators.get("Expand", 0) for path in paths]
    assert counts[0] >= 1  # its one augmented layer
    assert counts[1] == 0


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 5])
def test_skew_computes_the_same_network_for_any_batch(plain_skew, folder, rng, batch):
    images = rng.standard_normal((batch, 1, 8, 8), dtype=np.float32)
    plain, ours = (
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for path in (plain_skew, folder.onnx_path)
    )
    (expected,) = ours.run(None, {ours.get_inputs()[0].name: images})
    (answer,) = plain.run(None, {plain.get_inputs()[0].name: images})
    np.testing.assert_allclose(answer, expected, rtol=0, atol=1e-5)


def test_a_plain_export_of_a_fixed_batch_fixes_it(tmp_path):
    export_plainly(nn.Conv2d(1, 2, 3), tmp_path / "x.onnx", input_shape=(1, 4, 4), batch=3)
    dimension = onnx.load(tmp_path / "x.onnx").graph.input[0].type.tensor_type.shape.dim[0]
    assert dimension.dim_value == 3


def test_a_module_that_torch_cannot_export_is_an_export_error(tmp_path):
    class Random(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ExportError, match=r"^plain torch\.onnx\.export failed: [^\n]+$"):
        export_plainly(Random(), tmp_path / "x.onnx", input_shape=(1, 4, 4), batch="dynamic")


# The compiled module


class CompilerError(torch._dynamo.exc.TorchDynamoException):
    """What torch.compile raises, in the tests."""


@pytest.fixture
def compiled(monkeypatch):
    """A runner of what stands for torch.compile's product: `function` of the module."""

    def of(function):
        def compile_module(eager, *, fullgraph):
            assert fullgraph, "a part left to eager mode would go unseen"
            return function(eager)

        monkeypatch.setattr(torch, "compile", compile_module)
        return CompiledRunner(TorchRunner(nn.Flatten(), ("input",), ("output",), input_shape=(1, 2, 2)))

    return of


def failing(text):
    def fail(x):
        raise CompilerError(text)

    return lambda module: fail


def complaint(runner):
    with pytest.raises(RunnerError) as caught:
        runner.infer({"input": np.zeros((1, 1, 2, 2), np.float32)})
    return str(caught.value)


def test_what_is_compiled_is_what_answers(compiled):
    runner = compiled(lambda module: lambda x: module(x) + 1)
    assert runner.infer({"input": np.zeros((1, 1, 2, 2), np.float32)})["output"].tolist() == [[1, 1, 1, 1]]


def test_a_compiled_runner_is_called_so(compiled):
    assert compiled(lambda module: module).label == "torch.compile cpu float32"


def test_a_failing_compiler_is_a_runner_error_with_the_remedy(compiled):
    text = complaint(compiled(failing("it is too hard\nand much more")))
    assert text == (
        "torch.compile must compile the network, but: it is too hard; leave compile out of the comparison"
    )


def test_a_missing_compiler_has_a_remedy_of_its_own(compiled):
    text = complaint(compiled(failing("No working C++ compiler found")))
    assert text.endswith("; install one such as g++, or leave compile out of the comparison")


def test_what_the_network_itself_refuses_is_not_the_compilers(compiled):
    def refuse(x):
        raise ValueError("no such size")

    assert complaint(compiled(lambda module: refuse)).endswith("cannot run the module in float32: no such size")


@pytest.mark.slow
def test_without_a_compiler_there_is_one_line_and_no_record(cli, converted, monkeypatch):
    monkeypatch.setenv("CXX", "/nonexistent/g++")
    outcome = cli("serve-bench", converted.path, "--compare", "compile", "--duration", "0.2", "--device", "cpu")
    assert outcome.code == 1
    assert outcome.out == ""
    (line,) = (line for line in outcome.err.splitlines() if line.startswith("Error: "))
    assert line.startswith("Error: compile: torch.compile must compile the network, but: InvalidCxxCompiler: No work")
    assert not converted.bench_path.exists()


@pytest.mark.slow
def test_the_compiled_network_is_measured_for_real(converted):
    report = serve_bench(converted, device="cpu", duration=0.3, warmup=0.0, batches=[1], compare=["compile"])
    (other,) = report.comparisons
    assert (report.reasons, other.label) == ((), "torch.compile cpu float32")


# The report


@pytest.mark.slow
def test_comparisons_come_in_the_order_asked_for(report):
    assert [(other.name, other.label) for other in report.comparisons] == [
        ("skew", "plain skew, onnxruntime CPU"),
        ("eager", "PyTorch eager cpu float32"),
    ]


def test_every_contender_gave_the_same_answers(report):
    assert report.reasons == ()


def test_every_contender_has_its_blocks_and_its_cold_start(report):
    assert [len(other.blocks) for other in report.comparisons] == [BLOCKS, BLOCKS]
    others = [other.cold_start for other in report.comparisons]
    assert all(seconds > 0 for seconds in (report.cold_start.first_query, *others))


def test_the_file_of_skew_is_not_left_behind(report, room):
    assert not list(room.iterdir())


def test_the_record_holds_every_comparison_with_its_latencies(report, folder):
    value = json.loads(folder.bench_path.read_text())
    assert value["schema"] == BENCH_SCHEMA
    assert [other["name"] for other in value["comparisons"]] == ["skew", "eager"]
    assert all(len(other["blocks"]) == BLOCKS for other in value["comparisons"])


def test_the_json_for_a_terminal_holds_no_raw_latencies(report):
    value = bench_json(report, raw=False)
    assert not any("latencies" in block for other in value["comparisons"] for block in other["blocks"])


def test_the_table_has_a_row_for_every_contender_and_says_what_the_ratio_is(report):
    console = Console(width=110, record=True, file=io.StringIO())
    console.print(bench_view(report))
    text = console.export_text()
    for words in ("onnxruntime CPU ", "plain skew, onnxruntime CPU ", "PyTorch eager cpu float32 ", "÷ ours"):
        assert words in text
    assert "÷ ours: latency by that of" in text or "÷ ours is withheld" in text


def test_what_was_asked_for_and_cannot_be_compared_is_refused(folder, tmp_path):
    path = tmp_path / "bare.onnx"
    path.write_bytes(folder.onnx_path.read_bytes())
    with pytest.raises(
        ArgumentError, match="compare skew,eager must have PyTorch weights beside the file, got 'none'"
    ):
        serve_bench(path, device="cpu", duration=0.2, warmup=0.0, batches=[1], compare=("skew", "eager"))


@pytest.mark.slow
def test_nothing_is_compared_where_nothing_was_asked_for(folder):
    report = serve_bench(folder, device="cpu", duration=0.2, warmup=0.0, batches=[1], compare=())
    assert report.comparisons == ()
    assert not [note for note in report.notes if "not measured" in note]


# What a user types wrongly


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("skeww", "compare must be known names, got 'skeww'; did you mean 'skew'?"),
        (
            "eager,",
            "compare must be known names, got ''; known: compile, compile:autocast, compile:channels-last, "
            "compile:max-autotune, eager, eager:autocast, eager:channels-last, float16, float32, folder:PATH, "
            "in-process, int8, onnx:PATH, skew",
        ),
        ("onnx:", "compare onnx: must be followed by a path, got 'onnx:'"),
        ("eager,eager", "compare must be different names in a sequence, got 'eager,eager'"),
        ("none,eager", "compare must be none or names separated by commas, got 'none,eager'"),
    ],
)
def test_wrong_names_are_usage_errors(cli, converted, text, words):
    outcome = cli("serve-bench", converted.path, "--compare", text)
    assert (outcome.code, outcome.out) == (2, "")
    assert words in outcome.err.splitlines()[-1]
    assert not converted.bench_path.exists()


def test_the_option_that_was_is_answered_with_the_one_that_is(cli, converted):
    outcome = cli("serve-bench", converted.path, "--no-compare")
    assert outcome.code == 2
    assert "--compare" in outcome.err.replace("--no-compare", "", 1)


@pytest.mark.parametrize("names", [True, "eager", 3])
def test_names_come_in_a_sequence(names):
    with pytest.raises(ArgumentError, match=r"^compare must be different names in a sequence, got "):
        serve_bench("unread.onnx", device="cpu", compare=names)


def test_every_rival_has_its_name_in_the_help(cli):
    text = cli("serve-bench", "--help").out
    assert all(name in text for name in RIVALS)


def test_every_known_name_may_be_asked_for():
    check_rivals(RIVALS)


@pytest.mark.parametrize(
    ("name", "base", "ways"),
    [
        ("eager", "eager", ()),
        ("compile:max-autotune", "compile", ("max-autotune",)),
        ("compile:max-autotune+autocast", "compile", ("max-autotune", "autocast")),
        ("eager:channels-last+autocast", "eager", ("channels-last", "autocast")),
    ],
)
def test_ways_to_run_pytorch_have_names(name, base, ways):
    check_rivals([name])
    assert torch_ways(name) == (base, ways)
    assert is_autocast(name) == ("autocast" in ways)


@pytest.mark.parametrize("name", ["eager:max-autotune", "compile:", "compile:autocast+autocast", "skew:autocast"])
def test_other_ways_have_none(name):
    with pytest.raises(ArgumentError, match="compare must be known names"):
        check_rivals([name])


def test_a_default_rival_that_does_not_start_is_a_note_and_one_that_was_asked_for_an_error():
    def failing(diary, **options):
        session = session_of(diary, "ab", device="cpu", **options)
        session.rivals["b"].cold_start = lambda batch: (_ for _ in ()).throw(ProviderError("it has no GPU"))
        session.start()
        return session

    session = failing([])
    assert (session.rivals, list(session.contenders)) == ({}, [OURS])
    (note,) = session.measured.notes
    assert note == "left out of the comparison, as it does not work here: b: it has no GPU"
    with pytest.raises(ProviderError, match="b: it has no GPU"):
        failing([], compare=("eager",))


def test_the_verb_is_public():
    assert aaexport.serve_bench is serve_bench
