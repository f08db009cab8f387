"""`tune`: what is tried, who wins, what is kept, and what `convert` makes of it."""

import copy
import io
import json
import re
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from folders import edited, files_of, tiny_folder
from onnx import numpy_helper
from outcomes import error_of
from rich.console import Console
from torch import nn

import aaexport
from aaexport.errors import ArgumentError, FolderError, MeasurementError, ParityError, ProviderError, RunnerError
from aaexport.folder import checkout
from aaexport.nn import AugmentedConv2d
from aaexport.nn.choice import MAX_BLOCKS, AttentionSizes, Choice
from aaexport.pipeline.export.plan import unmeasured
from aaexport.pipeline.export.tuned import read_tuning
from aaexport.pipeline.subject.subject import write_random_weights
from aaexport.pipeline.tune import layer_contest
from aaexport.pipeline.tune.layer_contest import ROUNDS, Conditions, LayerContest, candidates
from aaexport.pipeline.tune.threads import SettledThreads
from aaexport.pipeline.tune.tune import _most_frequent, distinct_layers
from aaexport.report.tuning import tuning_json, tuning_view
from aaexport.results import Candidate, TunedLayer
from aaexport.runners.ort import best_device

SKEW, TABLE, FOLD, FUSED = (Choice(name) for name in ("skew", "table", "fold", "fused"))


def sizes(height, width=None, heads=4, **changes):
    return AttentionSizes(height, width or height, dkh=16, dvh=8, num_heads=heads, **changes)


# What is tried


SEVERAL = [sizes(1), sizes(2, 3), sizes(7, heads=8), sizes(32), sizes(64), sizes(16, relative=False)]


@pytest.mark.parametrize("opset", [20, 23])
@pytest.mark.parametrize("shape", SEVERAL, ids=str)
def test_what_the_cost_model_takes_is_always_tried(shape, opset):
    assert unmeasured(shape, opset, 4) in candidates(shape, opset, 4)


@pytest.mark.parametrize(("opset", "tried"), [(22, False), (23, True)])
def test_one_operator_is_tried_where_the_opset_has_it(opset, tried):
    assert any(choice.decomposition == "fused" for choice in candidates(sizes(8), opset, 4)) == tried


def test_the_papers_own_way_is_tried_as_the_baseline():
    assert SKEW in candidates(sizes(8), 20, 4)


def test_without_relative_tables_there_is_one_way_only():
    assert {choice.decomposition for choice in candidates(sizes(8, relative=False), 20, 4)} == {"fold"}


@pytest.mark.parametrize("shape", SEVERAL, ids=str)
def test_the_candidates_are_few_and_different(shape):
    tried = candidates(shape, 23, 4)
    assert len(tried) == len(set(tried)) <= 17


@pytest.mark.parametrize("shape", SEVERAL, ids=str)
def test_no_candidate_has_more_blocks_than_queries_or_than_a_graph_should_hold(shape):
    assert all(1 <= choice.blocks <= min(shape.positions, MAX_BLOCKS) for choice in candidates(shape, 23, 64))


def test_more_images_are_tried_in_more_blocks():
    def most(images):
        return max(choice.blocks for choice in candidates(sizes(32), 20, images))

    assert most(4) > most(1)


# What is one layer


def test_layers_whose_attention_has_the_same_sizes_are_one():
    def layer(in_channels, side, stride):
        return AugmentedConv2d(in_channels, 8, dk=8, dv=4, num_heads=2, height=side, width=side, stride=stride)

    groups = distinct_layers(nn.Sequential(layer(3, 8, 2), layer(8, 4, 1), layer(8, 8, 1)))
    assert [list(layers) for layers in groups.values()] == [["0", "1"], ["2"]]


def test_of_layers_that_are_one_the_most_frequent_kind_is_timed():
    wide, narrow = (AugmentedConv2d(c, 8, dk=8, dv=4, num_heads=2, height=4, width=4) for c in (16, 3))
    assert _most_frequent({"a": narrow, "b": wide, "c": copy.deepcopy(wide)}) is wide


# One layer's contest, with contenders whose times are written down


@dataclass
class Script:
    """What each contender answers: milliseconds, something else at first or in its turns, a wrong file."""

    milliseconds: dict[str, float]
    first: dict[str, list[float] | Exception]
    later: dict[str, Exception]
    wrong: set[str]
    asked: list[str]
    running: int = 0


class ScriptedContender:
    script: Script

    def __init__(self, spec):
        self.name = Path(spec.model).stem.removesuffix("_1")
        self.has_looked = False

    def __enter__(self):
        self.script.running += 1
        return self

    def __exit__(self, *error):
        self.script.running -= 1

    def peak_memory(self, batch):
        self.has_looked = True
        return 1000

    def block(self, batch, plan):
        if self.has_looked and self.name in self.script.first:
            return answer(self.script.first[self.name])
        if not self.has_looked:
            self.script.asked.append(self.name)
            if self.name in self.script.later:
                return answer(self.script.later[self.name])
        return answer([self.script.milliseconds[self.name]] * 5)


def answer(latencies):
    if isinstance(latencies, Exception):
        raise latencies
    return np.array(latencies)


INPUT_SHAPE = (3, 4, 3)


@pytest.fixture(scope="module")
def layer():
    torch.manual_seed(0)
    return AugmentedConv2d(3, 8, dk=8, dv=4, num_heads=2, height=4, width=3)


@pytest.fixture(scope="module")
def exports(layer, tmp_path_factory):
    """The layer without its convolution in each decomposition, each exported once, and one of them made wrong."""
    folder = tmp_path_factory.mktemp("exports")
    module = copy.deepcopy(layer)
    module.conv = None
    for name in ("skew", "table", "fold"):
        path = folder / f"{name}.onnx"
        aaexport.convert(module, path, input_shape=INPUT_SHAPE, decomposition=name, verify=False)
    model = onnx.load(folder / "fold.onnx")
    projection = next(tensor for tensor in model.graph.initializer if "projection.weight" in tensor.name)
    projection.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(projection) * np.float32(1.1), projection.name))
    onnx.save(model, folder / "wrong.onnx")
    return folder


@pytest.fixture
def script(monkeypatch, exports):
    """Contenders that answer by a script; `fold` is what the cost model takes."""
    script = Script({"skew": 1.5, "table": 1.2, "fold": 1.3}, {}, {}, set(), [])

    def write(module, path, **options):
        name = "wrong" if module.decomposition in script.wrong else module.decomposition
        shutil.copy(exports / f"{name}.onnx", path)

    monkeypatch.setattr(ScriptedContender, "script", script, raising=False)
    monkeypatch.setattr(layer_contest, "Contender", ScriptedContender)
    monkeypatch.setattr(layer_contest, "candidates", lambda *_: (SKEW, TABLE, FOLD))
    monkeypatch.setattr(layer_contest, "convert", write)
    return script


@pytest.fixture
def contest(layer, tmp_path):
    conditions = Conditions(opset=20, images=2, device="cpu", threads=1, duration=0.1, seed=0)
    return lambda: LayerContest(layer, conditions, tmp_path).run(("the.layer",), lambda step, share: None)


def candidate(tuned, choice):
    (found,) = (one for one in tuned.candidates if one.choice == choice)
    return found


def test_the_fastest_is_chosen(script, contest):
    tuned = contest()
    assert (tuned.chosen, tuned.by_cost_model) == (TABLE, FOLD)
    assert tuned.ratio.median == pytest.approx(1.3 / 1.2)


def test_what_is_no_faster_beyond_doubt_yields_to_the_cost_model(script, contest):
    script.milliseconds["table"] = 1.29
    tuned = contest()
    assert (tuned.chosen, tuned.rival) == (FOLD, TABLE)


def test_the_incumbent_is_what_a_file_without_a_tuning_has_at_its_own_opset(script, layer, tmp_path, monkeypatch):
    monkeypatch.setattr(layer_contest, "candidates", lambda *_: (SKEW, TABLE))
    conditions = Conditions(opset=23, images=2, device="cpu", threads=1, duration=0.1, seed=0, untuned_opset=20)
    tuned = LayerContest(layer, conditions, tmp_path).run(("the.layer",), lambda step, share: None)
    assert (tuned.by_cost_model, candidate(tuned, FOLD).failure) == (FOLD, None)


def test_every_candidate_is_inside_the_parity_bound(script, contest):
    assert all(one.failure is None and one.max_abs_error < 1e-5 for one in contest().candidates)


def test_the_fastest_is_not_chosen_if_it_leaves_the_parity_bound(script, contest):
    script.wrong.add("table")
    tuned = contest()
    assert tuned.chosen == FOLD
    assert candidate(tuned, TABLE).failure.startswith("largest error must be at most")
    assert "table" not in script.asked


def test_a_cost_models_choice_that_leaves_the_parity_bound_is_not_taken_either(script, contest):
    script.wrong.add("fold")
    tuned = contest()
    assert (tuned.chosen, tuned.ratio) == (TABLE, None)


def test_if_all_leave_the_parity_bound_there_is_nothing_to_choose(script, contest):
    script.wrong.update(script.milliseconds)
    with pytest.raises(
        ParityError, match=r"^no decomposition of the\.layer is inside the parity bound; fold: largest"
    ):
        contest()


def test_what_cannot_run_is_left_out_with_its_reason(script, contest):
    script.first["table"] = MeasurementError("out of memory")
    tuned = contest()
    assert (tuned.chosen, candidate(tuned, TABLE).failure) == (FOLD, "out of memory")


def test_what_dies_in_its_turn_is_left_out_with_its_reason(script, contest):
    script.later["table"] = RunnerError("out of memory")
    tuned = contest()
    assert (tuned.chosen, candidate(tuned, TABLE).failure) == (FOLD, "out of memory")


@pytest.mark.parametrize(("when", "words"), [("first", "could be run"), ("later", "ran to the end")])
def test_if_none_runs_the_measurement_fails_with_a_reason(script, contest, when, words):
    getattr(script, when).update({name: MeasurementError("out of memory") for name in script.milliseconds})
    with pytest.raises(MeasurementError, match=rf"^no decomposition of the\.layer {words}; fold: out of memory"):
        contest()


def test_a_provider_that_does_not_work_is_no_fault_of_a_candidate(script, contest):
    script.first["skew"] = ProviderError("no GPU here")
    with pytest.raises(ProviderError, match=r"^no GPU here$"):
        contest()


def test_what_is_clearly_slower_is_dropped_after_its_first_block(script, contest):
    script.milliseconds["skew"] = 2.5
    dropped = candidate(contest(), SKEW)
    assert (dropped.rounds, dropped.milliseconds) == ((), 2.5)


@pytest.mark.parametrize("looks", [{"skew": [1.5, 9.0, 9.0]}, {"fold": [0.1, 1.3, 1.3]}], ids=["slow", "lucky"])
def test_a_busy_machine_at_first_look_drops_nobody(script, contest, looks):
    script.first |= looks
    assert len(candidate(contest(), SKEW).rounds) == ROUNDS


def test_the_cost_models_choice_takes_its_turns_however_slow_it_is(script, contest):
    script.milliseconds["fold"] = 9.0
    assert len(candidate(contest(), FOLD).rounds) == ROUNDS


def test_contenders_take_turns_and_who_begins_changes(script, contest):
    contest()
    there, back = ["skew", "table", "fold"], ["fold", "table", "skew"]
    assert script.asked == (there + back) * (ROUNDS // 2)


# The whole way, with real processes


@pytest.fixture(scope="module")
def one_layer(tmp_path_factory):
    """A tiny folder with one augmented layer and no weights."""
    folder = tiny_folder(tmp_path_factory.mktemp("tune") / "tiny")
    return folder


@pytest.fixture(scope="module")
def tuned(one_layer):
    """(folder, result, steps): a real and short tuning of two candidates."""
    steps = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer_contest, "candidates", lambda *_: (TABLE, FOLD))
        patch.setattr(layer_contest, "WARMUP", 0.0)
        result = aaexport.tune(
            one_layer.path, device="cpu", batch=2, threads=1, duration=0.06,
            tick=lambda step, share: steps.append((step, share)),
        )  # fmt: skip
    return one_layer, result, steps


@pytest.fixture
def stored(tuned):
    return json.loads(tuned[0].tuning_path.read_text())


@pytest.mark.slow
def test_every_candidate_has_its_rounds(tuned):
    assert [len(one.rounds) for one in tuned[1].layers[0].candidates] == [ROUNDS, ROUNDS]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the count is Linux's")
def test_memory_is_read_from_the_process(tuned):
    assert all(10_000 < one.peak_memory < 2**28 for one in tuned[1].layers[0].candidates)


def test_the_result_says_what_ran(tuned):
    result = tuned[1]
    assert (result.label, result.provider) == ("onnxruntime CPU", "CPUExecutionProvider")
    assert (result.opset, result.batch, result.threads) == (20, 2, 1)
    assert result.layers[0].paths == ("features.3",)


def test_the_result_says_that_the_weights_were_random(tuned):
    assert tuned[1].notes == ("no weights yet: random ones were timed, which take as long",)


def test_tuning_gives_the_folder_no_weights(tuned):
    assert not tuned[0].weights_path.exists()


def test_the_file_holds_the_choice_and_every_raw_latency(stored):
    (layer,) = stored["layers"]
    assert stored["schema"] == "aaexport.tuning/1"
    assert layer["chosen"] in [{"decomposition": name, "blocks": 1} for name in ("table", "fold")]
    assert all(len(one["rounds_ms"]) == ROUNDS and min(map(min, one["rounds_ms"])) > 0 for one in layer["candidates"])


def test_the_file_says_with_what_it_was_measured(stored):
    assert (stored["device"], stored["opset"], stored["batch"], stored["threads"]) == ("onnxruntime CPU", 20, 2, 1)
    assert stored["environment"]["cpu"]
    assert "torch" in stored["tools"]


def test_the_file_holds_no_path(tuned):
    assert str(tuned[0].path.parent) not in tuned[0].tuning_path.read_text()


def test_the_manifest_lists_the_tuning(tuned):
    assert "tuning.json" in json.loads(tuned[0].manifest_path.read_text())["files"]


def test_the_json_for_a_terminal_leaves_the_raw_latencies_out(tuned):
    (layer,) = tuning_json(tuned[1], raw=False)["layers"]
    assert all("rounds_ms" not in one and one["median"] > 0 for one in layer["candidates"])


def test_progress_names_the_attention_and_rises(tuned):
    assert tuned[2][0][0] == "attention 1 of 1, 4×4, 2 heads, dkh 20, dvh 1: first look at table"
    shares = [share for _, share in tuned[2]]
    assert (shares[0], shares) == (0, sorted(shares))
    assert shares[-1] < 1


def test_the_table_shows_time_memory_and_the_choice(tuned):
    chosen = next(line for line in printed(tuned[1]) if line.endswith("chosen"))
    figures = r"+\d+\.\d+ ms +\d+\.\d+ – \d+\.\d+ +(\d+\.\d MB|–) +\d\.\de-\d\d "
    assert re.match(rf"{tuned[1].layers[0].chosen} {figures}", chosen)


def test_the_table_says_why_one_was_not_to_be_chosen(tuned):
    (layer,) = tuned[1].layers
    failed = replace(layer.candidates[0], rounds=(), failure="out of memory")
    result = replace(tuned[1], layers=(replace(layer, candidates=(failed, layer.candidates[1])),))
    assert any(line.endswith("out of memory") for line in printed(result))


def test_what_was_not_measured_is_shown_as_not_known(tuned):
    (layer,) = tuned[1].layers
    unknown = Candidate(SKEW, failure="out of memory")
    (line,) = (
        line for line in printed(replace(tuned[1], layers=(replace(layer, candidates=(unknown,)),))) if "skew" in line
    )
    assert line.split() == ["skew", "–", "–", "–", "–", "out", "of", "memory"]


def printed(result):
    console = Console(file=io.StringIO(), width=110)
    console.print(tuning_view(result))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_what_is_stored_is_what_convert_reads(tuned):
    (layer,) = tuned[1].layers
    read = read_tuning(tuned[0].tuning_path)
    assert (read.opset, read.batch, read.choices) == (20, 2, {layer.sizes: layer.chosen})
    assert read.device == f"onnxruntime CPU, {tuned[1].environment.cpu}"


# On a GPU, where opsets have kernels of their own


class Probe:
    """A session on CUDA that only tells where it runs."""

    label, provider = "onnxruntime CUDA", "CUDAExecutionProvider"

    def __init__(self, *arguments, **options):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


@pytest.fixture
def on_gpu(one_layer, tmp_path, monkeypatch):
    """(winner, options) → the folder, the tuning, and under which conditions its layer was timed."""
    folder, asked = checkout(one_layer.path, tmp_path / "tiny"), []

    def tune(winner, **options):
        def contests(groups, conditions, tick):
            asked.append(conditions)
            ((size, layers),) = groups.items()
            return (TunedLayer(size, tuple(layers), (), winner, FOLD, None, None),)

        monkeypatch.setattr("aaexport.pipeline.tune.tune._contests", contests)
        monkeypatch.setattr("aaexport.pipeline.tune.tune.OrtRunner", Probe)
        return folder, aaexport.tune(folder.path, device="cuda", threads=1, **options), asked[-1]

    return tune


@pytest.mark.parametrize(("winner", "opset", "words"), [
    (FUSED, 23, "opset 23 by measurement: a layer is best as the operator Attention"),
    (FOLD, 20, "opset 20 by measurement: no layer is best as the operator Attention"),
])  # fmt: skip
def test_the_measurement_decides_the_opset(on_gpu, winner, opset, words):
    _, result, conditions = on_gpu(winner)
    assert (conditions.opset, conditions.untuned_opset) == (23, 20)
    assert (result.opset, result.timed_opset, result.notes[0]) == (opset, 23, words)


@pytest.mark.parametrize(("winner", "opset"), [(FUSED, 23), pytest.param(FOLD, 20, marks=pytest.mark.slow)])
def test_convert_takes_the_opset_that_the_measurement_decided(on_gpu, winner, opset):
    folder, _, _ = on_gpu(winner)
    write_random_weights(folder)
    done = aaexport.convert(folder, target="cuda", verify=False)
    assert (done.opset, done.decomposition) == (opset, str(winner))


@pytest.mark.parametrize("opset", [20, 23])
def test_an_opset_that_is_named_is_kept_and_it_is_said_what_was_not_looked_at(on_gpu, opset):
    _, result, conditions = on_gpu(FOLD, opset=opset)
    assert conditions.opset == conditions.untuned_opset == result.opset == opset
    assert result.notes[0].startswith(f"opset {opset} was named, and {43 - opset}, ")
    assert "float16" in result.notes[1]


# The command, and what is refused


@pytest.fixture
def quick(script, layer, monkeypatch):
    """`aaexport tune` with contenders that answer by a script, and a network of the scripted layer alone.

    Threads have tests of their own (`test_threads.py`), and are left to the runtime here.
    """
    monkeypatch.setattr("aaexport.pipeline.tune.tune.settled_threads", lambda *arguments: SettledThreads(None))
    monkeypatch.setattr(
        "aaexport.pipeline.tune.tune.distinct_layers", lambda module: {layer.sizes: {"the.layer": layer}}
    )
    return script


def test_the_command_prints_the_table_and_where_it_is_stored(cli, one_layer, quick, tmp_path):
    outcome = cli("tune", one_layer.path, "--out", tmp_path / "tiny", "--device", "cpu")
    assert outcome.code == 0
    assert "table instead of fold, the cost model's choice: it is 1.08 × as fast" in outcome.out
    assert f"stored in {tmp_path}/tiny/tuning.json: `aaexport convert` takes these choices" in outcome.out


def test_the_command_prints_json(cli, one_layer, quick, tmp_path):
    outcome = cli("tune", one_layer.path, "--out", tmp_path / "tiny", "--device", "cpu", "--json")
    value = json.loads(outcome.out)
    assert (value["schema"], value["model"]) == ("aaexport.tuning/1", "tiny")
    assert value["layers"][0]["chosen"] == {"decomposition": "table", "blocks": 1}


def test_if_all_leave_the_parity_bound_the_exit_code_says_so_and_nothing_is_stored(cli, one_layer, quick, tmp_path):
    quick.wrong.update(quick.milliseconds)
    outcome = cli("tune", one_layer.path, "--out", tmp_path / "tiny", "--device", "cpu")
    assert error_of(outcome, 3).startswith("no decomposition of the.layer is inside the parity bound; ")
    assert not list(tmp_path.glob("tiny/.*"))


@pytest.mark.parametrize(("export", "images"), [("", 4), ("[export]\nbatch = 3\n", 3)], ids=["dynamic", "fixed"])
def test_the_batch_is_the_recipes_or_a_few_images(one_layer, quick, tmp_path, export, images):
    folder = checkout(one_layer.path, tmp_path / "tiny")
    edited(folder, "[training]", f"{export}[training]")
    assert aaexport.tune(folder.path, device="cpu").batch == images


def test_a_recipe_that_names_a_decomposition_is_told_of(one_layer, quick, tmp_path):
    folder = checkout(one_layer.path, tmp_path / "tiny")
    edited(folder, "[training]", '[export]\ndecomposition = "skew"\n[training]')
    note = aaexport.tune(folder.path, device="cpu").notes[-1]
    assert note == 'model.toml has decomposition = "skew": `convert` uses the tuning with --decomposition auto only'


WRONG = {
    "opset": (("--opset", "99"), "opset must be between 18 and 25, got 99"),
    "device": (("--device", "tpu"), "device must be cpu, cuda or cuda:N, got 'tpu'"),
    "batch": (("--batch", "0"), "--batch must be a whole number of at least 1, got '0'"),
    "too large a batch": (("--batch", "1000000"), "batch must be between 1 and 65536, got 1000000"),
    "threads": (("--threads", "100000"), "threads must be between 1 and 1024, got 100000"),
    "no duration": (("--duration", "0"), "duration must be above 0 seconds, got 0.0"),
    "no end": (("--duration", "inf"), "--duration must be like 6s, got 'inf'"),
    "no number": (("--duration", "nan"), "--duration must be like 6s, got 'nan'"),
}


@pytest.mark.parametrize(("options", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_option_is_refused_before_anything_is_copied(cli, tmp_path, options, words):
    assert words in error_of(cli("tune", "aa_cnn3_digits", *options), 2)
    assert not list(tmp_path.iterdir())


def test_a_network_without_attention_has_nothing_to_tune(cli):
    error = error_of(cli("tune", "conv_cnn3_digits", "--device", "cpu"), 2)
    assert error == "model must have augmented layers to tune, got 'conv_cnn3_digits, which has none'"


def test_the_zoo_itself_is_not_tuned():
    with pytest.raises(FolderError, match=r"^aa_cnn3_digits must be copied out of the zoo to be tuned"):
        aaexport.tune("aa_cnn3_digits")


def test_a_size_that_the_network_cannot_take_is_refused(one_layer):
    with pytest.raises(ArgumentError, match=r"^size: height must be at least 2"):
        aaexport.tune(one_layer, size=(1, 1), device="cpu")


def test_cuda_where_there_is_none_is_refused_before_anything_is_timed(cli, one_layer):
    if best_device() == "cuda":
        pytest.skip("CUDA works here")
    before = files_of(one_layer)
    assert "--device cpu" in error_of(cli("tune", one_layer.path, "--device", "cuda"), 5)
    assert files_of(one_layer) == before


@pytest.mark.parametrize("step", ["first look", "round 3"])
def test_an_interrupted_tuning_leaves_the_folder_as_it_was_and_no_process(one_layer, quick, step):
    def interrupt(name, share):
        if step in name:
            raise KeyboardInterrupt

    before = files_of(one_layer)
    with pytest.raises(KeyboardInterrupt):
        aaexport.tune(one_layer, device="cpu", tick=interrupt)
    assert files_of(one_layer) == before
    assert quick.running == 0
