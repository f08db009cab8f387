"""The verbs under whatever a caller has set torch to, and on modules that torch.compile made."""

import contextlib

import numpy as np
import onnx
import pytest
import torch
from folders import tiny_folder
from PIL import Image
from torch import nn

import aaexport
from aaexport.errors import ArgumentError
from aaexport.nn import AugmentedConv2d


class Small(nn.Module):
    """An augmented layer of ours before one convolution."""

    def __init__(self):
        super().__init__()
        self.layer = AugmentedConv2d(1, 8, dk=4, dv=4, num_heads=2, height=6, width=6)
        self.last = nn.Conv2d(8, 3, 6)

    def forward(self, x):
        return self.last(torch.relu(self.layer(x))).flatten(1)


@contextlib.contextmanager
def everything():
    """Float64, no storage, no gradients, autocast: as somebody may have set torch in a notebook."""
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"), torch.inference_mode(), torch.autocast("cpu"):
            yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def module():
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture(scope="module")
def plain(module, tmp_path_factory):
    """What is written of it where nothing is set."""
    path = tmp_path_factory.mktemp("plain") / "plain.onnx"
    return aaexport.convert(module, path, input_shape=(1, 6, 6)).path.read_bytes()


@pytest.mark.slow
def test_convert_writes_the_same_file(module, plain, tmp_path):
    with everything():
        result = aaexport.convert(module, tmp_path / "x.onnx", input_shape=(1, 6, 6))
        assert torch.zeros(1).device.type == "meta"
    assert result.parity.passed
    assert result.path.read_bytes() == plain


def test_verify_comes_to_the_same_numbers(converted):
    quiet = aaexport.verify(converted)
    with everything():
        found = aaexport.verify(converted)
    assert found.passed
    assert [output.max_abs_error for output in found.outputs] == [output.max_abs_error for output in quiet.outputs]


def test_build_model_has_numbers_in_float32(converted):
    expected = aaexport.build_model(converted).state_dict()
    with everything():
        module = aaexport.build_model(converted)
    assert {tensor.device.type for tensor in module.state_dict().values()} == {"cpu"}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in module.state_dict().items())
    assert not any(parameter.is_inference() for parameter in module.parameters())


@pytest.mark.slow
def test_serve_bench_asks_what_it_would_ask(converted):
    with everything():
        report = aaexport.serve_bench(
            converted, device="cpu", duration=0.2, warmup=0.0, threads=1, batches=[1], compare=()
        )
    assert report.check.wrong == 0 < report.check.checked


def test_train_learns_in_float32(tmp_path):
    folder = tiny_folder(tmp_path / "quiet")
    expected = aaexport.train(folder, epochs=1).epochs[0].loss
    with everything():
        result = aaexport.train(tiny_folder(tmp_path / "set"), epochs=1)
    assert (result.precision, result.epochs[0].loss) == ("float32", expected)


def test_draw_attention_draws_the_same(converted, tmp_path):
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "image.png")
    aaexport.draw_attention(converted, tmp_path / "image.png", tmp_path / "quiet.png")
    with everything():
        aaexport.draw_attention(converted, tmp_path / "image.png", tmp_path / "set.png")
    assert (tmp_path / "set.png").read_bytes() == (tmp_path / "quiet.png").read_bytes()


def test_a_module_without_numbers_is_refused_with_the_remedy(tmp_path):
    with torch.device("meta"):
        module = Small()
    with pytest.raises(ArgumentError, match="module must have numbers in its tensors, got 'none in layer"):
        aaexport.convert(module, tmp_path / "x.onnx", input_shape=(1, 6, 6))


@pytest.mark.slow
@pytest.mark.parametrize("what", ["the module", "layer"])
def test_a_compiled_module_is_converted_and_verified_as_what_it_was(module, plain, tmp_path, what):
    note = f"{what} was taken out of its OptimizedModule"
    if what == "the module":
        compiled = torch.compile(module, backend="eager")
    else:
        compiled = Small().eval()
        compiled.load_state_dict(module.state_dict())
        compiled.layer = torch.compile(compiled.layer, backend="eager")
    result = aaexport.convert(compiled, tmp_path / "x.onnx", input_shape=(1, 6, 6))
    assert onnx.load(result.path).graph == onnx.load_from_string(plain).graph
    assert note in result.notes
    report = aaexport.verify(compiled, tmp_path / "x.onnx", input_shape=(1, 6, 6))
    assert report.passed
    assert note in report.notes


SOURCE = """
import torch
from torch import nn

torch.set_default_dtype(torch.float32)
net = torch.compile(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)), backend="eager")
torch.set_default_dtype(torch.float64)
"""


@pytest.mark.slow
def test_a_compiled_module_of_a_file_is_taken_off_and_what_the_file_sets_ends_with_it(cli, tmp_path):
    (tmp_path / "nets.py").write_text(SOURCE)
    outcome = cli("convert", "nets.py:net", "--input-shape", "1x6x6", "--out", "out")
    assert outcome.code == 0, outcome.err
    assert "the module was taken out of its OptimizedModule" in outcome.out
    assert torch.get_default_dtype() == torch.float32
    assert cli("verify", "out", "--module", "nets.py:net").code == 0
    options = ("--device", "cpu", "--duration", "0.2", "--warmup", "0", "--batch", "1", "--threads", "1")
    outcome = cli("serve-bench", "out", "--module", "nets.py:net", "--compare", "eager", *options)
    assert outcome.code == 0, outcome.err
