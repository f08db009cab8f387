"""`aaexport serve-bench` as a user runs it: every scenario, what it leaves, and how it ends."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time

import pytest

import aaexport
from aaexport.folder import open_folder
from aaexport.load.lengths import RULES
from aaexport.load.machine import MachineWatch
from aaexport.load.measurement import ParityRecord, Trial
from aaexport.pipeline.bench import orders, peak_search
from aaexport.pipeline.bench import session as bench_session
from aaexport.pipeline.bench.card import parity_record
from aaexport.pipeline.bench.option_rules import SCENARIOS as KNOWN_SCENARIOS
from aaexport.pipeline.bench.options import BenchOptions
from aaexport.report.bench.as_json import BENCH_SCHEMA

SHORT = ("--device", "cpu", "--duration", "0.3", "--warmup", "0.02", "--threads", "1")
ONE_BATCH = ("--batch", "1", "--compare", "none")
ALONE = (*ONE_BATCH, "--no-check")  # without the seconds that PyTorch takes to start


def complaint(outcome, code):
    """The one line on stderr of a run that failed, and printed no result."""
    assert outcome.code == code, outcome.err
    (line,) = (line for line in outcome.err.splitlines() if line.startswith("Error: "))
    assert "Traceback" not in outcome.err
    return line


SCENARIOS = {
    "single-stream": (*ONE_BATCH,),
    "multi-stream": ("--samples-per-query", "3", *ONE_BATCH),
    "offline": ("--max-batch", "8", *ONE_BATCH),
    "server": ("--rate", "400", "--max-batch", "4", "--max-delay", "1ms", "--p99", "5s"),
}


def test_every_scenario_has_its_rules_and_is_tried_here():
    assert set(KNOWN_SCENARIOS) == set(RULES) == set(SCENARIOS)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param(name, options, id=name, marks=[] if name == "server" else [pytest.mark.slow])
        for name, options in SCENARIOS.items()
    ],
)
def test_every_scenario_answers_rightly_and_is_recorded(cli, converted, name, options):
    outcome = cli("serve-bench", converted.path, *SHORT, "--scenario", name, *options, "--duration", "0.4", "--json")
    value = json.loads(outcome.out)
    assert value["schema"] == BENCH_SCHEMA
    assert value["load"]["scenario"] == name
    assert value["unanswered"] == 0
    assert value["check"]["checked"] > 0
    assert value["check"]["wrong"] == 0
    assert value["images_per_second"] > 0
    assert (outcome.code == 0) == value["valid"]
    recorded = json.loads(converted.bench_path.read_text())
    assert sum(block["queries"] for block in recorded["blocks"]) == value["queries"]


@pytest.mark.slow
def test_a_rate_that_cannot_be_held_is_invalid_and_no_hang(cli, converted, monkeypatch):
    monkeypatch.setattr(orders, "LEAST_PATIENCE", 2.0)
    began = time.monotonic()
    outcome = cli(
        "serve-bench", converted.path, *SHORT, "--scenario", "server", "--rate", "1000000", "--no-check", "--json"
    )
    assert time.monotonic() - began < 60  # half a minute of which is a busy machine
    assert complaint(outcome, 4).startswith("Error: the measurement is not valid: ")
    assert any("queries a second must be answered" in reason for reason in json.loads(outcome.out)["reasons"])


def test_clients_share_batches(cli, converted):
    outcome = cli("serve-bench", converted.path, *SHORT, *ALONE, "--concurrency", "1,4", "--json")
    entries = [(entry["batch"], entry["concurrency"]) for entry in json.loads(outcome.out)["throughput"]]
    assert entries == [(1, 1), (1, 1), (1, 4)]


def test_the_search_for_the_peak_reports_the_last_valid_run_at_it(converted, monkeypatch):
    monkeypatch.setattr(peak_search, "_trial", held_up_to_3000)
    options = {"scenario": "server", "find_peak": True, "latency_bound": 1000.0, "duration": 0.05}
    monkeypatch.setattr(bench_session.BenchSession, "_latency_alone", lambda self: 0.5)
    report = aaexport.serve_bench(converted, device="cpu", warmup=0.0, threads=1, check=False, **options)
    assert 3000 / 1.05 <= report.peak.rate <= 3000
    assert report.load.rate == report.peak.rate
    assert [trial.rate for trial in report.peak.trials[:3]] == [1000, 2000, 4000]
    (block,) = report.blocks
    assert len(block) >= 459


def held_up_to_3000(load, served, options):
    return Trial(load.rate, 1.0, None if load.rate <= 3000 else "too fast")


def test_the_page_holds_what_was_measured_and_nothing_is_left_beside_it(cli, converted, tmp_path):
    outcome = cli("serve-bench", converted.path, *SHORT, *ALONE, "--report", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert "tiny" in page
    assert outcome.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "tiny"]


@pytest.mark.slow
def test_another_file_is_measured_beside_it_and_may_answer_otherwise(converted, tmp_path):
    twin = aaexport.convert(converted, tmp_path / "twin.onnx", decomposition="skew", verify=False).path
    options = {"duration": 0.3, "warmup": 0.0, "batches": [1], "threads": 1}
    names = (f"onnx:{twin}", f"folder:{converted.path}")
    report = aaexport.serve_bench(converted.onnx_path, device="cpu", compare=names, **options)
    assert [(other.name, other.same_answers) for other in report.comparisons] == [(name, True) for name in names]


def test_a_measurement_that_cannot_be_kept_is_shown_all_the_same(cli, converted):
    converted.bench_path.mkdir()  # nothing can be written there, not even by root
    outcome = cli("serve-bench", converted.path, *SHORT, *ALONE, "--json")
    found = json.loads(outcome.out)
    assert (outcome.code, found["valid"]) == (0, True)
    assert any(note.startswith("the measurement is not kept: ") for note in found["notes"])
    assert not list(converted.path.glob(".*"))


def test_a_page_that_cannot_be_written_in_the_end_is_an_error_below_the_result(cli, converted, tmp_path, monkeypatch):
    # It could be written when that was looked at.
    monkeypatch.setattr("aaexport.cli.serve_bench.check_page", lambda *given, **more: None)
    page = tmp_path / "gone" / "report.html"
    outcome = cli("serve-bench", converted.path, *SHORT, *ALONE, "--json", "--report", page)
    assert json.loads(outcome.out)["valid"]
    assert f"{page} cannot be written: No such file or directory" in complaint(outcome, 1)
    assert converted.bench_path.is_file()


@pytest.mark.parametrize("page", ["gone/report.html", "tiny"], ids=["no folder", "a folder"])
def test_a_page_that_cannot_be_written_is_refused_before_anything_is_measured(cli, converted, page):
    outcome = cli("serve-bench", converted.path, *SHORT, *ALONE, "--report", page)
    assert outcome.code in (1, 2)
    assert outcome.out == ""
    assert not converted.bench_path.exists()


def test_a_run_that_other_processes_starved_is_shown_and_ends_with_4(cli, converted, monkeypatch):
    real = MachineWatch.environment
    starved = {"other_load_share": 0.9, "steal_share": 0.0, "idle_share": 0.01}
    monkeypatch.setattr(MachineWatch, "environment", lambda watch: dataclasses.replace(real(watch), **starved))
    outcome = cli("serve-bench", converted.path, *SHORT, *ALONE)
    assert "other processes took 90%: the times are not the model's own" in complaint(outcome, 4)
    assert "INVALID: at least 75% of the CPU must be left to the measurement" in outcome.out
    found = json.loads(converted.bench_path.read_text())
    assert (found["valid"], found["environment"]["other_load_share"]) == (False, 0.9)


# A baseline


@pytest.fixture(scope="module")
def record(converted_once, tmp_path_factory):
    """The text of a valid bench.json of the folder: the time of one measurement for all tests."""
    folder = tmp_path_factory.mktemp("record") / "tiny"
    shutil.copytree(converted_once, folder)
    how = {"device": "cpu", "duration": 0.3, "warmup": 0.02, "threads": 1, "batches": [1]}  # as SHORT and ALONE
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aaexport.pipeline.bench.account.why_no_ratio", lambda environment: None)
        aaexport.serve_bench(folder, **how, compare=(), check=False)
    text = open_folder(folder).bench_path.read_text()
    assert json.loads(text)["valid"]
    return text


@pytest.fixture
def measured(record, converted, monkeypatch):
    """A folder with that record; other processes, which the tests have beside them, decide nothing here."""
    monkeypatch.setattr("aaexport.pipeline.bench.account.why_no_ratio", lambda environment: None)
    converted.bench_path.write_text(record)
    return converted


def slower_by(folder, factor):
    """The folder's bench.json as if the model had been that much faster then."""
    value = json.loads(folder.bench_path.read_text())
    for block in value["blocks"]:
        block["median"] /= factor
        for name in ("scheduled_ns", "issued_ns", "completed_ns"):
            block.pop(name)
    baseline = folder.path.with_name("before.json")
    baseline.write_text(json.dumps(value))
    return baseline


def test_a_real_regression_ends_with_4_and_is_recorded(cli, measured):
    baseline = slower_by(measured, 20)
    outcome = cli("serve-bench", measured.path, *SHORT, *ALONE, "--baseline", baseline, "--max-regression", "5%")
    assert "p50 must be at most 5.0% above that of" in complaint(outcome, 4)
    assert json.loads(measured.bench_path.read_text())["regression"]["is_real"]


def test_a_regression_does_not_replace_the_record_that_it_is_compared_with(cli, measured):
    before = slower_by(measured, 20).read_bytes()
    measured.bench_path.write_bytes(before)
    for _ in range(2):
        outcome = cli("serve-bench", measured.path, *SHORT, *ALONE, "--baseline", measured.bench_path)
        assert outcome.code == 4
    assert measured.bench_path.read_bytes() == before


def test_without_enough_to_tell_there_is_no_verdict_and_no_success(cli, measured, monkeypatch):
    monkeypatch.setattr("aaexport.pipeline.bench.account.why_no_ratio", lambda environment: "others had the CPU")
    outcome = cli("serve-bench", measured.path, *SHORT, *ALONE, "--baseline", slower_by(measured, 1))
    assert complaint(outcome, 4) == "Error: no verdict on a regression: others had the CPU"
    assert "no verdict: others had the CPU" in outcome.out


def test_what_spans_no_change_and_a_large_one_is_no_success_and_replaces_no_record(cli, measured):
    """The baseline's blocks lie on both sides of what is measured now, however noisy that is."""
    value = json.loads(measured.bench_path.read_text())
    for number, block in enumerate(value["blocks"]):
        block["median"] *= 10 if number % 2 else 0.1
        for name in ("scheduled_ns", "issued_ns", "completed_ns"):
            block.pop(name)
    before = json.dumps(value).encode()
    measured.bench_path.write_bytes(before)
    outcome = cli("serve-bench", measured.path, *SHORT, *ALONE, "--baseline", measured.bench_path, "--json")
    found = json.loads(outcome.out)["regression"]
    assert complaint(outcome, 4) == f"Error: no verdict on a regression: {found['unclear']}"
    assert (found["verdict"], found["is_real"]) == ("cannot tell", False)
    assert found["ratio"]["low"] < 1
    assert found["ratio"]["high"] > 2
    assert "measure both longer, with --duration" in found["unclear"]
    assert measured.bench_path.read_bytes() == before


@pytest.mark.slow
def test_a_trace_can_be_measured_against_its_own_record(cli, measured, tmp_path):
    (tmp_path / "trace").write_text("".join(f"{number / 200}\n" for number in range(100)))
    arguments = (*SHORT, "--no-check", "--scenario", "server", "--trace", tmp_path / "trace")
    assert cli("serve-bench", measured.path, *arguments).code == 0
    record = measured.bench_path.rename(tmp_path / "before.json")
    assert "regression" in cli("serve-bench", measured.path, *arguments, "--baseline", record).out


def test_what_became_faster_is_no_regression(cli, measured):
    outcome = cli("serve-bench", measured.path, *SHORT, *ALONE, "--baseline", slower_by(measured, 1 / 20))
    assert outcome.code == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": "aaexport.bench/2"}, "must have the schema aaexport.bench/3, got 'aaexport.bench/2'"),
        ({"model": "another"}, "the baseline's model must be tiny as in this run, got another"),
        ({"threads": 7}, "the baseline's threads must be 1 as in this run, got 7"),
    ],
)
def test_a_baseline_of_something_else_is_refused_before_the_time_is_spent(cli, measured, change, words):
    value = json.loads(measured.bench_path.read_text())
    measured.bench_path.write_text(json.dumps(value | change))
    before = measured.bench_path.read_bytes()
    arguments = (*SHORT, *ALONE, "--duration", "600", "--baseline", measured.bench_path)
    assert words in complaint(cli("serve-bench", measured.path, *arguments), 1)
    assert measured.bench_path.read_bytes() == before


# What a user asks for wrongly

CONTRADICTIONS = {
    "unknown": (("--scenario", "burst"), "--scenario must be one of single-stream, multi-stream, offline, server"),
    "no rate": (
        ("--scenario", "server"),
        "must have exactly one of --rate, --trace and --find-peak, got 'none'",
    ),
    "two rates": (("--scenario", "server", "--rate", "5", "--trace", "x"), "got --rate and --trace"),
    "no bound": (
        ("--scenario", "server", "--find-peak"),
        "--find-peak must have a latency bound (--p99), got",
    ),
    "no server": (("--rate", "5"), "--rate must go with the server scenario, got 'single-stream'"),
    "no unit": (("--p99", "20x"), "--p99 must be like 20ms, got '20x'"),
    "no share": (("--max-regression", "x"), "--max-regression must be like 5%, got 'x'"),
    "no baseline": (("--max-regression", "5%"), "--max-regression must go with --baseline, got 'none'"),
    "no sharing": (("--max-batch", "4"), "--max-batch must go with server, offline or --concurrency"),
    "no arrivals": (("--scenario", "server", "--rate", "5", "--arrivals", "x"), "--arrivals must be one of poisson"),
    "no trace": (("--scenario", "server", "--trace", "nothing"), "--trace must be a file of times, got 'nothing'"),
    "no clients": (("--concurrency", "0"), "--concurrency must be numbers ≥ 1 separated by commas, got '0'"),
    "no rules": (("--rules", "x"), "--rules must be one of quick, mlperf, got 'x'"),
    "no graph": (("--cuda-graph", "--device", "cpu"), "--device must be cuda for --cuda-graph, got 'cpu'"),
    "no buffers": (("--cuda-graph", "--no-iobinding"), "--iobinding must be on with --cuda-graph, got 'off'"),
    "no flush": (("--flush-l2", "--device", "cpu"), "--device must be cuda for --flush-l2, got 'cpu'"),
    "no line": (("--flush-l2", "--scenario", "server", "--rate", "5"), "--flush-l2 must go with single-stream or"),
    "moves": (("--resident", "--concurrency", "4"), "--resident must go with single-stream or multi-stream, without"),
    "no way": (("--compare", "eager:max-autotune"), "--compare must be known names, got 'eager:max-autotune'"),
    "no sweep": (("--batch", "all"), "--batch must be numbers ≥ 1 separated by commas, or sweep, got 'all'"),
    "no weights": (("--compare", "eager,other"), "--compare must be known names, got 'other'"),
    "too many": (
        ("--scenario", "server", "--rate", "1e9"),
        "--rate × --duration must give at most 10,000,000",
    ),
    "bound": (("--p99", "5ms"), "--p99 must go with the server scenario, got 'single-stream'"),
    "no CUDA": (("--nhwc", "--device", "cpu"), "--device must be cuda for --nhwc, got 'cpu'"),
    "no size": (("--dim", "batch"), "--dim must be NAME=N, got 'batch'"),
    "raw": (("--raw",), "--raw goes with --json"),
}


@pytest.mark.parametrize(("arguments", "words"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_what_contradicts_itself_is_a_usage_error(cli, converted, arguments, words):
    outcome = cli("serve-bench", converted.path, *arguments)
    assert words in complaint(outcome, 2)
    assert outcome.out == ""
    assert not converted.bench_path.exists()


@pytest.mark.parametrize(
    ("text", "milliseconds"), [("20ms", 20), ("20", 20), ("0.5s", 500), ("250us", 0.25), ("250 µs", 0.25)]
)
def test_a_time_has_its_unit(text, milliseconds):
    from aaexport.cli.quantities import MILLISECONDS

    assert MILLISECONDS.convert(text, None, None) == pytest.approx(milliseconds)


def test_mlperfs_rules_ask_for_ten_minutes():
    assert (BenchOptions(rules="mlperf").seconds, BenchOptions().seconds) == (600, 6)


@pytest.mark.slow
def test_comparisons_in_the_server_scenario_leave_the_report_alone(converted):
    options = {"scenario": "server", "rate": 200.0, "duration": 0.5, "compare": ("eager",)}
    report = aaexport.serve_bench(converted, device="cpu", warmup=0.0, threads=1, **options)
    (block,) = report.blocks
    assert 50 < len(block) < 200
    assert [len(other.blocks) for other in report.comparisons] == [orders.BLOCKS]


def test_a_rival_that_dies_is_given_up_and_the_rest_is_measured(converted, monkeypatch):
    real = bench_session.Contender.run

    def run(self, *arguments):
        if self._spec.runtime == "torch":
            self._process.kill()
        return real(self, *arguments)

    monkeypatch.setattr(bench_session.Contender, "run", run)
    report = aaexport.serve_bench(converted, device="cpu", duration=0.3, warmup=0.0, threads=1, batches=[1])
    assert report.reasons == ()
    (other,) = report.comparisons
    assert (other.ratio, other.p50) == (None, None)
    assert "ended without an answer: exit code -9" in other.withheld


# How it ends


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupted_measurement_shows_what_was_measured_and_keeps_the_old_record(measured, sent):
    before = measured.bench_path.read_bytes()
    code = (
        "import sys; from aaexport.pipeline.bench import measured as m; real = m.Measured.add\n"
        "def keep(*a): real(*a); print('measured', file=sys.stderr, flush=True)\n"
        "m.Measured.add = keep; from aaexport.cli.main import main; main()"
    )
    command = [sys.executable, "-c", code, "serve-bench", str(measured.path), *SHORT, *ALONE, "--duration", "100"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line == "measured\n":
                break
        process.send_signal(sent)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "INCOMPLETE: interrupted while measuring" in out
    assert err.splitlines()[-1].startswith("Error: interrupted")
    assert measured.bench_path.read_bytes() == before


# The model card


def test_a_measurement_carries_what_its_file_is_and_its_last_verification(cli, converted):
    cli("serve-bench", converted.path, *SHORT, *ALONE)
    value = json.loads(converted.bench_path.read_text())
    parity = json.loads(converted.parity_path.read_text())
    assert value["command"].startswith(f"aaexport serve-bench {converted.path} --device cpu")
    assert value["card"]["operators"] == aaexport.inspect(converted).graph.operators
    assert value["card"]["parity"] == {
        "passed": True, "max_abs_error": parity["max_abs_error"], "date": parity["date"], "same_file": True,
    }  # fmt: skip


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"passed": true}', '{"passed": true, "max_abs_error": "x"}'])
def test_a_record_without_a_verdict_is_none(tmp_path, text):
    (tmp_path / "parity.json").write_text(text)
    assert parity_record(tmp_path / "parity.json", "0" * 64) is None
    assert parity_record(tmp_path / "none.json", "0" * 64) is None


@pytest.mark.parametrize("digest", ["0" * 64, "1" * 64])
def test_a_record_says_whether_it_is_of_that_file(tmp_path, digest):
    value = {"passed": False, "max_abs_error": None, "onnx_sha256": "0" * 64}
    (tmp_path / "parity.json").write_text(json.dumps(value))
    wanted = ParityRecord(passed=False, max_abs_error=None, date=None, same_file=digest == "0" * 64)
    assert parity_record(tmp_path / "parity.json", digest) == wanted
