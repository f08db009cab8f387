"""serve-bench --threads and --launches: who is launched when, what is taken, and what tuning.json has to say."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest

from aaexport.errors import FolderError, MeasurementError
from aaexport.load.machine import MachineWatch
from aaexport.pipeline.bench import launches
from aaexport.pipeline.bench.launches import launch_in_turns, numbers_to_try
from aaexport.pipeline.bench.options import LAUNCHES, BenchOptions
from aaexport.pipeline.bench.samples import Samples
from aaexport.pipeline.bench.threads import as_tuned, swept
from aaexport.pipeline.bench.worker_models import WorkerSpec

SPEC = WorkerSpec("onnxruntime", "model.onnx", "samples.npy", "cpu", 7, session={"spinning": False})
SAMPLES = Samples({"x": np.zeros((4, 1), np.float32)}, batched=True, fixed_batch=None, name="numbers")
SHORT = ("--device", "cpu", "--duration", "0.1", "--warmup", "0", "--batch", "1", "--compare", "none", "--no-check")


@dataclass
class Scripted:
    """A worker of so many threads, whose launches take the milliseconds of a script, one after the other."""

    spec: WorkerSpec

    def __enter__(self):
        self.diary.append(self.spec.threads)
        return self

    def __exit__(self, *error):
        self.ended.append(self.spec.threads)

    def first_query(self, batch):
        self.batches.add(batch)

    def block(self, batch, plan):
        self.plans.append((batch, plan))
        milliseconds = self.script[self.spec.threads].pop(0)
        if isinstance(milliseconds, Exception):
            raise milliseconds
        return np.full(20, milliseconds)


@pytest.fixture
def script(monkeypatch):
    """Milliseconds of every launch, by threads; what was launched is in `Scripted.diary`."""
    for name, value in (("script", {}), ("diary", []), ("ended", []), ("batches", set()), ("plans", [])):
        monkeypatch.setattr(Scripted, name, value, raising=False)
    monkeypatch.setattr(launches, "Contender", Scripted)
    return Scripted.script


def nothing(step, share):
    pass


def launched(threads, count, **changes):
    order = {"batch": 3, "warmup": 0.1, "duration": 2.0, "tick": nothing, **changes}
    return launch_in_turns(SPEC, threads, count, **order)


def test_settings_take_turns_and_who_begins_changes(script):
    script |= {1: [1.0] * 3, 2: [1.0] * 3, 4: [1.0] * 3}
    found = launched((1, 2, 4), 3)
    assert Scripted.diary == Scripted.ended == [1, 2, 4, 2, 4, 1, 4, 1, 2]
    assert [len(setting.launches) for setting in found.settings] == [3, 3, 3]
    assert found.batch == 3


def test_each_launch_has_its_share_of_the_duration_and_queries_for_a_median(script):
    script[2] = [1.0] * 4
    launched((2,), 4)
    (batch, plan), *_ = Scripted.plans
    assert (batch, plan.duration, plan.warmup, plan.min_queries) == (3, 0.5, 0.1, 7)
    assert Scripted.batches == {3}


def test_progress_names_the_launch_and_rises(script):
    script |= {1: [1.0] * 2, 2: [1.0] * 2}
    steps = []
    launched((1, 2), 2, tick=lambda step, share: steps.append((step, share)))
    assert steps[:2] == [("launch 1 of 2, 1 thread", 0.0), ("launch 1 of 2, 2 threads", 0.25)]
    assert [share for _, share in steps] == [0.0, 0.25, 0.5, 0.75]


def test_a_process_that_dies_ends_the_sweep_and_leaves_none_behind(script):
    script |= {1: [1.0, MeasurementError("the process ended without an answer")], 2: [1.0, 1.0]}
    with pytest.raises(MeasurementError, match="ended without an answer"):
        launched((1, 2), 2)
    assert sorted(Scripted.diary) == sorted(Scripted.ended)


def test_where_others_have_the_cpu_nothing_is_named(script, monkeypatch):
    real = MachineWatch.environment
    monkeypatch.setattr(MachineWatch, "environment", lambda watch: replace(real(watch), other_load_share=0.6))
    script |= {1: [1.0] * 2, 2: [2.0] * 2}
    found = launched((1, 2), 2)
    assert (found.named, found.withheld) == (None, "other processes took 60% of the CPU; stop them and measure again")


@pytest.mark.parametrize(
    ("cores", "tried"), [(1, (1,)), (2, (1, 2)), (3, (1, 2, 3)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8))]
)
def test_what_is_tried_by_default_doubles_up_to_the_cores(monkeypatch, cores, tried):
    monkeypatch.setattr(launches, "usable_cores", lambda: cores)
    assert numbers_to_try() == tried


# What serve-bench makes of it


def test_the_rest_of_the_report_is_of_the_setting_that_is_named(script):
    script |= {1: [1.0] * LAUNCHES, 2: [0.95, 0.95, 1.8, 1.8, 1.8]}
    settled = swept(BenchOptions(threads=(1, 2), device="cpu"), SPEC, SAMPLES, nothing)
    assert (settled.options.threads, settled.launches.named.threads) == (1, 1)
    assert settled.notes == ("the other figures are of 1 thread; `aaexport tune` stores what it measures so",)


def test_without_a_name_the_first_is_taken_and_it_is_said(script, monkeypatch):
    monkeypatch.setattr(launches, "why_no_ratio", lambda environment: "others had the CPU")
    script |= {1: [1.0] * 2, 2: [1.0] * 2}
    settled = swept(BenchOptions(threads=(2, 1), launches=2, device="cpu"), SPEC, SAMPLES, nothing)
    assert settled.options.threads == 2
    note = "no number of threads is named, so the other figures are of 2 threads: others had the CPU"
    assert settled.notes == (note,)


@pytest.mark.slow
def test_several_numbers_are_launched_and_compared_by_real_processes(cli, converted):
    outcome = cli("serve-bench", converted.path, *SHORT, "--threads", "1,2", "--launches", "2", "--json")
    value = json.loads(outcome.out)
    assert [setting["threads"] for setting in value["launches"]["settings"]] == [1, 2]
    assert all(len(setting["launches"]) == 2 for setting in value["launches"]["settings"])
    assert value["threads"] == value["launches"]["named"]
    recorded = json.loads(converted.bench_path.read_text())["launches"]
    assert min(min(launch["latencies"]) for launch in recorded["settings"][0]["launches"]) > 0


@pytest.mark.slow
def test_launches_are_compared_with_launches(cli, converted, monkeypatch):
    """A baseline whose launches lie far apart cannot be told from, however steady the blocks of one process are."""
    arguments = ("serve-bench", converted.path, *SHORT, "--threads", "1", "--launches", "4")
    cli(*arguments)
    value = json.loads(converted.bench_path.read_text())
    (setting,) = value["launches"]["settings"]
    for number, launch in enumerate(setting["launches"]):
        launch["median"] *= 10 if number % 2 else 0.1
    before = converted.path.with_name("before.json")
    before.write_text(json.dumps(value | {"valid": True}))
    found = json.loads(cli(*arguments, "--baseline", before, "--json").out)
    assert (found["regression"]["verdict"], found["regression"]["ratio"]["pairs"]) == ("cannot tell", 16)


# What tuning.json stores


@pytest.fixture
def stored(converted):
    """Writes a tuning.json of this machine that names one thread, but for what is changed."""
    machine = MachineWatch().environment()

    def write(cores=machine.cores, **changes):
        value = {
            "schema": "aaexport.tuning/1", "provider": "CPUExecutionProvider", "threads": 1,
            "launches": {"batch": 1, "withheld": None}, "environment": {"cpu": machine.cpu, "cores": cores},
            **changes,
        }  # fmt: skip
        converted.tuning_path.write_text(json.dumps(value))
        return converted

    return write


def taken(folder, **options):
    settled = as_tuned(BenchOptions(**{"device": "cpu", **options}), folder, SAMPLES)
    return settled.options.threads, settled.notes


def test_what_was_measured_is_taken_and_it_is_said(stored):
    said = ("1 thread, as tuning.json measured; --threads N takes others",)
    assert taken(stored()) == (1, said)


def test_what_the_user_named_when_tuning_is_taken_for_any_batch(stored):
    folder = stored(launches=None, threads=2)
    threads, (note,) = taken(folder, scenario="multi-stream")
    assert threads == 2
    assert note.startswith("2 threads, as tuning.json has it")


def test_what_is_asked_for_beats_it(stored):
    assert taken(stored(), threads=3) == (3, ())
    assert taken(stored(), threads=(1, 3)) == ((1, 3), ())


def test_a_tuning_that_leaves_threads_to_the_runtime_says_nothing(stored):
    assert taken(stored(threads=None)) == (None, ())


def test_a_tuning_that_could_not_name_a_number_says_nothing_whatever_it_timed_the_layers_with(stored):
    assert taken(stored(launches={"batch": 1, "withheld": "others had the CPU"})) == (None, ())


def test_without_a_tuning_nothing_is_taken(converted):
    assert taken(converted) == taken(None) == (None, ())


ASIDE = {
    "machine": ({"environment": {"cpu": "another", "cores": 2}}, {}, "it is for another, and this is "),
    "cores": ({"cores": 99}, {}, "it is for 99 cores, and these are "),
    "batch": ({}, {"scenario": "multi-stream"}, "it is for 1 image a query, and these have 8"),
    "device": ({"provider": "CUDAExecutionProvider"}, {}, "it is for cuda, and this is cpu"),
    "sessions": ({}, {"scenario": "offline", "max_batch": 1, "workers": 2}, "2 sessions share the cores"),
}


@pytest.mark.parametrize(("changes", "options", "reason"), ASIDE.values(), ids=ASIDE)
def test_threads_that_do_not_hold_here_are_left_aside_and_it_is_said(stored, changes, options, reason):
    threads, (note,) = taken(stored(**changes), **options)
    assert threads is None
    assert note.startswith(f"the threads of tuning.json are left aside: {reason}")


@pytest.mark.parametrize("threads", [0, True, 1.5, "1", 10**9])
def test_a_number_that_tune_did_not_write_is_refused_with_the_remedy(stored, threads):
    with pytest.raises(
        FolderError, match=r"must be as `aaexport tune` wrote it, but: its threads is .*; delete it, or"
    ):
        taken(stored(threads=threads))


def test_serve_bench_takes_what_is_stored(cli, stored):
    value = json.loads(cli("serve-bench", stored().path, *SHORT, "--json").out)
    assert value["threads"] == 1
    assert any(note.startswith("1 thread, as tuning.json measured") for note in value["notes"])


# What is refused


WRONG = {
    "none": (("--threads", "0"), "--threads must be a whole number of at least 1, or several separated by commas"),
    "words": (("--threads", "1,x"), "--threads must be a whole number of at least 1, or several separated by commas"),
    "twice": (("--threads", "1,1"), "--threads must be a whole number, or different ones in a sequence, got (1, 1)"),
    "many": (("--threads", "1,5000"), "--threads must be between 1 and 1024, got (1, 5000)"),
    "one launch": (("--threads", "1,2", "--launches", "1"), "--launches must be at least 2 with several --threads"),
    "too many": (("--launches", "1000"), "--launches must be between 1 and 100, got 1000"),
    "server": (
        ("--scenario", "server", "--rate", "5", "--threads", "1,2"),
        "--threads must be one number, but in single-stream and multi-stream, got (1, 2)",
    ),
    "offline": (
        ("--scenario", "offline", "--launches", "3"),
        "--launches must go with single-stream or multi-stream, got 'offline'",
    ),
    "baseline": (
        ("--baseline", "x.json", "--threads", "1,2"),
        "--threads must be one number with --baseline, which is of one, got (1, 2)",
    ),
}


@pytest.mark.parametrize(("arguments", "words"), WRONG.values(), ids=WRONG)
def test_what_contradicts_itself_is_refused_before_anything_is_done(cli, converted, arguments, words):
    outcome = cli("serve-bench", converted.path, *arguments)
    assert outcome.code == 2
    assert words in outcome.err
    assert not converted.bench_path.exists()


def test_several_numbers_have_several_launches_and_one_number_has_one():
    assert BenchOptions(threads=(1, 2)).launches_each == LAUNCHES
    assert BenchOptions().launches_each == BenchOptions(threads=2).launches_each == 1
