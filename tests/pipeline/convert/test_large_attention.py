"""Attention of any module within a limit on its memory: by `optimize`, of both exporters' files, and by `convert`."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import query_memory
import torch
from test_optimize_attention import export
from torch import nn
from vision_transformers import SAM_B, PlainAttention, SamEncoder, Tokens, tiny_sam

import aaexport
from aaexport.graph.intermediate import tensor_bytes
from aaexport.graph.metadata import read_metadata
from aaexport.graph.rules.attention_in_blocks import AttentionInBlocks

MEBIBYTE = 2**20
WEIGHTS = 2 * 64 * 64 * 4  # bytes of 64 tokens in 2 heads
LIMIT = WEIGHTS / 2 / MEBIBYTE


def report(result):
    (found,) = (rule for rule in result.rules if rule.title == AttentionInBlocks.title)
    return found


def largest(path, batch=1):
    """Bytes of the largest tensor whose size is known, of so many images."""
    return max(tensor_bytes(onnx.load(path), batch).values())


def of_tokens(attention):
    torch.manual_seed(0)
    return Tokens(attention).eval()


def test_attention_of_any_module_is_converted_within_the_limit(tmp_path):
    result = aaexport.convert(
        of_tokens(PlainAttention(16, 2)),
        tmp_path / "model.onnx",
        input_shape=(3, 32, 32),
        max_attention_memory=LIMIT,
    )
    assert result.parity.passed
    assert result.rules[AttentionInBlocks.title] == 1
    assert result.operators["Softmax"] == 2
    assert not any("above the limit" in note for note in result.notes)
    assert largest(result.path) <= LIMIT * MEBIBYTE
    entries = {entry.key: entry.value for entry in onnx.load(result.path).metadata_props}
    assert read_metadata(entries).max_attention_memory == LIMIT, "an export to compare with needs it"


class Watched(nn.Module):
    """Attention whose weights somebody wants to see."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Conv2d(3, 24, 4, 4)

    def forward(self, x):
        q, k, v = self.qkv(x).flatten(2).transpose(1, 2).chunk(3, dim=-1)
        weights = (q @ k.transpose(1, 2)).softmax(dim=-1)
        return weights @ v, weights.mean(dim=1)


@pytest.mark.slow
def test_what_cannot_be_within_the_limit_is_told_by_convert(tmp_path):
    torch.manual_seed(0)
    outer = nn.Sequential(nn.Identity(), Watched()).eval()
    result = aaexport.convert(
        outer, tmp_path / "model.onnx", input_shape=(3, 32, 32), max_attention_memory=2_000 / MEBIBYTE
    )
    assert result.parity.passed
    assert AttentionInBlocks.title not in result.rules
    (note,) = (note for note in result.notes if "above the limit" in note)
    assert note.startswith("the attention of 1 is above the limit on its memory: its result alone takes 0.002 MiB")
    result = aaexport.convert(
        outer, tmp_path / "model.onnx", input_shape=(3, 32, 32), max_attention_memory=4_000 / MEBIBYTE
    )
    (note,) = (note for note in result.notes if "above the limit" in note)
    assert note.startswith("the attention of 1 is above the limit on its memory: Softmax")
    assert note.endswith("is read elsewhere too, and would still be there as a whole")


@pytest.mark.slow
@pytest.mark.parametrize(("dynamo", "opset"), [(False, 17), (True, 20)])
@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("kind", ["plain", "fused", "decomposed"])
def test_attention_of_either_exporter_is_cut(tmp_path, kind, dynamo, opset, dynamic):
    network = tiny_sam() if kind == "decomposed" else of_tokens(PlainAttention(16, 2, fused=kind == "fused"))
    source = export(network, tmp_path / "a.onnx", dynamo=dynamo, opset=opset, dynamic=dynamic, size=(32, 32))
    images = 1 if dynamic else 2
    result = aaexport.optimize(source, tmp_path / "b.onnx", max_attention_memory=LIMIT * images)
    assert result.parity.passed
    assert (report(result).applied, report(result).refused) == (1, {})
    assert "Einsum" not in result.after
    assert result.after["Softmax"] == result.before["Softmax"] + 1
    assert largest(result.path) <= LIMIT * MEBIBYTE * images


@pytest.mark.slow
def test_the_operator_attention_is_cut_at_its_opset(tmp_path):
    network = of_tokens(PlainAttention(16, 2, fused=True))
    path = tmp_path / "model.onnx"
    result = aaexport.convert(network, path, input_shape=(3, 32, 32), opset=23, max_attention_memory=LIMIT)
    assert result.parity.passed
    assert result.operators["Attention"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("opset", [20, 23])
def test_attention_of_three_axes_as_in_samvit_is_converted(tmp_path, opset):
    path = tmp_path / "model.onnx"
    result = aaexport.convert(
        tiny_sam(fused=True), path, input_shape=(3, 32, 32), opset=opset, max_attention_memory=LIMIT
    )
    assert result.parity.passed
    assert "Einsum" not in result.operators


def query(path, answer):
    """Megabytes, and the answer, of a process of its own."""
    done = subprocess.run(
        [sys.executable, query_memory.__file__, path, answer], check=True, capture_output=True, text=True
    )
    return float(done.stdout), np.load(answer)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak since a moment")
def test_the_encoder_of_sam_at_its_own_size_takes_a_quarter_of_the_memory(tmp_path):
    torch.manual_seed(0)
    network = SamEncoder(**SAM_B).eval()
    source = export(network, tmp_path / "sam.onnx", dynamo=True, opset=20, dynamic=True, size=(1024, 1024))
    plain = aaexport.optimize(source, tmp_path / "plain.onnx", verify=False)
    blocks = aaexport.optimize(source, tmp_path / "blocks.onnx", max_attention_memory=64, verify=False)
    assert report(blocks).applied == 4, "layers that attend to the whole map; windows of 14 stay below it"
    assert "Einsum" not in blocks.after
    whole, expected = query(plain.path, tmp_path / "plain.npy")
    less, found = query(blocks.path, tmp_path / "blocks.npy")
    assert whole > 2 * 12 * 4096**2 * 4 / 1e6, "logits and what is added to them, of all heads"
    assert less < 0.35 * whole
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    with torch.no_grad():
        images = np.random.default_rng(0).standard_normal((1, 3, 1024, 1024), dtype=np.float32)
        truth = network(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(found, truth, rtol=0, atol=1e-4 * np.abs(truth).max())
