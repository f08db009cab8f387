import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from aaexport.errors import FolderError, WeightsError
from aaexport.weights.safetensors import load_weights, read_tensors, save_weights, weights_digest, write_tensors


def network(seed=0):
    """A module with parameters, running means and a whole-number buffer; `seed` decides all of its values."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Linear(4, 5))
        module(torch.randn(2, 2, 4, 6))  # moves the running means
    return module.eval()


@pytest.fixture
def path(tmp_path):
    """Where the weights of `network()` lie."""
    path = tmp_path / "weights.safetensors"
    save_weights(network(), path)
    return path


def complaint(path, module=None):
    with pytest.raises(WeightsError) as refusal:
        load_weights(module or network(seed=1), path)
    return str(refusal.value)


def rewritten(path, **changes):
    """The file with some tensors replaced, or left out where None."""
    tensors = read_tensors(path) | {name.replace("__", "."): tensor for name, tensor in changes.items()}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)
    return path


# Round trips


def test_loaded_weights_are_the_saved_ones(path):
    module = network(seed=1)
    load_weights(module, path)
    for name, tensor in network().state_dict().items():
        assert torch.equal(module.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6.0).reshape(2, 3).t(),
        torch.arange(6.0)[::2],
        torch.tensor(3),
        torch.zeros(0, 4),
        torch.ones(3, dtype=torch.bfloat16),
        torch.tensor([True, False]),
        torch.ones(2, requires_grad=True),
    ],
    ids=["transposed", "strided", "scalar", "empty", "bfloat16", "bool", "with gradients"],
)
def test_a_tensor_of_any_kind_comes_back(tmp_path, tensor):
    write_tensors({"t": tensor}, tmp_path / "t.safetensors")
    found = read_tensors(tmp_path / "t.safetensors")["t"]
    assert (found.dtype, found.shape, found.tolist()) == (tensor.dtype, tensor.shape, tensor.tolist())


def test_weights_that_cannot_be_written_are_a_folder_error(tmp_path):
    with pytest.raises(FolderError, match="cannot be written"):
        save_weights(network(), tmp_path / "none" / "weights.safetensors")


# Weights that do not fit


def test_a_missing_tensor_is_named(path):
    assert "tensor '0.weight' is missing" in complaint(rewritten(path, **{"0__weight": None}))


def test_an_unexpected_tensor_is_named(path):
    assert "tensor 'more' is unexpected" in complaint(rewritten(path, more=torch.ones(1)))


def test_a_tensor_of_another_shape_is_named_with_both_shapes(path):
    text = complaint(rewritten(path, **{"2__weight": torch.ones(4, 5)}))
    assert "tensor '2.weight' must have the shape (5, 4), got (4, 5)" in text


def test_a_tensor_of_another_kind_is_named_with_both_types(path):
    text = complaint(rewritten(path, **{"1__num_batches_tracked": torch.tensor(1.0)}))
    assert "tensor '1.num_batches_tracked' must be of torch.int64, got torch.float32" in text


def test_a_complaint_names_the_file(path):
    assert complaint(rewritten(path, more=torch.ones(1))).startswith(f"{path} does not fit the model: ")


def test_refused_weights_leave_the_module_as_it_was(path):
    module = network(seed=1)
    before = weights_digest(module)
    complaint(rewritten(path, **{"2__weight": torch.ones(4, 5)}), module)
    assert weights_digest(module) == before


# Files that are none


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999])
def test_a_truncated_file_is_refused_by_path(path, share):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert complaint(path).startswith(f"{path} must be a whole safetensors file, but: ")


@pytest.mark.parametrize("content", [b"garbage", b"\xff" * 64, b"PK\x03\x04" + bytes(100)], ids=["text", "ff", "zip"])
def test_garbage_is_refused_by_path(path, content):
    path.write_bytes(content)
    assert complaint(path).startswith(f"{path} must be a whole safetensors file, but: ")


def test_a_missing_file_is_refused_by_path(tmp_path):
    path = tmp_path / "none.safetensors"
    assert complaint(path).startswith(f"{path} must be a whole safetensors file, but: ")


def test_a_refusal_is_one_line(path):
    path.write_bytes(path.read_bytes()[:-1])
    assert "\n" not in complaint(path)


# The digest


def test_the_digest_survives_save_and_load(path):
    module = network(seed=1)
    load_weights(module, path)
    assert weights_digest(module) == weights_digest(network())


@pytest.mark.parametrize("name", ["0.weight", "1.running_mean", "1.num_batches_tracked", "2.bias"])
def test_the_digest_changes_with_one_value(name):
    module = network()
    before = weights_digest(module)
    module.state_dict()[name].view(-1)[0] += 1
    assert weights_digest(module) != before


def test_the_digest_changes_with_a_name():
    layer = nn.Linear(2, 2)
    assert weights_digest(nn.ModuleDict({"a": layer})) != weights_digest(nn.ModuleDict({"b": layer}))


def test_the_digest_changes_with_the_type_of_equal_bytes():
    one, other = nn.Module(), nn.Module()
    one.register_buffer("zeros", torch.zeros(2))
    other.register_buffer("zeros", torch.zeros(2, dtype=torch.int32))
    assert weights_digest(one) != weights_digest(other)


def test_the_digest_changes_with_the_shape_of_equal_bytes():
    one, other = nn.Module(), nn.Module()
    one.register_buffer("zeros", torch.zeros(2, 3))
    other.register_buffer("zeros", torch.zeros(3, 2))
    assert weights_digest(one) != weights_digest(other)


def test_the_digest_does_not_depend_on_the_layout_in_memory():
    plain, transposed = nn.Linear(3, 2, bias=False), nn.Linear(3, 2, bias=False)
    transposed.weight = nn.Parameter(plain.weight.detach().t().contiguous().t())
    assert weights_digest(plain) == weights_digest(transposed)


def test_the_digest_does_not_depend_on_the_mode():
    assert weights_digest(network().train()) == weights_digest(network().eval())


def test_a_module_in_bfloat16_has_a_digest():
    assert weights_digest(network().to(torch.bfloat16))


def test_a_full_disk_keeps_the_old_weights(path):
    """A limit on the size of files stands in for a full disk, in a process of its own."""
    before = path.read_bytes()
    code = (
        "import resource, sys, torch\n"
        "from pathlib import Path\n"
        "from aaexport.weights.safetensors import write_tensors\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "write_tensors({'a': torch.zeros(10**6)}, Path(sys.argv[1]))\n"
    )
    outcome = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert outcome.stderr.splitlines()[-1].endswith(f"FolderError: {path} cannot be written: File too large")
    assert path.read_bytes() == before
    assert [other.name for other in path.parent.iterdir()] == [path.name]
