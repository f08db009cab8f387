"""Checkpoints of other people: every wrapping they come in, what does not fit, and files that are none."""

import collections
import copy
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn
from torch.optim.swa_utils import AveragedModel

from aaexport.errors import WeightsError
from aaexport.weights import load_checkpoint
from aaexport.weights.recorded import RANDOM_NOTE
from aaexport.weights.safetensors import save_weights, weights_digest


class Attention(nn.Module):
    """A layer with a relative table, a buffer that is not kept and one that is."""

    def __init__(self, size=4):
        super().__init__()
        self.key_rel_h = nn.Parameter(torch.randn(2 * size - 1, 3))
        self.register_buffer("scale", torch.randn(1))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)


def network(seed=0, size=4, classes=5):
    """`seed` decides all of its values."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = {"conv": nn.Conv2d(2, 3, 3), "norm": nn.BatchNorm2d(3), "attn": Attention(size)}
        return nn.ModuleDict({**layers, "head": nn.Linear(4, classes)}).eval()


STATE = network().state_dict()
DIGEST = weights_digest(network())
OTHER = network(seed=2).state_dict()
LEGACY = {"_use_new_zipfile_serialization": False}


def saved(tmp_path, contents, name="weights.pt", **options):
    torch.save(contents, tmp_path / name, **options)
    return tmp_path / name


def loaded(path, module=None):
    """What was said of a file whose weights arrived in the module."""
    module = module or network(seed=1)
    notes = load_checkpoint(module, path)
    assert weights_digest(module) == DIGEST
    return notes


def complaint(path, module=None):
    """The one line of a refusal, after which the module is as it was."""
    module = module or network(seed=1)
    before = weights_digest(module)
    with pytest.raises(WeightsError) as refusal:
        load_checkpoint(module, path)
    assert weights_digest(module) == before
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def prefixed(prefix, state=STATE):
    return {prefix + name: tensor for name, tensor in state.items()}


# Formats


@pytest.mark.parametrize("name", ["weights.pt", "weights.pth", "ckpt.t7", "pytorch_model.bin"])
@pytest.mark.parametrize("options", [{}, LEGACY], ids=["zip", "legacy"])
def test_a_state_dict_of_torch_save_is_loaded(tmp_path, name, options):
    assert loaded(saved(tmp_path, STATE, name, **options)) == ()


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.bin"])
def test_safetensors_are_told_by_their_content(tmp_path, name):
    save_file(STATE, tmp_path / name)
    assert loaded(tmp_path / name) == ()


def test_random_weights_of_ours_are_called_random(tmp_path):
    save_weights(network(), tmp_path / "weights.safetensors", random=True)
    assert loaded(tmp_path / "weights.safetensors") == (RANDOM_NOTE,)


@pytest.mark.parametrize("options", [{}, LEGACY], ids=["zip", "legacy"])
def test_numpy_scalars_are_allowed_and_told(tmp_path, options):
    beside = {"acc": np.float64(61.5), "epoch": np.int64(34), "big": np.array([2.0], ">f4")[0], "on": np.bool_(True)}
    notes = loaded(saved(tmp_path, {"net": STATE, **beside, "name": np.str_("wrn")}, **options))
    assert notes[1] == "the file also holds acc = 61.5, epoch = 34, big = 2, on = True, name = 'wrn'"


def test_numpy_scalars_under_the_name_of_numpy_1_are_allowed(tmp_path):
    path = saved(tmp_path, {"net": STATE, "acc": np.float64(61.5)}, **LEGACY)
    path.write_bytes(path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert "the file also holds acc = 61.5" in loaded(path)


# Wrappings


@pytest.mark.parametrize(
    "key", ["model", "state_dict", "net", "ema", "model_state_dict", "params", "state_dict_ema", "model_ema", "own"]
)
def test_a_wrapped_state_dict_is_found_and_told(tmp_path, key):
    assert loaded(saved(tmp_path, {"epoch": 3, key: STATE})) == (
        f"weights taken from [{key!r}]",
        "the file also holds epoch = 3",
    )


def test_a_state_dict_is_found_several_keys_deep(tmp_path):
    path = saved(tmp_path, {"learner": {"module": STATE, "optimizer": {"state": {}}}, "records": [1]})
    assert loaded(path) == ("weights taken from ['learner']['module']", "the file also holds records, optimizer")


def test_a_flat_state_dict_may_hold_plain_values_too(tmp_path):
    assert loaded(saved(tmp_path, {**STATE, "epoch": 3})) == ("the file also holds epoch = 3",)


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "module._orig_mod.", "model.", "net.", "module.model.", "model.net._orig_mod."],
)
def test_a_prefix_of_all_names_is_dropped_and_told(tmp_path, prefix):
    parts = " and ".join(f"'{part}.'" for part in prefix.strip(".").split("."))
    assert loaded(saved(tmp_path, prefixed(prefix))) == (f"names read without {parts}",)


BESIDE = {"criterion.weight": torch.ones(10), "loss.centre": torch.zeros(2)}


@pytest.mark.parametrize("prefix", ["model.", "net.", "backbone.", "learner.network.", "model.module."])
def test_a_prefix_is_dropped_although_other_names_lie_beside_it_which_are_listed(tmp_path, prefix):
    notes = loaded(saved(tmp_path, {"state_dict": {**prefixed(prefix), **BESIDE}, "epoch": 3}))
    parts = " and ".join(f"'{part}.'" for part in prefix.strip(".").split("."))
    outermost = prefix if prefix == "learner.network." else f"{prefix.partition('.')[0]}."
    assert notes == (
        f"weights taken from ['state_dict'] under {outermost!r}",
        f"names read without {parts}",
        "left out, as the module has no such names: criterion.weight, loss.centre",
        "the file also holds epoch = 3",
    )


def test_of_two_prefixes_the_trained_weights_are_taken_before_their_average(tmp_path):
    notes = loaded(saved(tmp_path, {**prefixed("ema_model.", OTHER), **prefixed("model.")}))
    assert notes[:2] == (
        "weights taken from the whole file under 'model.', not from the whole file under 'ema_model.', "
        "which would fit too",
        "names read without 'model.'",
    )
    assert notes[2].startswith("left out, as the module has no such names: ema_model.conv.weight, ")


def test_of_parts_under_two_keys_the_other_that_fits_is_told(tmp_path):
    lying = {"state_dict": {**prefixed("net."), **BESIDE}, "exp_avg": {**prefixed("net.", OTHER), "z": torch.ones(1)}}
    notes = loaded(saved(tmp_path, lying))
    assert notes[0] == (
        "weights taken from ['state_dict'] under 'net.', not from ['exp_avg'] under 'net.', which would fit too"
    )


DEEPER = {**network(seed=2).state_dict(), "last.weight": torch.ones(2)}
SECOND = {
    "student": (DEEPER, "1 tensor unexpected"),
    "generator": (network(classes=6).state_dict(), "2 tensors of another shape or kind"),
    "learner.network": (network(classes=6).state_dict(), "2 tensors of another shape or kind"),
}


@pytest.mark.parametrize("name", SECOND)
def test_a_part_is_not_taken_where_another_network_of_its_names_does_not_fit(tmp_path, name):
    state, why = SECOND[name]
    path = saved(tmp_path, {**prefixed(f"{name}.", state), **prefixed("teacher.")})
    assert complaint(path) == (
        f"{path} must hold one network of the module's names, got the whole file under 'teacher.', which fits, and "
        f"the whole file under {name + '.'!r}, which does not ({why}); save the one you mean alone"
    )


def test_one_layer_is_not_taken_out_of_a_larger_network(tmp_path):
    path = saved(tmp_path, nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)).state_dict())
    assert "under '0.', which fits, and the whole file under '2.'" in complaint(path, nn.Conv2d(3, 8, 3))
    alone = {**nn.Linear(2, 2).state_dict(prefix="a."), **{f"b.{number}": torch.ones(1) for number in range(3)}}
    text = complaint(saved(tmp_path, alone), nn.Linear(2, 2))
    assert "got 2 tensors of it in the whole file under 'a.', beside 3 others; save that part alone if you" in text


def test_what_is_called_the_model_is_taken_beside_networks_that_do_not_fit(tmp_path):
    """An average of the parameters alone lacks buffers; a loss may be larger than the network."""
    average = {name: tensor for name, tensor in OTHER.items() if not name.startswith("norm.running")}
    loss = {f"loss.{number}.weight": torch.ones(1) for number in range(20)}
    teacher = prefixed("teacher.", network(classes=6).state_dict())
    for beside in (prefixed("ema.", average), loss, teacher):
        assert "names read without 'model.'" in loaded(saved(tmp_path, {**prefixed("model."), **beside}))


def test_two_prefixes_that_fit_equally_well_are_refused_by_name(tmp_path):
    text = complaint(saved(tmp_path, {"state_dict": {**prefixed("student."), **prefixed("teacher.", OTHER)}}))
    assert "got ['state_dict'] under 'student.' and ['state_dict'] under 'teacher.'; save the one you mean" in text


def test_a_prefix_that_lacks_a_tensor_is_refused(tmp_path):
    state = {**prefixed("model."), **BESIDE}
    del state["model.head.bias"]
    text = complaint(saved(tmp_path, state))
    assert "(the whole file under 'model.') does not fit the model, 1 tensor missing: tensor 'head.bias'" in text


def test_tables_of_another_length_under_a_prefix_tell_of_another_image_size(tmp_path):
    state = {**prefixed("model.", network(size=6).state_dict()), **BESIDE}
    assert "6 positions instead of 4" in complaint(saved(tmp_path, state))


def test_a_prefix_in_the_middle_is_dropped(tmp_path):
    state = {name.replace("attn.", "attn._orig_mod."): tensor for name, tensor in STATE.items()}
    assert loaded(saved(tmp_path, state)) == ("names read without '_orig_mod.'",)


def test_a_wrapped_module_takes_the_names_of_the_bare_one(tmp_path):
    module = network(seed=1)
    load_checkpoint(nn.DataParallel(module), saved(tmp_path, STATE))
    assert weights_digest(module) == DIGEST


@pytest.mark.parametrize("name", ["module", "model", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_a_module_with_such_a_name_of_its_own_is_not_broken(tmp_path, name, prefix):
    module = nn.ModuleDict({name: network(seed=1), "head": nn.Linear(1, 1)})
    path = saved(tmp_path, prefixed(prefix, {**prefixed(f"{name}."), **nn.Linear(1, 1).state_dict(prefix="head.")}))
    load_checkpoint(module, path)
    assert weights_digest(module[name]) == DIGEST


def test_an_averaged_models_count_is_left_out(tmp_path):
    average = AveragedModel(network())
    assert loaded(saved(tmp_path, average.state_dict())) == ("names read without 'module.'",)


# Several that fit


@pytest.mark.parametrize("average", ["ema", "model_ema"])
def test_the_trained_weights_are_taken_before_their_average(tmp_path, average):
    notes = loaded(saved(tmp_path, {average: OTHER, "model": STATE}))
    assert notes[0] == f"weights taken from ['model'], not from [{average!r}], which would fit too"


def test_the_average_is_taken_where_it_alone_fits(tmp_path):
    notes = loaded(saved(tmp_path, {"model": network(classes=6).state_dict(), "ema": STATE}))
    assert notes[0] == "weights taken from ['ema']"


def test_two_equally_good_ones_are_refused_by_name(tmp_path):
    text = complaint(saved(tmp_path, {"generator": STATE, "discriminator": OTHER}))
    assert text.endswith(
        "must hold one state_dict that fits, got ['generator'] and ['discriminator']; save the one you mean alone"
    )


def test_one_under_two_keys_is_one(tmp_path):
    assert loaded(saved(tmp_path, {"model": STATE, "net": STATE}))[0] == "weights taken from ['model']"


# What is tolerated


def test_counts_of_batches_may_be_missing(tmp_path):
    state = {name: tensor for name, tensor in STATE.items() if not name.endswith("num_batches_tracked")}
    notes = ("the tensors 'num_batches_tracked' are missing, as in old files: evaluation does not need them",)
    assert loaded(saved(tmp_path, state)) == notes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_types_are_converted_and_told(tmp_path, dtype):
    state = {name: t.to(dtype) if t.is_floating_point() else t for name, t in STATE.items()}
    module = network(seed=1)
    name = str(dtype).removeprefix("torch.")
    assert load_checkpoint(module, saved(tmp_path, state)) == (f"10 tensors converted from {name} to float32",)
    assert torch.equal(module["head"].weight, state["head.weight"].float())
    assert {p.dtype for p in module.parameters()} == {torch.float32}


def test_parameters_stay_the_same_objects(tmp_path):
    module = network(seed=1)
    module["conv"].weight.requires_grad_(False)
    before = dict(module.named_parameters())
    loaded(saved(tmp_path, STATE), module)
    after = dict(module.named_parameters())
    assert all(after[name] is before[name] for name in before)
    assert not module["conv"].weight.requires_grad


def test_a_tied_parameter_may_be_there_once(tmp_path):
    tied = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
    tied[1].weight = tied[0].weight
    save_model(tied, tmp_path / "tied.safetensors")
    other = copy.deepcopy(tied)
    nn.init.zeros_(other[0].weight)
    assert load_checkpoint(other, tmp_path / "tied.safetensors") == ()
    assert torch.equal(other[1].weight, tied[0].weight)


class Counting(nn.Linear):
    """A layer with a state of its own that is no tensor."""

    seen = 0

    def get_extra_state(self):
        return {"seen": self.seen}

    def set_extra_state(self, state):
        self.seen = state["seen"]


def test_extra_state_arrives(tmp_path):
    module, other = nn.Sequential(Counting(2, 2)), nn.Sequential(Counting(2, 2))
    module[0].seen = 7
    load_checkpoint(other, saved(tmp_path, prefixed("module.", module.state_dict())))
    assert other[0].seen == 7


# What does not fit


def test_missing_and_unexpected_tensors_are_counted_and_named(tmp_path):
    state = {name: tensor for name, tensor in STATE.items() if not name.startswith("conv.")}
    text = complaint(saved(tmp_path, {"model": {**state, "more.weight": torch.ones(1)}}))
    assert text == (
        f"{tmp_path}/weights.pt (['model']) does not fit the model, 2 tensors missing, 1 tensor unexpected: "
        "tensor 'conv.bias' is missing, tensor 'conv.weight' is missing; tensor 'more.weight' is unexpected; "
        "was it trained with another architecture, or with other arguments (width, depth, classes)?"
    )


def test_reshaped_tensors_are_named_with_both_shapes(tmp_path):
    text = complaint(saved(tmp_path, network(classes=6).state_dict()))
    assert "2 tensors of another shape or kind: tensor 'head.bias' must have the shape (5,), got (6,), " in text
    assert text.endswith("was it trained with another architecture, or with other arguments (width, depth, classes)?")


def test_relative_tables_of_another_length_tell_of_another_image_size(tmp_path):
    text = complaint(saved(tmp_path, network(size=6).state_dict()))
    assert "tensor 'attn.key_rel_h' must have the shape (7, 3), got (11, 3)" in text
    assert text.endswith(
        "it was trained at another image size, with relative tables for 6 positions instead of 4: "
        "build the module for that size"
    )


def test_only_a_few_of_many_are_named(tmp_path):
    text = complaint(saved(tmp_path, nn.Sequential(*(nn.Linear(1, 1) for _ in range(50))).state_dict()))
    assert "100 tensors unexpected" in text
    assert len(text) < 600


def test_the_closest_of_several_state_dicts_is_reported(tmp_path):
    path = saved(tmp_path, {"discriminator": {"a": torch.ones(1)}, "generator": {**STATE, "b": torch.ones(1)}})
    assert "(['generator']) does not fit the model, 1 tensor unexpected: tensor 'b' is unexpected" in complaint(path)


@pytest.mark.parametrize(
    ("unusual", "kind"),
    [
        (torch.Tensor.to_sparse, "sparse"),
        (lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8), "quantized"),
        (lambda tensor: tensor.to("meta"), "meta"),
    ],
    ids=["sparse", "quantized", "meta"],
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # of torch, on quantization
def test_tensors_of_unusual_kinds_are_refused(tmp_path, unusual, kind):
    text = complaint(saved(tmp_path, {**STATE, "head.bias": unusual(torch.ones(5))}))
    assert f"tensor 'head.bias' must be a plain tensor, got a {kind} one" in text


@pytest.mark.parametrize(
    ("contents", "got"),
    [
        ({"epoch": 3, "args": {"lr": 0.1}}, "a dict with no tensors under names (its keys: 'epoch', 'args')"),
        ([1, 2], "a list with no tensors under names"),
        (torch.ones(3), "a Tensor with no tensors under names"),
    ],
    ids=["dict", "list", "tensor"],
)
def test_a_file_without_a_state_dict_is_refused(tmp_path, contents, got):
    assert complaint(saved(tmp_path, contents)) == f"{tmp_path}/weights.pt must hold a state_dict, got {got}"


def test_a_module_whose_shapes_are_open_is_refused(tmp_path):
    text = "parameter 'weight' must have a shape, got none yet; run the module on an image first"
    with pytest.raises(WeightsError, match=text):
        load_checkpoint(nn.LazyLinear(3), saved(tmp_path, STATE))


# Code in the file


class Payload:
    """Leaves a mark, a folder, where it is unpickled."""

    def __init__(self, mark, function=os.mkdir):
        self.mark, self.function = str(mark), function

    def __reduce__(self):
        return self.function, (f"import os; os.mkdir({self.mark!r})" if self.function is exec else self.mark,)


def leave_mark(path):
    Path(path).mkdir()


@pytest.mark.parametrize("options", [{}, LEGACY], ids=["zip", "legacy"])
@pytest.mark.parametrize("function", [os.mkdir, exec, leave_mark], ids=["mkdir", "exec", "own"])
@pytest.mark.parametrize("name", ["weights.pt", "ckpt.t7"])
def test_code_is_refused_and_never_run(tmp_path, options, function, name):
    mark = tmp_path / "mark"
    path = saved(tmp_path, {"net": STATE, "acc": Payload(mark, function)}, name, **options)
    text = complaint(path)
    assert not mark.exists()
    assert text.startswith(f"{path} must hold tensors and plain values only, got ")
    remedy = 'whoever trained it can save torch.save(model.state_dict(), "weights.pt")'
    assert text.endswith(f"for which code would have to run: refused; {remedy}")
    pickle.loads(pickle.dumps(Payload(mark, function)))
    assert mark.exists(), "the payload is one"


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_in_a_plain_pickle_is_never_run(tmp_path, protocol):
    mark, path = tmp_path / "mark", tmp_path / "ckpt.t7"
    path.write_bytes(pickle.dumps({"net": Payload(mark)}, protocol))
    assert complaint(path).startswith(f"{path} must ")
    assert not mark.exists()


def test_the_refused_class_is_named(tmp_path):
    text = complaint(saved(tmp_path, {"model": STATE, "history": collections.deque([1])}))
    assert "got collections.deque, for which code would have to run: refused" in text


@pytest.mark.parametrize("options", [{}, LEGACY], ids=["zip", "legacy"])
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")  # of the old format
def test_a_whole_pickled_module_has_a_remedy_of_its_own(tmp_path, options):
    text = complaint(saved(tmp_path, {"model": network()}, **options))
    assert "must hold a state_dict, got a whole pickled module (torch.nn.modules.container.ModuleDict)" in text
    assert text.endswith('where that code is, save its state_dict: torch.save(model.state_dict(), "weights.pt")')


def test_what_the_process_allows_already_stays_allowed(tmp_path):
    with torch.serialization.safe_globals([collections.deque]):
        loaded(saved(tmp_path, {"model": STATE, "history": collections.deque()}))
        assert collections.deque in torch.serialization.get_safe_globals()


# Files that are none


@pytest.mark.parametrize(
    ("content", "looks"),
    [
        (b"", "got an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"\3\0\0\0\1\0\0\0\2\0\0\0", "a file of Lua Torch7, not of PyTorch"),
        (b"4\n1\n3\nV 1\n13\nnn.Sequential\n", "a file of Lua Torch7, not of PyTorch"),
        (b"\x1f\x8b\x08\0", "a compressed file"),
        (b'{"weight_map": {}}', "a JSON text"),
    ],
    ids=["empty", "lfs", "html", "torch7", "torch7 in text", "gzip", "json"],
)
@pytest.mark.parametrize("name", ["weights.t7", "weights.safetensors"])
def test_a_file_of_another_kind_is_called_what_it_looks_like(tmp_path, content, looks, name):
    path = tmp_path / name
    path.write_bytes(content)
    text = complaint(path)
    assert text.startswith(f"{path} must be a checkpoint, got ")
    assert looks in text
    assert "; " in text


@pytest.mark.parametrize("options", [{}, LEGACY], ids=["zip", "legacy"])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.999])
def test_a_truncated_file_is_refused(tmp_path, options, share):
    path = saved(tmp_path, STATE, **options)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert complaint(path).startswith(f"{path} must be ")


def test_a_truncated_download_is_called_so(tmp_path):
    path = saved(tmp_path, STATE)
    path.write_bytes(path.read_bytes()[:-1000])
    assert (
        complaint(path) == f"{path} must be whole, got a zip archive without its end; download the file itself again"
    )


@pytest.mark.parametrize("content", [b"garbage", b"\xff" * 64, b"\x80\x02", b"\x80\x04\x95"])
def test_garbage_is_refused(tmp_path, content):
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    assert complaint(path).startswith(f"{path} must be a whole file of torch.save or safetensors, but: ")


def test_an_archive_of_numpy_is_refused(tmp_path):
    np.savez(tmp_path / "weights.npz", weight=np.ones(3))
    assert complaint(tmp_path / "weights.npz").startswith(
        f"{tmp_path}/weights.npz must be a whole file of torch.save"
    )


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_is_called_so(tmp_path):
    torch.jit.script(nn.Linear(1, 1)).save(tmp_path / "weights.pt")
    assert "must be a checkpoint, got a TorchScript archive; " in complaint(tmp_path / "weights.pt")


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert (
        complaint(tmp_path / "none.pt")
        == f"{tmp_path}/none.pt must be a readable file, but: No such file or directory"
    )
    assert complaint(tmp_path) == f"{tmp_path} must be a readable file, but: Is a directory"


def test_a_pickled_module_in_a_damaged_archive_is_refused_in_one_line(tmp_path):
    """Its checksum is another one: torch does not look at it, Python does."""
    path = tmp_path / "model.pt"
    torch.save(nn.Linear(2, 2), path)
    with zipfile.ZipFile(path) as archive:
        (held,) = (entry for entry in archive.infolist() if entry.filename.endswith("data.pkl"))
    damaged = path.read_bytes().replace(struct.pack("<I", held.CRC), struct.pack("<I", held.CRC ^ 1))
    path.write_bytes(damaged)
    with pytest.raises(
        WeightsError, match=r"got torch\.nn\.modules\.linear\.Linear, for which code would have to run"
    ):
        load_checkpoint(nn.Linear(2, 2), path)
