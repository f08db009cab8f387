import dataclasses
from functools import partial

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from training_recipes import (
    IMAGES,
    Independent,
    Recorder,
    build_independent,
    complaint,
    first_images,
    interrupt,
    one_thread,
    weights,
    write_recipe,
)

from aaexport.data import batches, load_images
from aaexport.errors import ArgumentError, ModelNotFoundError, TrainingError, WeightsError
from aaexport.folder import open_folder
from aaexport.nn import augmented, build_network, memory
from aaexport.nn.augmented import augmented_layers
from aaexport.nn.tiled import attended_in_tiles
from aaexport.training import learner, run, train
from aaexport.training.distributed import Processes
from aaexport.training.learner import Learner
from aaexport.training.options import TrainOptions
from aaexport.weights.safetensors import load_weights, read_tensors

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def quick():
    with one_thread():
        yield


@pytest.fixture
def tiny(tmp_path):
    """Writes a tiny recipe with changes."""
    return lambda **changes: write_recipe(tmp_path / "tiny", **changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with weights, trained for one epoch; for reading only."""
    folder = write_recipe(tmp_path_factory.mktemp("trained"), epochs="1")
    train(folder, device="cpu")
    return folder


def first_batch(recipe, size=64):
    images = load_images(recipe, "train")
    return next(batches(images, recipe, [torch.arange(size)], device=CPU))


# amp


@pytest.mark.parametrize(("amp", "precision"), [("bf16", "bfloat16"), ("fp16", "float16")])
def test_the_result_names_the_precision_that_was_asked_for(tiny, amp, precision):
    assert train(tiny(epochs="1", batch_size="720"), device="cpu", amp=amp).precision == precision


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_products_are_computed_in_the_type_that_was_asked_for(tiny, monkeypatch, amp):
    kinds = []
    forward = nn.Conv2d.forward

    def spy(module, batch):
        output = forward(module, batch)
        kinds.append(output.dtype)
        return output

    monkeypatch.setattr(nn.Conv2d, "forward", spy)
    recipe = tiny().recipe
    Learner(recipe, TrainOptions(amp=amp), Processes(CPU)).step([first_batch(recipe, 8)], 8, 0.1)
    assert set(kinds) == {{"bf16": torch.bfloat16, "fp16": torch.float16}[amp]}


def test_weights_stay_float32_under_autocast(tiny):
    folder = tiny(epochs="1", batch_size="720")
    train(folder, device="cpu", amp="bf16")
    kinds = {tensor.dtype for tensor in read_tensors(folder.weights_path).values() if tensor.is_floating_point()}
    assert kinds == {torch.float32}


@pytest.fixture(scope="module")
def float16_resumed(tmp_path_factory):
    """A folder trained in float16 without a break, and one that was interrupted and resumed; for reading only."""
    path = tmp_path_factory.mktemp("float16")
    whole, broken = (write_recipe(path / name, epochs="2", batch_size="720") for name in ("whole", "broken"))
    # The scale changes at every step, as it does in a long run: weights can tell whether it was kept.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.amp, "GradScaler", partial(torch.amp.GradScaler, init_scale=2.0**10, growth_interval=1))
        train(whole, device="cpu", amp="fp16")
        train(interrupt(broken, stop_after=1, amp="fp16"), device="cpu", amp="fp16", resume=True)
    return whole, broken


def test_a_float16_training_resumes_with_its_loss_scale(float16_resumed):
    whole, broken = (
        torch.load(folder.checkpoint_path, weights_only=True)["learner"]["scaler"] for folder in float16_resumed
    )
    assert whole["scale"] != 2.0**10
    assert broken == whole


def test_a_resumed_float16_training_ends_with_the_weights_of_an_unbroken_one(float16_resumed):
    whole, broken = float16_resumed
    assert weights(broken) == weights(whole)


# compile


class CompilerError(RuntimeError):
    """What torch.compile raises, in the tests."""


@pytest.fixture
def compiled(monkeypatch):
    """Stands for torch.compile, which takes half a minute: what it was given, and what its product does."""
    seen = []

    def compile_to(function):
        monkeypatch.setattr(
            learner, "_compiled", lambda module: (seen.append(module) or function(module), (CompilerError,))
        )
        return seen

    return compile_to


def test_what_is_compiled_is_what_is_trained(tiny, compiled):
    batches_seen = []
    compiled(lambda module: lambda batch: batches_seen.append(len(batch)) or module(batch))
    train(tiny(epochs="1"), device="cpu", compile=True)
    assert sum(batches_seen) == IMAGES


def test_without_compile_nothing_is_compiled(tiny, compiled):
    seen = compiled(lambda module: module)
    train(tiny(epochs="1"), device="cpu")
    assert not seen


def test_a_failing_compiler_ends_the_training_with_the_remedy(tiny, compiled):
    def fail(batch):
        raise CompilerError("no compiler\nand much more")

    compiled(lambda module: fail)
    text = complaint(tiny(), compile=True)
    assert text == "torch.compile must compile the network, but: no compiler; train without --compile"


@pytest.mark.slow
# torch's own compiler imports what torch deprecates.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_compiled_training_comes_to_what_the_plain_one_comes_to(tmp_path):
    options = {"device": "cpu", "epochs": 1}
    plain, compiled = (write_recipe(tmp_path / name, batch_size="719") for name in ("plain", "compiled"))
    losses = [train(plain, **options).epochs[0].loss, train(compiled, **options, compile=True).epochs[0].loss]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert read_tensors(plain.weights_path).keys() == read_tensors(compiled.weights_path).keys()


# channels last


NEEDS_AVX512 = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() == "AVX2",
    reason="torch crashes in channels-last gradients on CPUs without AVX-512, so train refuses them",
)


def test_channels_last_is_refused_where_torch_crashes(tiny, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    with pytest.raises(ArgumentError, match=r"^channels_last must be off .* got 'AVX2'; leave it out"):
        Learner(tiny().recipe, TrainOptions(channels_last=True), Processes(CPU))


@NEEDS_AVX512
def test_channels_last_lays_out_the_weights(tiny):
    taught = Learner(tiny().recipe, TrainOptions(channels_last=True), Processes(CPU))
    kernels = [weight for weight in taught.module.parameters() if weight.dim() == 4 and min(weight.shape[1:]) > 1]
    assert kernels
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in kernels)


@NEEDS_AVX512
def test_channels_last_lays_out_the_images(tiny):
    recipe = tiny().recipe
    taught = Learner(recipe, TrainOptions(channels_last=True), Processes(CPU))
    laid_out = []
    # A copy: torch's convolutions on the CPU have crashed on a part of the channels where it lies.
    taught.forward = lambda batch: laid_out.append(batch) or taught.module(batch[:, :1].clone())
    taught.step([(torch.rand(8, 3, 8, 8), torch.zeros(8, dtype=torch.int64))], 8, 0.1)
    assert laid_out[0].is_contiguous(memory_format=torch.channels_last)


@NEEDS_AVX512
def test_channels_last_changes_the_result_by_rounding_only(tmp_path):
    one, other = (write_recipe(tmp_path / name, epochs="1") for name in ("one", "other"))
    losses = [train(one, device="cpu").epochs[0].loss, train(other, device="cpu", channels_last=True).epochs[0].loss]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


# Accumulation


@pytest.fixture
def independent(monkeypatch):
    """Trains a network in which the parts of a batch and the whole must come to the same."""
    for module in (learner, run):
        monkeypatch.setattr(module, "build_network", build_independent)


@pytest.mark.parametrize("sizes", [(8, 8), (5, 5, 6), (1, 15)], ids=str)
def test_a_step_in_parts_follows_the_gradient_of_the_whole_batch(tiny, independent, sizes):
    recipe = tiny().recipe
    images, labels = first_batch(recipe, 16)
    whole, parted = (Learner(recipe, TrainOptions(accumulate=n), Processes(CPU)) for n in (1, len(sizes)))
    whole.step([(images, labels)], 16, 0.1)
    parted.step(zip(images.split(sizes), labels.split(sizes), strict=True), 16, 0.1)
    assert_close(parted.module.state_dict(), whole.module.state_dict(), rtol=0, atol=1e-6)


def test_a_training_in_parts_comes_to_the_losses_of_the_whole(tmp_path, independent):
    one, other = (write_recipe(tmp_path / name, epochs="2") for name in ("one", "other"))
    losses = [
        [epoch.loss for epoch in train(folder, device="cpu", accumulate=parts).epochs]
        for folder, parts in ((one, 1), (other, 3))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_more_parts_than_a_batch_has_images_are_refused(tiny):
    text = complaint(tiny(batch_size="4"), accumulate=5)
    assert text == "[training] batch_size must be at least processes × --accumulate, 1 × 5, got 4; lower these"


def test_a_rest_that_would_leave_a_part_with_one_image_waits_for_another_epoch(tiny):
    watcher = Recorder()
    size = (IMAGES - 3) // 5  # five batches, and three images that two parts cannot share
    train(tiny(batch_size=str(size)), device="cpu", epochs=1, accumulate=2, watcher=watcher)
    assert watcher.batches == [(1, size)] * 5


def test_a_training_part_too_small_for_any_batch_is_refused_with_the_rule_and_the_remedy(tiny):
    assert complaint(tiny(batch_size="2000"), accumulate=720) == (
        "the training part must have at least 1440 images, 2 for each part of processes × --accumulate, 1 × 720, "
        "got 1438; lower --accumulate, take fewer processes, or add images"
    )


def test_a_training_part_just_large_enough_for_one_batch_is_taken(tiny):
    folder = tiny(batch_size="2000")
    assert len(run.Run(folder, TrainOptions(accumulate=719), Processes(CPU))._plan(1)) == 1


def test_a_single_training_image_is_refused(tiny, monkeypatch):
    monkeypatch.setattr(run, "load_images", first_images(train=1))
    assert complaint(tiny()).startswith("the training part must have at least 2 images, ")


# Memory


@pytest.fixture
def little_memory(monkeypatch):
    monkeypatch.setattr(memory, "whole_memory", lambda: (1, "this machine's"))


@pytest.mark.parametrize("ema", ["", "ema_decay = 0.9"], ids=["weights", "moving average"])
def test_weights_that_attention_in_tiles_never_has_need_no_memory(tiny, little_memory, monkeypatch, ema):
    found = []
    spied = lambda *inputs: found.append(1) or attended_in_tiles(*inputs)  # noqa: E731
    monkeypatch.setattr(augmented, "attended_in_tiles", spied)
    folder = tiny(more=ema)
    begun = run.Run(folder, TrainOptions(), Processes(CPU)).learner
    begun.step([first_batch(folder.recipe)], 64, rate=0.1)
    assert len(found) == len(augmented_layers(begun.result)) > 0


@pytest.mark.parametrize(
    ("decomposition", "options"),
    [("auto", {"amp": "bf16"}), ("auto", {"compile": True}), ("table", {})],
    ids=["amp", "compile", "a decomposition of the recipe"],
)
def test_weights_that_attention_has_at_once_must_fit_the_memory(
    tiny, little_memory, compiled, decomposition, options
):
    compiled(lambda module: module)
    folder = tiny()
    with folder.recipe_path.open("a", encoding="utf-8") as recipe:
        recipe.write(f'\n[export]\ndecomposition = "{decomposition}"\n')
    with pytest.raises(ArgumentError, match=r"size must let the attention of features\.0 fit into this machine's "):
        run.Run(folder, TrainOptions(**options), Processes(CPU))


# Nesterov's momentum


@pytest.mark.parametrize(
    ("changes", "nesterov"),
    [({}, True), ({"more": "nesterov = false"}, False), ({"momentum": "0.0"}, False)],
    ids=["by default", "switched off", "without momentum"],
)
def test_the_momentum_is_nesterovs_unless_the_recipe_says_otherwise(tiny, changes, nesterov):
    taught = Learner(tiny(**changes).recipe, TrainOptions(), Processes(CPU))
    assert taught.optimizer.defaults["nesterov"] is nesterov


# The moving average


@pytest.mark.parametrize("own", [(2.0, 4.0), (3.0, -1.0)], ids=str)
def test_the_average_begins_with_the_first_weights_and_follows_the_next(tiny, own):
    recipe = tiny(more="ema_decay = 0.75").recipe
    taught = Learner(recipe, TrainOptions(), Processes(CPU))
    bias = taught.module.classifier.bias
    for value in own:
        bias.data.fill_(value)
        taught._follow()
    assert_close(taught.result.classifier.bias.data, torch.full((10,), 0.75 * own[0] + 0.25 * own[1]))


def test_the_average_counts_batches_as_the_network_does(tiny):
    folder = tiny(more="ema_decay = 0.9")
    train(folder, device="cpu", epochs=1)
    counts = {int(t) for name, t in read_tensors(folder.weights_path).items() if name.endswith("num_batches_tracked")}
    assert counts == {6}


@pytest.mark.slow
def test_the_average_is_what_is_evaluated_and_saved(tmp_path):
    plain, averaged = (
        write_recipe(tmp_path / name, more=f"ema_decay = {decay}") for name, decay in (("a", 0), ("b", 0.9))
    )
    losses = [train(folder, device="cpu").epochs[-1].loss for folder in (plain, averaged)]
    assert losses[0] == losses[1]  # it follows the steps and does not change them
    assert weights(plain) != weights(averaged)


def test_golden_logits_are_those_of_the_average(tiny):
    folder = tiny(more="ema_decay = 0.9")
    train(folder, device="cpu", epochs=1)
    module = build_network(folder.recipe)
    load_weights(module, folder.weights_path)
    golden = read_tensors(folder.golden_path)
    with torch.no_grad():
        assert_close(module(golden["input"]), golden["logits"], rtol=0, atol=1e-6)


def test_a_resumed_training_goes_on_with_its_average(tmp_path):
    whole, broken = (
        write_recipe(tmp_path / name, more="ema_decay = 0.9", epochs="2") for name in ("whole", "broken")
    )
    train(whole, device="cpu")
    train(interrupt(broken, stop_in=2), device="cpu", resume=True)
    assert weights(broken) == weights(whole)


# Size and initial weights


def test_training_at_another_size_gives_tables_of_that_size(tiny):
    folder = tiny(epochs="1", strides="[1, 2, 1]")
    train(folder, device="cpu", size=(6, 10))
    tables = read_tensors(folder.weights_path)
    assert (len(tables["features.0.rel_height"]), len(tables["features.0.rel_width"])) == (2 * 6 - 1, 2 * 10 - 1)


def test_training_at_another_size_says_so(tiny):
    result = train(tiny(epochs="1"), device="cpu", size=(6, 10))
    assert "trained on images of 6×10, model.toml says 8×8: give convert and verify --size 6 10 too" in result.notes


def test_a_size_below_the_networks_stride_is_refused(tiny):
    with pytest.raises(ArgumentError, match=r"^size: height must be at least 4, the network's stride, got 3; "):
        train(tiny(), device="cpu", size=(3, 8))


@pytest.mark.parametrize(
    "as_given", [lambda folder: folder.path, lambda folder: folder.weights_path, str], ids=["folder", "file", "text"]
)
def test_a_training_begins_with_the_weights_it_is_given(tiny, trained, as_given):
    given = trained.path if as_given is str else trained
    taught = Learner(tiny().recipe, TrainOptions(init=as_given(given)), Processes(CPU))
    assert_close(taught.module.state_dict(), read_tensors(trained.weights_path), rtol=0, atol=0)


def test_weights_of_another_size_are_brought_to_it_with_a_note(tiny, trained):
    watcher = Recorder()
    result = train(tiny(epochs="1"), device="cpu", size=(16, 16), init=trained.path, watcher=watcher)
    assert any("interpolated" in note for note in result.notes)
    assert set(result.notes) <= set(watcher.notes)


def test_weights_of_another_network_are_refused(tiny, trained):
    with pytest.raises(WeightsError, match="does not fit the model"):
        train(tiny(channels="[8, 8, 16]"), device="cpu", init=trained.path)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("nosuch", "`aaexport list` names the zoo's"),
        ("aa_cnn3_digitz", "did you mean 'aa_cnn3_digits'?"),
        ("n" * 300, "`aaexport list` names the zoo's"),
    ],
    ids=["unlike any", "nearly one", "too long a name"],
)
def test_initial_weights_that_are_nowhere_are_refused_by_the_options_name(tiny, name, remedy):
    with pytest.raises(ModelNotFoundError) as refusal:
        train(tiny(), device="cpu", init=name)
    assert str(refusal.value) == (
        f"init must be a safetensors file, a model folder or a zoo name, got '{name}'; {remedy}"
    )


def test_a_training_that_began_with_its_own_weights_resumes_after_they_were_replaced(tiny):
    folder = tiny(epochs="1")
    train(folder, device="cpu")
    interrupt(folder, stop_after=2, epochs=2, init=folder.path)
    folder.weights_path.write_bytes(folder.best_path.read_bytes())
    assert train(folder, device="cpu", epochs=2, init=folder.path, resume=True).resumed


# Notes


def test_the_former_weights_stay_until_the_end_and_the_watcher_is_told(trained, tiny):
    folder = tiny()
    folder.weights_path.write_bytes(weights(trained))
    watcher = Recorder(stop_after=1)
    with pytest.raises(KeyboardInterrupt):
        train(folder, device="cpu", watcher=watcher)
    assert weights(folder) == weights(trained)
    assert watcher.notes == [f"{folder.weights_path} stays the former one until this training ends"]


def test_milestones_that_are_never_reached_are_told(tiny):
    stairs = 'schedule = "step"\nmilestones = [1, 2, 9]'
    assert train(tiny(more=stairs), device="cpu", epochs=2).notes == ("the training ends before the milestones 2, 9",)


def test_a_network_without_a_classifier_is_refused_with_the_remedy(tmp_path):
    folder = write_recipe(tmp_path / "features")
    text = folder.recipe_path.read_text()
    head = text.index("[network]")
    text = (
        text[:head]
        + FEATURES
        + text[text.index("[data]") : text.index("[training]")]
        + text[text.index("seed = 0") + 8 :]
    )
    folder.recipe_path.write_text(text)
    with pytest.raises(TrainingError, match=r"must have a classifier to be trained, got .*; train the same "):
        train(open_folder(folder.path), device="cpu", epochs=3)


FEATURES = """
[network]
family = "resnet"
block = "basic"
blocks = [1]
features = [1]

[input]
channels = 1
height = 8
width = 8
mean = [0.3]
std = [0.4]

"""


# Randomness


class Dropping(Independent):
    """A network with a dropout, and a list of what it dropped."""

    def __init__(self, dropped):
        super().__init__()
        self.dropped = dropped

    def forward(self, batch):
        kept = nn.functional.dropout(torch.ones(4), training=self.training)
        if self.training:
            self.dropped.append(kept.tolist())
        return super().forward(batch)


def test_dropout_is_the_same_at_every_run_and_another_in_every_epoch(tiny, monkeypatch):
    dropped = []
    for module in (learner, run):
        monkeypatch.setattr(module, "build_network", lambda recipe: Dropping(dropped).eval())
    folder = tiny(epochs="2", batch_size="60")
    for _ in range(2):
        train(folder, device="cpu")
    epochs = [dropped[start : start + 24] for start in range(0, 96, 24)]
    assert epochs[:2] == epochs[2:]
    assert epochs[0] != epochs[1]


# The device is looked at every so many steps


@pytest.mark.parametrize("every", [4, 100])
def test_a_loss_that_is_no_number_is_named_exactly_wherever_it_is_looked_at(tiny, monkeypatch, every):
    monkeypatch.setattr(run, "LOOK_EVERY", {"cpu": every})
    monkeypatch.setattr(run, "learning_rate", lambda _, done: 0.01 if done < 1.5 else 1e30)
    text = complaint(tiny())
    assert text.startswith(
        "the loss must be a number, got nan at step 5 of epoch 2; the checkpoint of epoch 1 is kept"
    )


def test_the_watcher_hears_of_all_images_however_seldom_one_looks(tiny, monkeypatch):
    monkeypatch.setattr(run, "LOOK_EVERY", {"cpu": 4})
    watcher = Recorder()
    train(tiny(epochs="1"), device="cpu", watcher=watcher)
    assert watcher.batches == [(1, 4 * 256), (1, IMAGES - 4 * 256)]


@pytest.mark.slow
def test_a_training_has_the_threads_that_it_was_given(tiny, monkeypatch):
    seen, real = [], run.Run.train_epoch

    def watched(self, epoch):
        seen.append(torch.get_num_threads())
        real(self, epoch)

    monkeypatch.setattr(run.Run, "train_epoch", watched)
    before = torch.get_num_threads()
    train(tiny(), device="cpu", epochs=1, threads=before + 1)
    assert (seen, torch.get_num_threads()) == ([before + 1], before)


@pytest.mark.parametrize("threads", [0, 1025])
def test_threads_that_nobody_has_are_refused(threads):
    with pytest.raises(ArgumentError, match="threads must be between 1 and 1024"):
        TrainOptions(threads=threads)


@pytest.mark.parametrize(("share", "lines"), [(0.9, 1), (0.1, 0)])
def test_a_training_that_others_starve_says_so_once(cli, tiny, monkeypatch, share, lines):
    from aaexport.load.machine import MachineWatch

    real = MachineWatch.environment
    shares = {"other_load_share": share, "steal_share": 0.0, "idle_share": 0.0}
    monkeypatch.setattr(MachineWatch, "environment", lambda watch: dataclasses.replace(real(watch), **shares))
    folder = tiny()
    outcome = cli("train", folder.path, "--device", "cpu", "--epochs", "2", "--threads", "1")
    assert outcome.code == 0, outcome.err
    assert folder.training_page_path.read_text(encoding="utf-8").count("Note: others took 90% of the CPU") == lines
    said = [line for line in outcome.err.splitlines() if "of the CPU during this epoch" in line]
    assert len(said) == lines
    assert all(line.startswith("note: others took 90% of the CPU during this epoch: training takes") for line in said)
