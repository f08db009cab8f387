"""`tune` and threads: what is tried, what is taken for the layers and stored, and what serve-bench finds of it."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from folders import tiny_folder
from torch import nn

import aaexport
from aaexport.errors import ArgumentError
from aaexport.load.launches import settle_threads
from aaexport.nn.choice import AttentionSizes, Choice
from aaexport.pipeline.bench.launches import numbers_to_try
from aaexport.pipeline.tune import threads as tuned
from aaexport.pipeline.tune.options import TuneOptions
from aaexport.pipeline.tune.threads import numbers_of, settled_threads
from aaexport.report.tuned import tuned_threads
from aaexport.results import Candidate, TunedLayer

FAST, STEADY, UNSTEADY = [1.0] * 3, [1.1] * 3, [1.0, 1.9, 1.9]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny folder without weights."""
    return tiny_folder(tmp_path_factory.mktemp("threads") / "tiny")


@pytest.fixture
def sweep(monkeypatch):
    """Launches by a script instead of processes, and what they were asked for."""
    asked = {}

    def launch(spec, numbers, launches, **order):
        asked.update(order, spec=spec, numbers=tuple(numbers), launches=launches)
        asked["samples"] = np.load(spec.samples).shape
        order["tick"]("launch 1 of 3, 1 thread", 0.5)
        rounds = {number: [np.full(20, ms) for ms in asked["script"][number]] for number in numbers}
        return settle_threads(rounds, order["batch"], asked.get("withheld"))

    monkeypatch.setattr(tuned, "launch_in_turns", launch)
    monkeypatch.setattr(tuned, "convert", lambda module, path, **options: asked.update(options, path=path))
    return asked


def settled(folder, sweep, device="cpu", tick=lambda step, share: None, **options):
    return settled_threads(nn.Identity(), folder.recipe, TuneOptions(**options), device, tick)


def test_by_default_what_is_tried_doubles_up_to_the_cores():
    assert numbers_of(TuneOptions(), "cpu") == numbers_to_try()


def test_on_cuda_threads_are_the_runtimes_unless_some_are_named():
    assert numbers_of(TuneOptions(), "cuda:1") == ()
    assert numbers_of(TuneOptions(threads=(1, 4)), "cuda:1") == (1, 4)


def test_a_number_that_the_user_names_is_taken_without_a_launch(folder, sweep):
    found = settled(folder, sweep, threads=3)
    assert (found.threads, found.launches, "spec" in sweep) == (3, None, False)


def test_one_core_needs_no_launch(folder, sweep, monkeypatch):
    monkeypatch.setattr(tuned, "numbers_to_try", lambda: (1,))
    assert settled(folder, sweep).launches is None


def test_the_setting_that_is_fast_and_steady_is_taken(folder, sweep):
    sweep["script"] = {1: STEADY, 2: UNSTEADY}
    found = settled(folder, sweep, threads=(1, 2), launches=3, duration=0.5, seed=4)
    assert (found.threads, found.notes) == (1, ())
    assert (sweep["numbers"], sweep["launches"], sweep["duration"]) == ((1, 2), 3, 0.5)
    assert sweep["batch"] == 1  # of one image, as serve-bench asks them
    assert sweep["samples"][1:] == folder.recipe.input.shape
    assert sweep["opset"] == folder.recipe.export.opset


def test_a_batch_that_is_asked_for_is_that_of_the_launches(folder, sweep):
    sweep["script"] = {1: STEADY, 2: FAST}
    settled(folder, sweep, threads=(1, 2), batch=32)
    assert (sweep["batch"], sweep["samples"][0]) == (32, 32)


def test_where_others_had_the_cpu_threads_are_left_to_the_runtime_and_it_is_said(folder, sweep):
    sweep |= {"script": {1: STEADY, 2: FAST}, "withheld": "others had the CPU"}
    found = settled(folder, sweep, threads=(1, 2))
    assert (found.threads, found.notes) == (None, ("threads are left to the runtime: others had the CPU",))
    assert found.launches is not None


# The whole way


@pytest.fixture
def contests(monkeypatch):
    """The layers' contests, whose conditions are written down and whose winner is known."""
    seen = []
    sizes, fold = AttentionSizes(4, 4, dkh=20, dvh=1, num_heads=2), Choice("fold")
    layer = TunedLayer(sizes, ("features.3",), (Candidate(fold),), fold, fold, None, None)

    def contest(groups, conditions, tick):
        seen.append(conditions)
        tick("attention 1 of 1", 0.5)
        return (layer,)

    monkeypatch.setattr("aaexport.pipeline.tune.tune._contests", contest)
    return seen


def test_the_layers_are_timed_with_what_was_taken_and_it_is_stored(folder, sweep, contests, tmp_path):
    shutil.copytree(folder.path, tmp_path / "tiny")
    sweep["script"] = {1: STEADY, 2: UNSTEADY}
    steps = []
    result = aaexport.tune(
        tmp_path / "tiny", device="cpu", threads=(1, 2), tick=lambda step, share: steps.append((step, share))
    )
    assert [conditions.threads for conditions in contests] == [result.threads] == [1]
    value = json.loads((tmp_path / "tiny/tuning.json").read_text())
    assert (value["threads"], value["launches"]["named"], value["launches"]["count"]) == (1, 1, 3)
    assert len(value["launches"]["settings"][0]["launches"][0]["latencies"]) == 20
    found = tuned_threads(tmp_path / "tiny/tuning.json")
    assert (found.threads, found.batch, found.target) == (1, 1, "cpu")
    assert found.why_not("cpu", 1, result.environment) is None
    assert [step for step, _ in steps] == ["writing the network", "launch 1 of 3, 1 thread", "attention 1 of 1"]
    assert [share for _, share in steps] == pytest.approx([0.0, 0.1, 0.6])
    text = str(result)
    assert "fast and steady" in text
    assert "`aaexport convert` takes these choices, and `aaexport serve-bench` 1 thread" in text


def test_launches_that_differ_are_a_warning(folder, sweep, contests, tmp_path):
    shutil.copytree(folder.path, tmp_path / "tiny")
    sweep["script"] = {1: [1.0, 2.0, 1.0], 2: [1.0, 3.0, 1.0]}
    warnings = aaexport.tune(tmp_path / "tiny", device="cpu", threads=(1, 2)).warnings
    assert any(warning.startswith("1 thread: p50 is 1 ms in one launch and 2 ms in another") for warning in warnings)


def test_without_launches_nothing_is_said_of_them(folder, sweep, contests, tmp_path):
    shutil.copytree(folder.path, tmp_path / "tiny")
    result = aaexport.tune(tmp_path / "tiny", device="cpu", threads=2)
    assert (result.threads, result.launches) == (2, None)
    assert json.loads((tmp_path / "tiny/tuning.json").read_text())["launches"] is None
    assert "launches in turns" not in str(result)


@pytest.mark.slow
def test_a_whole_network_is_written_and_launched(folder):
    """By real processes: the network as convert writes it, with as many launches as were asked for."""
    torch.manual_seed(0)
    recipe = folder.recipe
    steps = []
    module = aaexport.build_model(str(folder.path))
    options = TuneOptions(threads=(1, 2), launches=2, duration=0.1)
    found = settled_threads(module, recipe, options, "cpu", lambda step, share: steps.append(step))
    assert [len(setting.launches) for setting in found.launches.settings] == [2, 2]
    assert min(float(setting.p50) for setting in found.launches.settings) > 0
    assert steps[0] == "writing the network"
    assert len(steps) == 5


WRONG = {
    "twice": ({"threads": (2, 2)}, "threads must be a whole number, or different ones in a sequence, got (2, 2)"),
    "none": ({"threads": ()}, r"threads must be a whole number, or different ones in a sequence, got ()"),
    "a word": ({"threads": "2"}, "threads must be a whole number, or different ones in a sequence, got '2'"),
    "no thread": ({"threads": 0}, "threads must be at least 1, got 0"),
    "one launch": ({"launches": 1}, "launches must be between 2 and 100, got 1"),
}


@pytest.mark.parametrize(("options", "text"), WRONG.values(), ids=WRONG)
def test_a_wrong_option_is_refused_by_name_rule_and_value(options, text):
    with pytest.raises(ArgumentError) as refusal:
        replace(TuneOptions(), **options).check()
    assert str(refusal.value) == text
