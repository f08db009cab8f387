import dataclasses
import json
import re
import typing

import pytest
from training_recipes import Recorder, one_thread, weights, write_plain_recipe, write_recipe

from aaexport.cli.console import show
from aaexport.cli.train import _as_typed
from aaexport.errors import ArgumentError, TrainingError
from aaexport.report.training import comparison_json, comparison_markdown, train_view
from aaexport.training import TrainingComparison, TrainOverrides, TrainResult, compare_training, run, train
from aaexport.training.compare import TimeRatio, TrainedModel, _left_out, time_ratio
from aaexport.training.records import Epoch


@pytest.fixture(scope="module", autouse=True)
def quick():
    with one_thread():
        yield


class Turns(Recorder):
    """Writes down whose epoch it was, in one list of all."""

    def __init__(self, name, turns, stop_at=None):
        super().__init__()
        self.name, self.turns, self.stop_at = name, turns, stop_at

    def epoch(self, record):
        self.turns.append((record.epoch, self.name))
        if (record.epoch, self.name) == self.stop_at:
            raise KeyboardInterrupt


def pair(folder, **changes):
    return write_recipe(folder / "aa", **changes), write_plain_recipe(folder / "conv", **changes)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Two models compared, in which order their epochs were trained, and the folders; for reading only."""
    folders, turns = pair(tmp_path_factory.mktemp("compared")), []
    comparison = compare_training(folders, device="cpu", watcher=lambda name: Turns(name, turns))
    return comparison, turns, folders


# Training in turn


def test_models_take_turns_and_the_order_alternates(compared):
    assert compared[1] == [(1, "aa"), (1, "conv"), (2, "conv"), (2, "aa"), (3, "aa"), (3, "conv")]


def test_each_model_comes_to_the_weights_that_it_comes_to_alone(compared, tmp_path):
    for together, alone in zip(compared[2], pair(tmp_path), strict=True):
        train(alone, device="cpu")
        assert weights(together) == weights(alone)


def test_ratios_are_to_the_first_plain_convolution_network(compared):
    comparison = compared[0]
    assert comparison.baseline == "conv"
    assert [model.ratio is None for model in comparison.models] == [False, True]


def test_without_a_plain_network_ratios_are_to_the_last_model(tmp_path):
    folders = [write_recipe(tmp_path / name, epochs="1") for name in ("one", "two")]
    comparison = compare_training(folders, device="cpu")
    assert (comparison.baseline, comparison.against_convolution) == ("two", False)


def test_the_ratio_is_that_of_the_seconds_of_the_epochs_that_count(compared):
    augmented, plain = (model.result.epochs for model in compared[0].models)
    pairs = [one.seconds / other.seconds for one, other in zip(augmented[1:], plain[1:], strict=True)]
    assert compared[0].models[0].ratio == TimeRatio(sum(pairs) / 2, min(pairs), max(pairs), 2)


def test_a_ratio_is_the_median_of_pairs():
    assert time_ratio([2, 6, 4], [1, 2, 1]) == TimeRatio(3, 2, 4, 3)


@pytest.mark.parametrize(
    ("epochs", "done", "left_out"),
    [
        (2, [0, 0], ()),
        (3, [0, 0], (1,)),
        (9, [4, 4], (1, 5)),
        (9, [4, 5], (1, 5, 6)),
        (9, [9, 9], (1,)),
        (3, [1, 2], ()),
    ],
)
def test_epochs_that_warm_up_or_that_two_calls_timed_do_not_count(epochs, done, left_out):
    assert _left_out(epochs, done) == left_out


def test_an_interrupted_comparison_resumes_to_the_same_weights(compared, tmp_path):
    folders = pair(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        compare_training(folders, device="cpu", watcher=lambda name: Turns(name, [], stop_at=(2, "conv")))
    turns = []
    comparison = compare_training(folders, device="cpu", resume=True, watcher=lambda name: Turns(name, turns))
    assert turns == [(2, "aa"), (3, "aa"), (3, "conv")]
    assert comparison.notes == ("epochs 1 to 2 were timed by an earlier call",)
    assert [weights(folder) for folder in folders] == [weights(folder) for folder in compared[2]]


def test_a_comparison_resumes_though_only_one_model_had_begun(tmp_path):
    folders = pair(tmp_path, epochs="2")
    with pytest.raises(KeyboardInterrupt):
        compare_training(folders, device="cpu", watcher=lambda name: Turns(name, [], stop_at=(1, "aa")))
    comparison = compare_training(folders, device="cpu", resume=True)
    assert [len(model.result.epochs) for model in comparison.models] == [2, 2]


def test_models_of_one_name_are_called_by_their_paths(tmp_path):
    folders = [write_plain_recipe(tmp_path / place / "conv", epochs="1") for place in ("a", "b")]
    comparison = compare_training(folders, device="cpu")
    assert [model.name for model in comparison.models] == [str(folder.path) for folder in folders]


# Refusals


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"epochs": "2"}, "[training] epochs 3 for aa and 2 for conv"),
        ({"batch_size": "128"}, "[training] batch_size 256 for aa and 128 for conv"),
        ({"crop_padding": "2"}, "[data] crop_padding 1 for aa and 2 for conv"),
        ({"height": "9"}, "[input] channels, height and width (1, 8, 8) for aa and (1, 9, 8) for conv"),
    ],
    ids=str,
)
def test_models_with_different_budgets_are_refused_naming_the_first_difference(tmp_path, changes, named):
    folders = [write_recipe(tmp_path / "aa"), write_plain_recipe(tmp_path / "conv", **changes)]
    with pytest.raises(TrainingError) as refusal:
        compare_training(folders, device="cpu")
    assert str(refusal.value) == f"models must be compared under one budget, got {named}; make them equal"


def test_one_model_is_no_comparison(tmp_path):
    with pytest.raises(ArgumentError, match="models must be at least two, got 1"):
        compare_training([write_recipe(tmp_path)], device="cpu")


def test_one_folder_twice_is_refused(tmp_path):
    folder = write_recipe(tmp_path)
    with pytest.raises(ArgumentError, match=r"models must be different folders, got .*; name each once"):
        compare_training([folder, folder.path], device="cpu")


def test_resuming_a_comparison_that_never_began_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="none of the models has a checkpoint to resume; train without --resume"):
        compare_training(pair(tmp_path), device="cpu", resume=True)


def test_an_unfinished_training_is_refused_before_any_model_is_trained(tmp_path):
    augmented, plain = pair(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(plain, device="cpu", watcher=Recorder(stop_after=1))
    with pytest.raises(TrainingError, match="holds an unfinished training"):
        compare_training([augmented, plain], device="cpu")
    assert not augmented.checkpoint_path.exists()


def test_the_model_that_fails_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "learning_rate", lambda _, done: 1e30)
    with pytest.raises(TrainingError, match=r"^aa: the loss must be a number, got nan at step 2 of epoch 1"):
        compare_training(pair(tmp_path), device="cpu")


# The table


def result_of(seconds, accuracy):
    epochs = tuple(Epoch(n, 1.0, 0.5, accuracy, 0.99, 0.1, 100.0, seconds) for n in (1, 2, 3))
    return TrainResult("folder", epochs, "cpu", "float32", classes=10, notes=("a note",))


@pytest.fixture
def comparison():
    """Three epochs of 30 s and of 20 s."""
    augmented = TrainedModel("aa", 12345, True, result_of(30.0, 0.75), 30.0, TimeRatio(1.5, 1.25, 1.75, 2))
    plain = TrainedModel("convolution", 2345, False, result_of(20.0, 0.5), 20.0, None)
    return TrainingComparison((augmented, plain), "convolution", "digits", 64, 10, (1,))


def test_the_table_in_markdown(comparison):
    assert comparison_markdown(comparison) == TABLE


TABLE = """\
| model       | parameters |  top-1 |  top-5 | epochs | training time | time per epoch | AA ÷ conv time ratio |
| ----------- | ---------: | -----: | -----: | -----: | ------------: | -------------: | -------------------: |
| aa          |     12,345 | 75.00% | 99.00% |      3 |    1 min 30 s |         30.0 s |     1.50 (1.25–1.75) |
| convolution |      2,345 | 50.00% | 99.00% |      3 |     1 min 0 s |         20.0 s |                    1 |

digits, batch 64, cpu, float32; accuracy of the last epoch on the test part.
Trained in turn, epoch by epoch; times are of training and evaluation; ratio to convolution: median of 2 pairs of \
epochs (lowest–highest), without epoch 1.
Note: a note."""


def test_five_classes_have_no_top_5(comparison):
    five = TrainingComparison(comparison.models, "convolution", "five", 64, 5, ())
    assert "top-5" not in comparison_markdown(five)


@pytest.mark.parametrize(("classes", "shown"), [(5, False), (6, True)])
def test_one_training_shows_its_top_5_where_there_are_more_than_five_classes(capsys, classes, shown):
    show(train_view(dataclasses.replace(result_of(1.0, 0.75), classes=classes)))
    assert bool(re.search(r"^test top-5 +99\.00% *$", capsys.readouterr().out, re.MULTILINE)) == shown


def test_the_json_has_the_figures_of_the_table(comparison):
    value = comparison_json(comparison)
    assert value["schema"] == "aaexport.training-comparison/1"
    assert value["models"][0]["time_ratio"] == {"median": 1.5, "lowest": 1.25, "highest": 1.75, "pairs": 2}
    assert [model["training_seconds"] for model in value["models"]] == [90.0, 60.0]


# The command


def test_the_command_prints_the_table_alone_on_stdout(cli, tmp_path):
    pair(tmp_path, epochs="1")
    outcome = cli("train", "aa", "conv", "--compare", "--device", "cpu")
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("| model | parameters |")
    assert "aa  epoch   1/1  loss " in outcome.err
    assert "conv  epoch   1/1  loss " in outcome.err


def test_the_command_prints_json_alone_on_stdout(cli, tmp_path):
    pair(tmp_path, epochs="1")
    outcome = cli("train", "aa", "conv", "--compare", "--device", "cpu", "--json")
    assert json.loads(outcome.out)["schema"] == "aaexport.training-comparison/1"


def test_out_is_the_parent_of_the_compared_models_copies(cli, tmp_path):
    pair(tmp_path, epochs="1")
    outcome = cli("train", "aa", "conv", "--compare", "--device", "cpu", "--out", "copies")
    assert outcome.code == 0, outcome.err
    assert sorted(path.parent.name for path in (tmp_path / "copies").glob("*/weights.safetensors")) == ["aa", "conv"]


def test_models_of_one_name_are_refused_below_out_before_either_is_copied(cli, tmp_path):
    for place in ("p", "q"):
        write_plain_recipe(tmp_path / place / "x")
    outcome = cli("train", "p/x", "q/x", "--compare", "--out", "both")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err == (
        "Error: models must have names of their own to lie below --out both, got 'x' 2 times; "
        "rename a folder, or leave out --out\n"
    )
    assert not (tmp_path / "both").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("resnet50", "wrn10_1_digits", "--compare"), "models must be compared under one budget"),
        (("conv_cnn3_digits", "conv_cnn3_digits", "--compare"), "models must be different folders"),
        (("resnet50", "resnet50_features", "--compare"), "resnet50_features must have a classifier to be trained"),
        (("resnet50_features",), "resnet50_features must have a classifier to be trained"),
        (("resnet50", "--size", 3, 8), "size: height must be at least 32"),
    ],
    ids=["budgets", "twice", "one without a classifier", "no classifier", "size"],
)
def test_what_the_recipes_let_refuse_leaves_no_copy(cli, tmp_path, arguments, words):
    outcome = cli("train", *arguments)
    assert words in outcome.err
    assert not list(tmp_path.iterdir())


def test_the_lines_of_an_epoch_tell_the_top_5(cli, tmp_path):
    pair(tmp_path, epochs="1")
    outcome = cli("train", "conv", "--device", "cpu")
    assert re.search(r"^epoch   1/1 .*  test \S+%  top-5 \S+%  .* images/s$", outcome.err, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("a", "b"), "one model is trained at a time, got 2; --compare trains several in turn"),
        (("a", "--compare"), "--compare needs at least two models"),
    ],
    ids=["several", "one"],
)
def test_the_number_of_models_must_fit(cli, arguments, words):
    outcome = cli("train", *arguments)
    assert outcome.code == 2
    assert words in outcome.err


def test_how_to_go_on_repeats_every_option():
    given = {
        "device": "cpu", "epochs": 3, "seed": 0, "size": (6, 10), "init": "my weights", "amp": "bf16",
        "compile": True, "channels_last": True, "accumulate": 2, "threads": 4, "resume": True, "download": False,
        "skip_bad": True,
    }  # fmt: skip
    assert " ".join(_as_typed(given)) == (
        "--device cpu --epochs 3 --seed 0 --size 6 10 --init 'my weights' --amp bf16 --compile --channels-last "
        "--accumulate 2 --threads 4 --resume --skip-bad"
    )
    assert set(given) == set(typing.get_type_hints(TrainOverrides))


def test_how_to_go_on_leaves_out_what_was_not_given():
    assert _as_typed({"device": None, "seed": None, "accumulate": 1, "compile": False}) == []
