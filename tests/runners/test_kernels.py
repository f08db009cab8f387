"""What the table of kernels says of onnxruntime is what onnxruntime does."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from aaexport.parity import KERNELS
from aaexport.runners.ort import OrtRunner
from aaexport.runners.torch import TorchRunner

EPS = float(np.finfo(np.float32).eps)
LENGTHS = (3, 6, 7, 10, 12, 14, 28, 31, 56, 97, 127, 224)  # primes, even ones, twice a power of two less one


def transform(path, *, inverse):
    node = helper.make_node("DFT", ["x", "", "axis"], ["y"], inverse=int(inverse))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", "n", 2]) for name in "xy")
    graph = helper.make_graph([node], "g", [x], [y], [helper.make_tensor("axis", TensorProto.INT64, [], [1])])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return OrtRunner(path)


@pytest.mark.parametrize("inverse", [False, True])
def test_onnxruntimes_fourier_transform_is_as_accurate_as_the_table_says(tmp_path, rng, inverse):
    units, _ = KERNELS["_fft_c2c"]
    with transform(tmp_path / "dft.onnx", inverse=inverse) as runner:
        worst = {n: _error(runner, rng.standard_normal((4, n, 2), dtype=np.float32), inverse) for n in LENGTHS}
        powers = {n: _error(runner, rng.standard_normal((4, n, 2), dtype=np.float32), inverse) for n in (8, 64, 256)}
    assert all(error < units * n for n, error in worst.items()), worst
    assert max(error / n for n, error in worst.items()) > units / 4  # the table is no looser than it must be
    assert all(error < 4 * units for error in powers.values()), powers  # nothing is excused there: as PyTorch's own


def _error(runner, x, inverse):
    """In units in the last place of the norm of what is transformed."""
    given = x[..., 0].astype(np.float64) + 1j * x[..., 1]
    wanted = np.fft.ifft(given) * x.shape[1] if inverse else np.fft.fft(given)
    (found,) = runner.infer({"x": x}).values()
    apart = np.abs(found[..., 0] * (x.shape[1] if inverse else 1) + 1j * found[..., 1].astype(np.float64)
                   * (x.shape[1] if inverse else 1) - wanted)  # fmt: skip
    return float((apart / np.linalg.norm(given, axis=1)[:, None]).max() / EPS)


class Filtered(nn.Module):
    """There and back, by any of torch's names for it."""

    def __init__(self, there, back, **how):
        super().__init__()
        self.there, self.back, self.how = there, back, how

    def forward(self, x):
        return self.back(self.there(x, **self.how), s=x.shape[-2:], **self.how).real


@pytest.mark.parametrize("size", [(12, 10), (8, 16)])
@pytest.mark.parametrize("norm", ["backward", "ortho", "forward"])
def test_a_transform_moves_outputs_by_what_its_kernel_may_be_off(rng, size, norm):
    """Of either way, whatever each of them is normalized by; and not at all where the lengths are powers of two."""
    x = rng.standard_normal((2, 1, *size), dtype=np.float32)
    off = {name: units * EPS for name, (units, _) in KERNELS.items()}
    for there, back in ((torch.fft.rfft2, torch.fft.irfft2), (torch.fft.fft2, torch.fft.ifft2)):
        module = Filtered(there, back, norm=norm)
        with TorchRunner(module, ("input",), ("output",), input_shape=(1, *size)) as runner:
            assert {"_fft_r2c", "_fft_c2c"} & runner.operators({"input": x})
            plain = runner.infer({"input": x})["output"]
            moved = [
                abs(runner.with_coarse_kernels({"input": x}, off, s)["output"] - plain).max() for s in (1, -1, 0)
            ]
        if size == (8, 16):
            assert max(moved) == 0
        else:
            assert 1e-6 < max(moved) < 1e-3  # far below the numbers themselves


class Named(nn.Module):
    """Asks for frequencies, which are of torch's transforms by name and consist of no other operator."""

    def forward(self, x):
        return x * torch.fft.fftfreq(x.shape[-1]) + torch.fft.rfftfreq(2 * x.shape[-1] - 1)


def test_what_is_no_transform_but_called_like_one_runs(rng):
    x = rng.standard_normal((2, 1, 6, 5), dtype=np.float32)
    with TorchRunner(Named(), ("input",), ("output",), input_shape=(1, 6, 5)) as runner:
        plain = runner.infer({"input": x})["output"]
        assert "fft_fftfreq" in runner.operators({"input": x})
        assert (runner.with_coarse_kernels({"input": x}, {"_fft_c2c": 1.0}, 1)["output"] == plain).all()


@pytest.mark.parametrize("sign", [1, -1, 0])
def test_what_a_transform_may_be_off_does_not_gather_in_one_place(rng, sign):
    """The same constant all over a spectrum is an impulse where it is transformed back, √n above the real error."""
    x = rng.standard_normal((1, 1, 31, 31), dtype=np.float32)
    off = {name: units * EPS for name, (units, _) in KERNELS.items()}
    with TorchRunner(
        Filtered(torch.fft.fft2, torch.fft.ifft2), ("input",), ("output",), input_shape=x.shape[1:]
    ) as run:
        moved = np.abs(run.with_coarse_kernels({"input": x}, off, sign)["output"] - run.infer({"input": x})["output"])
    assert 0 < moved.max() < 6 * np.sqrt(np.square(moved).mean())
