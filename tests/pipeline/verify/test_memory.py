"""What a verification may take: attention in blocks, images apart where they do not mix, and what is left out."""

import onnx
import pytest
import surgery
import torch
from torch import nn
from vision_transformers import PlainAttention, Tokens

import aaexport
from aaexport.errors import ArgumentError
from aaexport.pipeline.verify import memory
from aaexport.pipeline.verify.memory import Memory
from aaexport.runners.in_blocks import InBlocks
from aaexport.runners.torch import TorchRunner

SHAPE = (3, 64, 64)
ENOUGH = 16  # MiB for attention of 256 tokens in 3 heads, but not for all images at once in float64
SMALL = (1, 32, 32)


@pytest.fixture(scope="module")
def attention(tmp_path_factory):
    """A vision transformer's attention, and its file."""
    torch.manual_seed(0)
    module = Tokens(PlainAttention(12, 3), 12, 4).eval()
    path = tmp_path_factory.mktemp("attention") / "model.onnx"
    aaexport.convert(module, path, input_shape=SHAPE, verify=False)
    return module, path


@pytest.fixture
def largest(monkeypatch):
    """Images that PyTorch was given at a time, and whether in blocks."""
    seen = []
    answers = TorchRunner._answers

    def watched(self, feeds):
        seen.append((len(feeds["input"]), self.block))
        return answers(self, feeds)

    monkeypatch.setattr(TorchRunner, "_answers", watched)
    return seen


@pytest.fixture
def measured(monkeypatch):
    """What onnxruntime takes for an image is a given number of MiB."""
    return lambda taken: monkeypatch.setattr(memory, "_measured", lambda *_: int(taken * 2**20))


def verified(module, path, shape=SHAPE, runtime="onnxruntime", **options):
    return aaexport.verify(module, path, input_shape=shape, runtimes=[runtime], **options)


def batches(report):
    cases = {output.case for output in report.outputs}
    return {size for size in (1, 2, 3, 7) if f"random, batch {size}" in cases}


def about_memory(report):
    return [note for note in report.notes if "--max-memory" in note or "at a time" in note]


def test_what_fits_is_verified_as_ever(attention, largest):
    report = verified(*attention)
    assert report.passed
    assert not about_memory(report)
    assert {block for _, block in largest} == {None}
    assert max(count for count, _ in largest) == 7


def test_large_attention_is_verified_in_blocks_with_nothing_left_out(attention, largest, measured, monkeypatch):
    measured(1)
    peaks = []
    held = InBlocks._held
    monkeypatch.setattr(InBlocks, "_held", lambda self, made: peaks.append(made.shape) or held(self, made))
    report = verified(*attention, max_memory=ENOUGH)
    assert report.passed
    assert batches(report) == {1, 2, 3, 7}
    assert not about_memory(report)
    assert not [shape for shape in peaks if shape[-2:] == (256, 256)]
    assert {block for _, block in largest if block} == {ENOUGH * 2**20 // 64}
    whole = verified(*attention)
    for one, other in zip(report.outputs, whole.outputs, strict=True):
        assert one.max_abs_expected == pytest.approx(other.max_abs_expected, rel=1e-12)


def wrong(path, tmp_path, change):
    model = onnx.load(path)
    change(model.graph)
    onnx.save(model, tmp_path / "wrong.onnx")
    return tmp_path / "wrong.onnx"


def softmax_over_queries(graph):
    surgery.attribute(surgery.find(graph, "Softmax"), "axis", 2)


def scaled_a_little_otherwise(graph):
    surgery.insert_before(graph, surgery.find(graph, "Softmax"), 0, "Mul", surgery.constant(graph, 1.001))


@pytest.mark.parametrize("change", [softmax_over_queries, scaled_a_little_otherwise])
def test_a_fault_inside_a_large_attention_is_found_in_blocks(attention, tmp_path, measured, change):
    measured(1)
    module, path = attention
    report = verified(module, wrong(path, tmp_path, change), runtime="unoptimized", max_memory=ENOUGH)
    assert not report.passed
    assert report.divergence.operator in ("Softmax", "Mul")


class Widened(nn.Module):
    """Sixty-four channels, a matter of one image alone; `mixing` makes the images of a batch change each other."""

    def __init__(self, mixing=None):
        super().__init__()
        torch.manual_seed(0)
        self.widen, self.narrow = nn.Conv2d(1, 64, 3, padding=1), nn.Conv2d(64, 1, 3, padding=1)
        self.mixing = mixing

    def forward(self, x):
        wide = self.widen(x).relu()
        if self.mixing == "statistics":
            wide = wide - wide.mean(0, keepdim=True)
        if self.mixing == "softmax":
            wide = wide.softmax(0)
        return self.narrow(wide)


def of(module, path):
    aaexport.convert(module.eval(), path, input_shape=SMALL, verify=False)
    return path


def test_images_that_do_not_mix_are_computed_apart(tmp_path, largest, measured):
    measured(0.25)
    module = Widened()
    report = verified(module, of(module, tmp_path / "x.onnx"), SMALL, max_memory=3)
    assert report.passed
    assert batches(report) == {1, 2, 3, 7}
    assert max(count for count, block in largest if block) < 7


@pytest.mark.parametrize("mixing", ["statistics", "softmax"])
def test_images_that_mix_are_verified_together_or_not_at_all(tmp_path, largest, measured, mixing):
    measured(0.25)
    module = Widened(mixing)
    report = verified(module, of(module, tmp_path / "x.onnx"), SMALL, max_memory=4)
    assert report.passed, report.complaint
    most = max(batches(report))
    assert 2 <= most < 7
    assert "images of one batch may change each other" in " ".join(report.notes)
    assert "no batch of 7" in " ".join(report.notes)
    assert verified(module, of(Widened(), tmp_path / "y.onnx"), SMALL, max_memory=4).failures  # which mixes nothing


def test_batches_that_the_runtime_has_no_room_for_are_told(attention, measured):
    measured(6)
    report = verified(*attention, max_memory=ENOUGH, batch=9)
    assert report.passed
    assert batches(report) == {1, 2}
    (note,) = about_memory(report)
    assert (
        note
        == "no batch of 9, 7, 3 was tried: it takes more than the 16 MiB that it may (`aaexport verify --max-memory`)"
    )
    assert "no batch of 9, 7, 3 was tried" in report.to_markdown()
    assert note in report.to_dict()["notes"]
    assert "no batch of 9, 7, 3 was tried" in " ".join(str(report).split())


def test_one_image_above_the_limit_is_run_all_the_same_and_told(attention, measured):
    measured(50)
    report = verified(*attention, max_memory=ENOUGH)
    assert report.passed
    assert batches(report) == {1}
    assert "onnxruntime takes 55 MiB for one image, above the 16 MiB" in " ".join(report.notes)


def test_a_batch_that_the_file_fixes_cannot_be_made_smaller(attention, tmp_path, measured):
    measured(50)
    module, _ = attention
    aaexport.convert(module, tmp_path / "x.onnx", input_shape=SHAPE, batch=2, verify=False)
    report = verified(module, tmp_path / "x.onnx", max_memory=4)
    assert report.passed
    assert "onnxruntime takes 55 MiB for the batch of 2, above the 4 MiB" in " ".join(report.notes)


def test_the_evaluator_is_left_out_where_it_has_no_room():
    tight = Memory(2**20, 2**18, None)
    assert tight.of_evaluator(2)
    assert not tight.of_evaluator(3)
    assert Memory(2**20, 2**18, 9).of_evaluator(9)
    assert Memory(2**20, None, None).of_evaluator(99)
    assert tight.labelled(64) == 2


def test_and_that_is_told(tmp_path, measured):
    measured(0.1)
    module = Widened()
    report = aaexport.verify(module, of(module, tmp_path / "x.onnx"), input_shape=SMALL, max_memory=0.5)
    assert report.passed
    assert "onnx reference" not in {computation.name for computation in report.computations}
    assert "onnx's reference evaluator would take more than the" in " ".join(report.notes)


class Kept(nn.Module):
    """Writes into a view of its attention, which is not to be computed later then."""

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        weights = (tokens @ tokens.transpose(1, 2) * 0.01).softmax(-1)
        weights.view(-1).mul_(2)
        return weights @ tokens


def test_a_module_that_does_not_run_in_blocks_is_run_whole_and_that_is_told(tmp_path, measured):
    measured(1)
    module = Kept()
    path = tmp_path / "x.onnx"
    aaexport.convert(module, path, input_shape=(1, 16, 16), verify=False)
    report = verified(module, path, (1, 16, 16), max_memory=8)
    assert report.passed
    assert "PyTorch had whole tensors" in " ".join(report.notes)


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf")])
def test_a_limit_is_above_nothing(attention, wrong):
    with pytest.raises(ArgumentError, match="max_memory must be above 0 MiB, got"):
        verified(*attention, max_memory=wrong)
