import contextlib
import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from training_recipes import IMAGES, Recorder, complaint, first_images, interrupt, one_thread, weights, write_recipe

from aaexport.data import evaluation_batch, load_images, loading
from aaexport.errors import AaexportError, ArgumentError, DataError, ProviderError, TrainingError
from aaexport.folder import ModelFolder, zoo_models
from aaexport.nn import build_network
from aaexport.training import accuracy, learner, learning_rate, run, train
from aaexport.weights.safetensors import load_weights, read_tensors


@pytest.fixture(scope="module", autouse=True)
def quick():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder trained without a break, its result and what its watcher was told; for reading only."""
    folder = write_recipe(tmp_path_factory.mktemp("trained"))
    watcher = Recorder()
    return folder, train(folder.path, device="cpu", watcher=watcher), watcher


@pytest.fixture(scope="module")
def broken_off(tmp_path_factory):
    """A folder whose training was interrupted after the first of three epochs; for reading only."""
    return interrupt(write_recipe(tmp_path_factory.mktemp("broken_off")), stop_after=1)


@pytest.fixture
def unfinished(broken_off, tmp_path):
    """A copy of it that a test may go on with."""
    shutil.copytree(broken_off.path, tmp_path / "unfinished")
    return ModelFolder(tmp_path / "unfinished")


@pytest.fixture
def finished(trained, tmp_path):
    """A copy of the trained folder that a test may spoil."""
    shutil.copytree(trained[0].path, tmp_path / "finished")
    return ModelFolder(tmp_path / "finished")


@pytest.fixture
def tiny(tmp_path):
    """Writes a tiny recipe with changes."""
    return lambda **changes: write_recipe(tmp_path / "tiny", **changes)


def module_of(folder):
    module = build_network(folder.recipe, seed=99)
    load_weights(module, folder.weights_path)
    return module


# What a training leaves


def test_the_log_is_the_result_one_line_an_epoch(trained):
    folder, result, _ = trained
    lines = folder.training_log_path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [vars(epoch) for epoch in result.epochs]


def test_there_is_a_record_for_every_epoch(trained):
    assert [epoch.epoch for epoch in trained[1].epochs] == [1, 2, 3]


def test_training_lowers_the_loss(trained):
    losses = [epoch.loss for epoch in trained[1].epochs]
    assert losses[-1] < losses[0]


def test_batch_normalization_follows_the_batches_of_training_only(trained):
    assert module_of(trained[0]).features[1].num_batches_tracked == 3 * 6


def test_the_watcher_is_told_the_records(trained):
    assert tuple(trained[2].epochs) == trained[1].epochs


def test_the_watcher_is_told_every_batch(trained):
    sizes = [256] * 5 + [IMAGES - 5 * 256]
    assert trained[2].batches == [(epoch, size) for epoch in (1, 2, 3) for size in sizes]


def test_the_rate_of_a_record_is_that_of_the_last_batch(trained):
    folder, result, _ = trained
    wanted = [learning_rate(folder.recipe.training, epoch + 5 / 6) for epoch in range(3)]
    assert [epoch.learning_rate for epoch in result.epochs] == pytest.approx(wanted)


def test_the_test_accuracy_is_that_of_the_saved_weights(trained):
    folder, result, _ = trained
    images = load_images(folder.recipe, "test")
    with torch.no_grad():
        right = module_of(folder)(evaluation_batch(images, folder.recipe)).argmax(1) == images.labels
    assert result.test_accuracy == int(right.sum()) / len(images)


def test_the_best_weights_are_those_of_the_epoch_with_the_highest_test_accuracy(trained):
    folder, result, _ = trained
    module = build_network(folder.recipe)
    load_weights(module, folder.best_path)
    best = max(epoch.test_accuracy for epoch in result.epochs)
    assert accuracy(module, load_images(folder.recipe, "test"), folder.recipe, torch.device("cpu")) == best


def test_golden_inputs_are_the_first_images_of_the_test_part(trained):
    images = evaluation_batch(load_images(trained[0].recipe, "test"), trained[0].recipe)
    assert torch.equal(read_tensors(trained[0].golden_path)["input"], images[:4])


def test_golden_logits_are_what_the_saved_weights_give_for_the_golden_inputs(trained):
    golden = read_tensors(trained[0].golden_path)
    with torch.no_grad():
        assert_close(module_of(trained[0])(golden["input"]), golden["logits"], rtol=0, atol=1e-6)


def test_the_manifest_lists_what_was_trained(trained):
    manifest = json.loads(trained[0].manifest_path.read_text(encoding="utf-8"))
    trained_files = {"weights.safetensors", "best.safetensors", "golden.safetensors", "train.jsonl"}
    assert set(manifest["files"]) == {"model.toml", *trained_files}


def test_on_the_cpu_the_precision_is_float32_whatever_the_recipe_says_of_gpus(trained):
    assert (trained[0].recipe.training.gpu_precision, trained[1].precision) == ("bfloat16", "float32")


def test_the_result_names_the_device_as_it_was_asked_for(trained):
    assert trained[1].device == "cpu"


# The same again


def test_the_same_seed_gives_the_same_weights_wherever_the_global_randomness_stands(trained, tiny):
    folder = tiny()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12345)
        train(folder, device="cpu")
    assert weights(folder) == weights(trained[0])


def test_training_leaves_the_global_randomness_alone(tiny):
    before = torch.get_rng_state()
    train(tiny(), device="cpu", epochs=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_another_seed_gives_other_weights(trained, tiny):
    folder = tiny()
    train(folder, device="cpu", seed=1)
    assert weights(folder) != weights(trained[0])


def test_a_finished_training_can_be_repeated(trained, finished):
    train(finished, device="cpu")
    assert weights(finished) == weights(trained[0])


# Interrupted and resumed


def test_an_interrupted_training_leaves_a_checkpoint_and_the_log_so_far(broken_off):
    assert broken_off.checkpoint_path.is_file()
    assert len(broken_off.training_log_path.read_text(encoding="utf-8").splitlines()) == 1


def test_an_interrupted_training_leaves_no_weights(broken_off):
    assert not broken_off.weights_path.exists()


def test_a_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(trained, unfinished):
    train(unfinished, device="cpu", resume=True)
    assert weights(unfinished) == weights(trained[0])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_training_resumed_from_within_an_epoch_ends_with_the_same_weights(tmp_path, optimizer):
    changes = {"optimizer": f'"{optimizer}"', "epochs": "2", "learning_rate": "0.01"}
    whole, broken = (write_recipe(tmp_path / name, **changes) for name in ("whole", "broken"))
    train(whole, device="cpu")
    train(interrupt(broken, stop_in=2), device="cpu", resume=True)
    assert weights(broken) == weights(whole)


def test_a_resumed_training_ends_with_the_log_of_an_uninterrupted_one(trained, unfinished):
    train(unfinished, device="cpu", resume=True)
    deterministic = ("epoch", "loss", "train_accuracy", "test_accuracy", "test_top5", "learning_rate")
    one, other = (
        [
            {key: json.loads(line)[key] for key in deterministic}
            for line in folder.training_log_path.read_text(encoding="utf-8").splitlines()
        ]
        for folder in (unfinished, trained[0])
    )
    assert one == other


def test_a_training_interrupted_after_its_last_epoch_is_finished_by_resuming(trained, tiny):
    folder = interrupt(tiny(), stop_after=3)
    train(folder, device="cpu", resume=True)
    assert weights(folder) == weights(trained[0])


def test_a_training_interrupted_before_its_weights_were_saved_is_unfinished(tiny):
    assert "holds an unfinished training" in complaint(interrupt(tiny(), stop_after=3))


def test_resuming_rewrites_a_log_that_lags_behind_the_checkpoint(finished):
    finished.training_log_path.unlink()
    train(finished, device="cpu", resume=True)
    assert len(finished.training_log_path.read_text(encoding="utf-8").splitlines()) == 3


def test_an_unfinished_training_is_not_begun_again_but_named_with_the_remedy(unfinished):
    text = complaint(unfinished)
    assert text == (
        f"{unfinished.path} holds an unfinished training; go on with --resume, or delete {unfinished.checkpoint_path}"
    )


@pytest.mark.parametrize("options", [{"epochs": 1}, {"epochs": 2}, {"epochs": 5}, {"seed": 1}], ids=str)
def test_an_unfinished_training_is_not_overwritten_by_another_one(unfinished, options):
    before = unfinished.checkpoint_path.read_bytes()
    complaint(unfinished, **options)
    assert unfinished.checkpoint_path.read_bytes() == before


def test_a_finished_training_can_be_followed_by_a_longer_one(finished):
    assert len(train(finished, device="cpu", epochs=4).epochs) == 4


def test_resuming_without_a_checkpoint_is_refused_with_the_remedy(tiny):
    folder = tiny()
    text = complaint(folder, resume=True)
    assert text == f"{folder.path} has no checkpoint to resume; train without --resume"


def difference(folder, **options):
    """What of the run is said to differ from the checkpoint's."""
    text = complaint(folder, resume=True, **options)
    remedy = "resume with the options and the model.toml that it was begun with, or delete it to begin anew"
    found = re.fullmatch(
        rf"{re.escape(str(folder.checkpoint_path))} belongs to another run: (.+); {re.escape(remedy)}", text
    )
    assert found, text
    return found[1]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"seed": 1}, "[training] seed was not given, is 1"),
        ({"epochs": 4}, "[training] epochs was 3, is 4"),
        ({"size": (9, 8)}, "the image size was 8×8, is 9×8"),
        ({"amp": "bf16"}, "the precision was float32, is bfloat16"),
        ({"accumulate": 2}, "--accumulate was not given, is 2"),
        ({"channels_last": True}, "--channels-last was not given, is True"),
    ],
    ids=str,
)
def test_resuming_with_other_options_is_refused_by_name_with_the_remedy(unfinished, options, named, monkeypatch):
    # Nothing is trained here, so that channels-last does no harm on any CPU.
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert difference(unfinished, **options) == named


def test_resuming_with_other_initial_weights_is_refused(unfinished, trained):
    named = difference(unfinished, init=trained[0].path)
    assert re.fullmatch(r"--init was not given, is [0-9a-f]{12}", named)


def test_resuming_with_another_recipe_of_training_is_refused(unfinished):
    named = difference(write_recipe(unfinished.path, learning_rate="0.01"))
    assert named == "[training] learning_rate was 0.05, is 0.01"


def test_resuming_with_a_data_set_that_has_changed_is_refused(unfinished, monkeypatch):
    monkeypatch.setattr(run, "load_images", first_images(test=358))
    assert difference(unfinished) == "the data set was 1438 + 359 images, is 1438 + 358 images"


def test_a_checkpoint_of_another_architecture_is_refused(unfinished):
    named = difference(write_recipe(unfinished.path, channels="[8, 8, 16]"))
    assert named.startswith("[network], [attention] or [input] was ")


def test_a_checkpoint_whose_tensors_have_other_names_is_refused_in_one_line(unfinished):
    state = torch.load(unfinished.checkpoint_path, weights_only=True)
    state["learner"]["module"]["elsewhere"] = state["learner"]["module"].pop("classifier.bias")
    torch.save(state, unfinished.checkpoint_path)
    text = complaint(unfinished, resume=True)
    assert text.startswith(f"{unfinished.checkpoint_path} must fit the network, but: ")
    assert "\n" not in text


@pytest.mark.parametrize("resume", [True, False], ids=["resume", "anew"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_checkpoint_is_refused_with_the_remedy(unfinished, resume, share):
    path = unfinished.checkpoint_path
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert re.fullmatch(
        rf"{re.escape(str(path))} must be a whole checkpoint, but: .+; delete it",
        complaint(unfinished, resume=resume),
    )


def test_of_torchs_words_on_a_damaged_checkpoint_the_first_sentence_is_repeated(unfinished, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("cannot read archive: no central directory. There is a high likelihood.\nAnd more.")

    monkeypatch.setattr(torch, "load", fail)
    assert complaint(unfinished, resume=True) == (
        f"{unfinished.checkpoint_path} must be a whole checkpoint, "
        "but: cannot read archive: no central directory; delete it"
    )


@pytest.mark.parametrize("content", [b"hello", b".", b"e", b"J\x01", b"X\x01\x00\x00\x00\xe2"], ids=repr)
def test_a_checkpoint_of_garbage_is_refused(unfinished, content):
    unfinished.checkpoint_path.write_bytes(content)
    assert "must be a whole checkpoint" in complaint(unfinished, resume=True)


@pytest.mark.parametrize("content", [{}, [1, 2], torch.zeros(3)], ids=["empty", "list", "tensor"])
def test_a_torch_file_that_is_no_checkpoint_is_refused(unfinished, content):
    torch.save(content, unfinished.checkpoint_path)
    assert str(unfinished.checkpoint_path) in complaint(unfinished, resume=True)


# A loss that is not a number


def test_a_loss_that_is_not_a_number_is_refused_with_its_step_and_the_remedy(tiny):
    text = complaint(tiny(learning_rate="1e30", warmup_epochs="0"))
    assert re.match(
        r"the loss must be a number, got nan at step 2 of epoch 1; .*lower \[training\] learning_rate", text
    )


def test_a_training_that_fails_writes_no_weights(tiny):
    folder = tiny(learning_rate="1e30")
    complaint(folder)
    assert not folder.weights_path.exists()


def test_a_training_that_fails_in_its_first_epoch_speaks_of_no_checkpoint(tiny):
    folder = tiny(learning_rate="1e30")
    text = complaint(folder)
    assert not folder.checkpoint_path.exists()
    assert "checkpoint" not in text


@pytest.fixture
def failed_later(tiny, monkeypatch):
    """A folder whose training fails in its second epoch, and what was complained of."""
    monkeypatch.setattr(run, "learning_rate", lambda training, done: 0.01 if done < 1 else training.learning_rate)
    folder = tiny(learning_rate="1e30")
    return folder, complaint(folder)


def test_a_training_that_fails_later_names_the_checkpoint_that_is_kept(failed_later):
    assert re.search(r"at step \d of epoch 2; the checkpoint of epoch 1 is kept", failed_later[1])


@pytest.fixture
def remedied(failed_later):
    """The folder and the --init that its complaint names, after the rest of the remedy was followed to the letter."""
    words = r"lower \[training\] learning_rate in (.+), delete (.+), and train (.+) again, with --init (.+) to go on "
    recipe, checkpoint, folder, init = re.search(words + "from the best epoch$", failed_later[1]).groups()
    text = Path(recipe).read_text(encoding="utf-8")
    Path(recipe).write_text(text.replace("learning_rate = 1e30", "learning_rate = 0.01"), encoding="utf-8")
    Path(checkpoint).unlink()
    return Path(folder), init


def test_the_remedy_of_a_training_that_fails_later_leads_to_its_end(remedied):
    folder, init = remedied
    assert len(train(folder, device="cpu", init=init).epochs) == 3


def test_a_training_by_that_remedy_resumes_though_it_has_replaced_its_initial_weights(remedied):
    folder, init = remedied
    before = Path(init).read_bytes()
    interrupt(folder, stop_after=1, init=init)
    assert Path(init).read_bytes() != before
    assert train(folder, device="cpu", init=init, resume=True).resumed


def test_a_training_that_fails_later_keeps_the_checkpoint_of_the_epoch_before(failed_later):
    records = torch.load(failed_later[0].checkpoint_path, weights_only=True)["records"]
    assert [record["epoch"] for record in records] == [1]


def test_weights_that_give_no_numbers_are_not_saved(tiny):
    folder = tiny(learning_rate="1e38", warmup_epochs="0", epochs="1", batch_size="2000")
    complaint(folder)  # the loss of the one step is a number, what that step made of the weights is not
    assert not folder.weights_path.exists()


@pytest.mark.parametrize("name", ["features.0.rel_height", "classifier.bias"], ids=["the first", "the last"])
def test_an_epoch_that_ends_with_a_weight_that_is_not_a_number_is_not_saved(tiny, monkeypatch, name):
    modules = []

    def build(recipe):
        modules.append(build_network(recipe))
        return modules[0]

    class Spoiler(Recorder):
        def batch(self, *told):
            super().batch(*told)
            if len(self.batches) == 6:
                modules[0].get_parameter(name).data.view(-1)[0] = math.nan

    monkeypatch.setattr(learner, "build_network", build)
    folder = tiny()
    complaint(folder, watcher=Spoiler())
    assert not folder.checkpoint_path.exists()


def test_a_learning_rate_beyond_float32_is_refused_by_name(tiny):
    with pytest.raises(AaexportError, match="learning_rate"):
        train(tiny(learning_rate="1e60"), device="cpu")


# Train and test part


@pytest.fixture
def images_of_epochs(tiny, monkeypatch):
    """Trains a tiny recipe and lists, epoch by epoch, the images in the order they came, before they are varied."""

    def run(**options):
        images = []

        def spy(batch, *arguments):
            images.extend(image.numpy().tobytes() for image in batch)
            return varied(batch, *arguments)

        varied = loading.varied
        monkeypatch.setattr(loading, "varied", spy)
        train(tiny(), device="cpu", **options)
        return [images[start : start + IMAGES] for start in range(0, len(images), IMAGES)]

    return run


def part(split):
    recipe = zoo_models()["aa_cnn3_digits"].recipe
    return [image.numpy().tobytes() for image in evaluation_batch(load_images(recipe, split), recipe)]


def test_every_epoch_trains_on_every_training_image_once(images_of_epochs):
    assert [sorted(epoch) for epoch in images_of_epochs(epochs=2)] == [sorted(part("train"))] * 2


def test_no_test_image_is_trained_on(images_of_epochs):
    (images,) = images_of_epochs(epochs=1)
    assert not set(images) & set(part("test"))


def test_every_epoch_takes_the_images_in_another_order(images_of_epochs):
    first, second = images_of_epochs(epochs=2)
    assert first != second


def test_another_seed_takes_the_images_in_another_order(images_of_epochs):
    assert images_of_epochs(epochs=1) != images_of_epochs(epochs=1, seed=1)


def test_the_test_part_does_not_change_the_weights(trained, tiny, monkeypatch):
    def swapped(recipe, split, **options):
        images = load_images(recipe, split, **options)
        if split == "test":
            images.pixels.fill_(16)
        return images

    monkeypatch.setattr(run, "load_images", swapped)
    folder = tiny()
    train(folder, device="cpu")
    assert weights(folder) == weights(trained[0])


@pytest.mark.parametrize("batch_size", [IMAGES - 1, 1], ids=["the last one", "every one"])
def test_a_batch_of_one_image_breaks_nothing(tiny, batch_size):
    # Maps of 1×1 position: batch normalization has one value a channel for an image alone.
    folder = tiny(strides="[2, 2, 2]", batch_size=str(batch_size), epochs="1")
    with contextlib.suppress(TrainingError):
        train(folder, device="cpu")


# Refusals


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use CUDA here")
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_gpu_that_is_not_there_is_refused_with_the_reason_and_the_remedy(tiny, device):
    with pytest.raises(ProviderError) as refusal:
        train(tiny(), device=device)
    assert re.fullmatch(
        rf"device must be one that works here, got '{device}': torch .+; use --device cpu", str(refusal.value)
    )


def test_an_unknown_device_is_refused_by_value(tiny):
    with pytest.raises(ArgumentError, match="device must be cpu, cuda or cuda:N, got 'gpu'"):
        train(tiny(), device="gpu")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"seed": 2**64}, "seed must "),
        ({"accumulate": 0}, "accumulate must be at least 1, got 0"),
        ({"amp": "fp8"}, "amp must be bf16 or fp16, got 'fp8'"),
    ],
    ids=["no epoch", "seed below 0", "seed beyond 64 bits", "no part", "an unknown type"],
)
def test_an_argument_out_of_range_is_refused_by_name_and_value(tiny, options, text):
    with pytest.raises(ArgumentError) as refusal:
        train(tiny(), device="cpu", **options)
    assert str(refusal.value).startswith(text)


def test_a_recipe_that_does_not_fit_its_data_is_refused(tiny):
    with pytest.raises(DataError, match=r"\[input\] labels"):
        train(tiny(labels='["0", "1", "2"]'), device="cpu")


def test_the_zoos_own_folder_is_never_trained_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArgumentError, match="model must be a folder to train in, got the zoo's aa_cnn3_digits"):
        train("aa_cnn3_digits")
