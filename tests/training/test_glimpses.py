"""What a training tells whoever follows it: results so far, and where a layer looks, at no cost to the training."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from training_recipes import Recorder, first_images, one_thread, weights, write_plain_recipe, write_recipe

from aaexport.data import evaluation_batch
from aaexport.nn import attention_weights, build_network
from aaexport.training import compare_training, glimpses, run, train
from aaexport.training.checkpoint import GLIMPSES, read_checkpoint
from aaexport.training.distributed import Processes
from aaexport.training.glimpses import Onlooker, looked_at
from aaexport.training.options import TrainOptions
from aaexport.weights.safetensors import load_weights

load = first_images(train=192, test=64)
CHANGES = {"epochs": "2", "batch_size": "96"}


@pytest.fixture(scope="module", autouse=True)
def quick():
    with one_thread(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "load_images", load)
        yield


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """A folder that was trained without a break, and what its follower was told; for reading only."""
    told = []
    folder = write_recipe(tmp_path_factory.mktemp("followed"), **CHANGES)
    train(folder, device="cpu", on_epoch=told.append)
    return folder, told


@pytest.fixture
def tiny(tmp_path):
    return write_recipe(tmp_path / "tiny", **CHANGES)


def same(one, other):
    """Whether two courses hold the same."""
    first, second = one.glimpses, other.glimpses
    return [each.epoch for each in first] == [each.epoch for each in second] and all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for a, b in zip(first, second, strict=True)
        for name in ("weights", "classes", "probabilities")
    )


def test_a_follower_is_told_what_it_has_come_to_after_every_epoch(followed):
    folder, told = followed
    assert [len(result.epochs) for result in told] == [1, 2]
    assert {(result.folder, result.planned, result.dataset) for result in told} == {(folder.path, 2, "digits")}
    assert [[each.epoch for each in result.attention.glimpses] for result in told] == [[0, 1], [0, 1, 2]]


def test_the_last_look_is_that_of_the_saved_weights_at_the_middle_of_the_map(followed):
    folder, told = followed
    course, images = told[-1].attention, load(folder.recipe, "test")
    first = [images.labels.tolist().index(label) for label in dict.fromkeys(images.labels.tolist())][:3]
    module = build_network(folder.recipe)
    load_weights(module, folder.weights_path)
    batch = evaluation_batch(images, folder.recipe, torch.tensor(first))
    seen = attention_weights(module, batch)["features.0"][:, :, 2, 2]
    with torch.no_grad():
        shares = module(batch).softmax(1)
    last = course.glimpses[-1]
    np.testing.assert_allclose(last.weights, seen, atol=1e-6)
    np.testing.assert_allclose(last.probabilities, shares.max(1).values, atol=1e-6)
    assert last.classes.tolist() == shares.argmax(1).tolist()
    assert (course.layer, course.num_heads, course.query) == ("features.0", 2, (2, 2))
    assert course.labels == tuple(str(images.labels[number].item()) for number in first)
    assert np.array_equal(course.images[..., 0], (images.pixels[first, 0] * (255 / images.white)).round())


def test_who_follows_changes_nothing_of_the_training(followed, tiny):
    train(tiny, device="cpu")
    assert weights(tiny) == weights(followed[0])
    assert GLIMPSES not in read_checkpoint(tiny.checkpoint_path)


def test_a_resumed_training_goes_on_with_what_was_seen(followed, tiny):
    told = []
    with pytest.raises(KeyboardInterrupt):
        train(tiny, device="cpu", watcher=Recorder(stop_after=1), on_epoch=told.append)
    assert [len(result.epochs) for result in told] == [1], "told before the watcher, whom Ctrl-C hits"
    train(tiny, device="cpu", resume=True, on_epoch=told.append)
    assert [len(result.epochs) for result in told] == [1, 1, 2]
    assert same(told[-1].attention, followed[1][-1].attention)


def test_a_training_that_was_begun_unseen_is_seen_from_then_on(tiny):
    told = []
    with pytest.raises(KeyboardInterrupt):
        train(tiny, device="cpu", watcher=Recorder(stop_after=1))
    train(tiny, device="cpu", resume=True, on_epoch=told.append)
    assert [result.attention and len(result.attention.glimpses) for result in told] == [None, 1]


def test_of_a_network_without_attention_nothing_is_seen(tmp_path):
    told = []
    train(write_plain_recipe(tmp_path / "plain", **CHANGES), device="cpu", on_epoch=told.append)
    assert [result.attention for result in told] == [None, None]


def test_both_of_a_comparison_are_told(tmp_path):
    told, few = [], CHANGES | {"epochs": "1"}
    pair = write_plain_recipe(tmp_path / "conv", **few), write_recipe(tmp_path / "aa", **few)
    compare_training(pair, device="cpu", on_epoch=told.append)
    assert [result.folder.name for result in told] == ["conv", "aa"]
    assert [result.attention is not None for result in told] == [False, True]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda patch: patch.setattr(glimpses, "MOST_BYTES", 100), "the network must have a layer whose attention"),
        (lambda patch: patch.setattr(glimpses, "outputs_and_attention", lambda *_: 1 / 0), "division by zero"),
    ],
)
def test_what_cannot_be_seen_is_said_once_and_ends_nothing(tiny, monkeypatch, spoil, said):
    spoil(monkeypatch)
    watcher, told = Recorder(), []
    result = train(tiny, device="cpu", watcher=watcher, on_epoch=told.append)
    (note,) = (note for note in watcher.notes if note.startswith("attention is not drawn: "))
    assert said in note
    assert note in result.notes
    assert [result.attention for result in told] == [None, None]


def test_the_last_layer_that_tells_something_and_is_not_too_large_is_looked_at(tiny, monkeypatch):
    """The first map is 4 × 4, the others 2 × 2."""
    layers = dict(glimpses.augmented_layers(build_network(tiny.recipe)))
    coarse = {name: layers[name] for name in ("features.3", "features.6")}
    assert glimpses._last(layers)[0] == "features.0"
    assert glimpses._last(coarse)[0] == "features.6"
    monkeypatch.setattr(glimpses, "LEAST_POSITIONS", 4)
    assert glimpses._last(layers)[0] == "features.6"
    assert layers["features.0"].sizes.logits > layers["features.6"].sizes.logits
    monkeypatch.setattr(glimpses, "LEAST_POSITIONS", 16)
    monkeypatch.setattr(glimpses, "MOST_BYTES", 4 * layers["features.6"].sizes.logits)
    assert glimpses._last(layers)[0] == "features.6"


def test_only_the_first_process_tells(tiny):
    images = load(tiny.recipe, "train"), load(tiny.recipe, "test")
    for rank, told in ((0, print), (1, None)):
        process = Processes(torch.device("cpu"), rank=rank)
        assert run.Run(tiny, TrainOptions(device="cpu"), process, images=images, on_epoch=print).on_epoch is told


@pytest.mark.parametrize("state", [[{}], [{"epoch": "x"}], [1]], ids=repr)
def test_a_checkpoint_with_other_glimpses_is_refused(tiny, state):
    onlooker = Onlooker(tiny.recipe, load(tiny.recipe, "test"))
    with pytest.raises((KeyError, TypeError, ValueError)):
        onlooker.load_state(state)


@pytest.mark.parametrize("epochs", [1, 2, 7, 8, 9, 30, 90, 1000])
def test_few_epochs_are_looked_at_the_first_and_the_last_among_them(epochs):
    chosen = sorted(looked_at(epochs))
    assert len(chosen) <= 9
    assert chosen[:2] == [0, 1]
    assert chosen[-1] == epochs
    gaps = np.diff(chosen)
    assert all(gaps[1:] >= gaps[:-1])


def test_a_result_that_was_followed_is_as_good_as_one_that_was_not(followed):
    result = followed[1][-1]
    assert dataclasses.replace(result, attention=None) == result
    assert "attention" not in json.dumps(result.to_dict())
