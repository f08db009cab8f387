"""What a verification may take: attention in blocks, images apart where they do not mix, and what is left out."""

from pathlib import Path

import onnx
import pytest
import surgery
import torch
from torch import nn
from vision_transformers import PlainAttention, Tokens

import aaexport
from aaexport.errors import ArgumentError
from aaexport.graph import files
from aaexport.memory import MEBIBYTE
from aaexport.pipeline.subject.subject import as_subject
from aaexport.pipeline.verify import matrix, memory
from aaexport.pipeline.verify.kept import answers_to_keep
from aaexport.pipeline.verify.memory import Memory
from aaexport.pipeline.verify.options import VerifyOptions
from aaexport.runners.in_blocks import InBlocks
from aaexport.runners.torch import TorchRunner

SHAPE = (3, 32, 32)
ENOUGH = 1  # MiB for attention of 64 tokens in 3 heads, but not for all images at once in float64
SMALL = (1, 8, 8)


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


def test_what_fits_is_verified_as_ever(attention, largest, monkeypatch):
    parsed, load = [], files._load
    monkeypatch.setattr(files, "_load", lambda path: parsed.append(path) or load(path))
    report = verified(*attention)
    assert report.passed
    assert parsed == [attention[1]]  # once: a large file takes its time
    assert not about_memory(report)
    assert {block for _, block in largest} == {None}
    assert max(count for count, _ in largest) == 7


def test_large_attention_is_verified_in_blocks_with_nothing_left_out(attention, largest, measured, monkeypatch):
    measured(1 / 16)
    peaks = []
    held = InBlocks._held
    monkeypatch.setattr(InBlocks, "_held", lambda self, made: peaks.append(made.shape) or held(self, made))
    report = verified(*attention, max_memory=ENOUGH)
    assert report.passed
    assert batches(report) == {1, 2, 3, 7}
    assert not about_memory(report)
    assert not [shape for shape in peaks if shape[-2:] == (64, 64)]
    assert {block for _, block in largest if block} == {ENOUGH * 2**20 // 64}
    whole = verified(*attention)
    for one, other in zip(report.outputs, whole.outputs, strict=True):
        assert one.max_abs_expected == pytest.approx(other.max_abs_expected, rel=1e-12)


def kept(module, path, **options):
    found = answers_to_keep(as_subject(module, SHAPE), path, VerifyOptions(**options))
    return [truth.case.name for truth in found.truths], found.notes


def test_golden_vectors_are_computed_within_the_memory_too(attention, largest):
    module, path = attention
    assert kept(module, path, max_memory=8) == (["random, batch 2", "random, batch 1"], ())
    assert {block for _, block in largest} == {None}
    largest.clear()
    names, (note,) = kept(module, path, max_memory=1 / 4)
    assert names == ["random, batch 1"]
    assert note == "the golden vectors are of one image alone, for the memory that more of them take"
    assert {(count, block) for count, block in largest if block} == {(1, memory.LEAST_BLOCK)}


def test_golden_vectors_of_what_takes_long_are_of_one_image(attention, largest):
    module, path = attention
    as_subject(module, SHAPE)
    largest.clear()
    names, (note,) = kept(module, path, most_macs=1)
    assert names == ["random, batch 1"]
    assert note == "0 G MACs an image: the golden vectors are of one image alone"
    assert len(largest) <= 3  # float64, float32, and once more for what a runtime may do otherwise


def test_a_file_whose_images_take_long_is_given_fewer_and_what_there_is_to_do_is_told(attention, monkeypatch):
    monkeypatch.setattr(matrix, "DEAR_MACS", 1)
    said = []
    report = verified(*attention, say=said.append)
    assert report.passed
    assert batches(report) == {1, 2}
    asking = "asking PyTorch in float64, PyTorch in float32 and 1 runtime for 9 inputs, 10 images of 0 G MACs each"
    assert said.index(asking) < said.index(" PyTorch in float64, random, batch 2, 1 of 9")
    assert " onnxruntime CPU, infinity in a pixel, 9 of 9" in said
    left_out = "0 G MACs an image: no batch of 7 and 3 was tried (`aaexport verify --batch N` does), "
    assert left_out + "and what is not about the batch was one image" in report.notes
    assert batches(verified(*attention, batch=3)) == {1, 2, 3}


def wrong(path, tmp_path, change):
    model = onnx.load(path)
    change(model.graph)
    onnx.save(model, tmp_path / "wrong.onnx")
    return tmp_path / "wrong.onnx"


def softmax_over_queries(graph):
    surgery.attribute(surgery.find(graph, "Softmax"), "axis", 2)


def scaled_a_little_otherwise(graph):
    surgery.insert_before(graph, surgery.find(graph, "Softmax"), 0, "Mul", surgery.constant(graph, 1.001))


@pytest.mark.slow
@pytest.mark.parametrize("change", [softmax_over_queries, scaled_a_little_otherwise])
def test_a_fault_inside_a_large_attention_is_found_in_blocks(attention, tmp_path, measured, change):
    measured(1 / 16)
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
        if self.mixing == "largest":
            wide = wide / wide.amax().clamp(min=1)
        return self.narrow(wide)


@pytest.mark.parametrize("mixing", [None, "statistics", "softmax", "largest"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_whether_images_change_each_other_is_seen(mixing, dtype):
    runner = TorchRunner(Widened(mixing), ("input",), ("output",), input_shape=SMALL, dtype=dtype)
    assert memory._mixes(runner.infer, SMALL) == (mixing is not None)


def of(module, path):
    aaexport.convert(module.eval(), path, input_shape=SMALL, verify=False)
    return path


@pytest.mark.slow
def test_images_that_do_not_mix_are_computed_apart(tmp_path, largest, measured):
    measured(1 / 64)
    module = Widened()
    report = verified(module, of(module, tmp_path / "x.onnx"), SMALL, max_memory=3 / 16)
    assert report.passed
    assert batches(report) == {1, 2, 3, 7}
    assert max(count for count, block in largest if block) < 7


@pytest.mark.slow
@pytest.mark.parametrize("mixing", ["statistics", "softmax"])
def test_images_that_mix_are_verified_together_or_not_at_all(tmp_path, largest, measured, mixing):
    measured(1 / 64)
    module = Widened(mixing)
    report = verified(module, of(module, tmp_path / "x.onnx"), SMALL, max_memory=1 / 4)
    assert report.passed, report.complaint
    most = max(batches(report))
    assert 2 <= most < 7
    assert "images of one batch may change each other" in " ".join(report.notes)
    assert "no batch of 7" in " ".join(report.notes)
    mixes_nothing = of(Widened(), tmp_path / "y.onnx")
    assert verified(module, mixes_nothing, SMALL, max_memory=1 / 4).failures


def test_batches_that_the_runtime_has_no_room_for_are_told(attention, measured):
    measured(0.375)
    report = verified(*attention, max_memory=ENOUGH, batch=9)
    assert report.passed
    assert batches(report) == {1, 2}
    (note,) = about_memory(report)
    assert (
        note
        == "no batch of 9, 7, 3 was tried: it takes more than the 1 MiB that it may (`aaexport verify --max-memory`)"
    )
    assert "no batch of 9, 7, 3 was tried" in report.to_markdown()
    assert note in report.to_dict()["notes"]
    assert "no batch of 9, 7, 3 was tried" in " ".join(str(report).split())


@pytest.mark.slow
def test_one_image_above_the_limit_is_run_all_the_same_and_told(attention, measured):
    measured(50)
    report = verified(*attention, max_memory=ENOUGH)
    assert report.passed
    assert batches(report) == {1}
    assert "onnxruntime takes 55 MiB for one image, above the 1 MiB" in " ".join(report.notes)


@pytest.mark.slow
def test_a_batch_that_the_file_fixes_cannot_be_made_smaller(attention, tmp_path, measured):
    measured(50)
    module, _ = attention
    aaexport.convert(module, tmp_path / "x.onnx", input_shape=SHAPE, batch=2, verify=False)
    report = verified(module, tmp_path / "x.onnx", max_memory=0.25)
    assert report.passed
    assert "onnxruntime takes 55 MiB for the batch of 2, above the 0.25 MiB" in " ".join(report.notes)


class ByHand(Memory):
    def give_back(self):
        """Which takes its time, and nothing is there to be given."""


def images(taken, wanted=99, single=None):
    """As many as `taken` has room for, where only the runtime takes any."""
    return taken.images(wanted, single, lambda *_: single.infer, Path("x.onnx"), SMALL)


def test_memory_that_was_free_before_hides_no_more_than_half_of_what_the_runtime_takes(measured):
    measured(0)
    assert images(ByHand(2**20, 2**18, None)) == 8
    assert images(ByHand(2**20, 2**16, 5), wanted=5) == 5


def test_what_is_measured_counts_where_the_file_leaves_it_open(measured):
    measured(0.25)
    assert images(ByHand(2**20, 2**18, None)) == 3
    assert images(ByHand(2**20, None, None)) == 3  # golden vectors, and a file whose tensors have no known size
    measured(2)
    above = ByHand(2**20, 2**18, None)
    assert images(above) == 1
    assert "onnxruntime takes 2.2 MiB for one image, above the 1 MiB" in " ".join(above.notes)


def test_what_onnxruntime_takes_is_measured(attention):
    taken = memory._measured(attention[1], memory._images(1, SHAPE))
    assert taken is None or 0 <= taken < 2**26  # 0 where all of it was free already


def test_images_of_other_sizes_are_left_out_where_they_have_no_room(measured):
    measured(0.25)
    tight, loose = ByHand(2**20, 2**18, None), ByHand(2**30, 2**18, None)
    for each in (tight, loose):
        images(each)
    assert loose.holds_other_sizes()
    assert not loose.notes
    assert not tight.holds_other_sizes()
    assert "no images of other sizes were tried: they may take more than the 1 MiB" in " ".join(tight.notes)


class TooLarge(TorchRunner):
    """A module whose one image takes a MiB in float32."""

    def __init__(self):
        self.whole = None

    def memory(self, feeds):
        return 2**20


def test_that_one_image_is_too_much_for_pytorch_is_told(measured):
    measured(0.01)
    taken, single = ByHand(2**20, 2**18, None), TooLarge()
    assert images(taken, single=single) == 1
    notes = " ".join(taken.notes)
    assert "PyTorch takes 2.2 MiB for one image in float64, above the 1 MiB" in notes
    assert "whether images of one batch change each other was not tried" in notes
    single.whole = "it looks at its numbers"
    assert "PyTorch had whole tensors, as it cannot compute this module in blocks: it looks" in taken.all_notes()[-1]


def test_the_evaluator_is_left_out_where_it_has_no_room():
    tight = Memory(2**20, 2**18, None)
    assert tight.of_evaluator(2)
    assert not tight.of_evaluator(3)
    assert Memory(2**20, 2**18, 9).of_evaluator(9)
    assert Memory(2**20, None, None).of_evaluator(99)
    assert tight.labelled(64) == 2
    tight.require_evaluator()
    tight.leave_out_evaluator({1, 2})
    assert not tight.notes
    tight.leave_out_evaluator({1, 2, 3, 7})
    assert "onnx's reference evaluator got no batch of 7 and 3: more than the 1 MiB" in tight.notes[0]


def test_an_evaluator_that_was_asked_for_and_has_no_room_is_an_error(attention):
    rule = r"max_memory must be at least 1 MiB if runtimes name reference, got 0\.1"
    with pytest.raises(ArgumentError, match=rule):
        verified(*attention, runtime="reference", max_memory=0.1)


@pytest.mark.slow
def test_and_that_is_told(tmp_path, measured):
    measured(0.1 / 16)
    module = Widened()
    report = aaexport.verify(module, of(module, tmp_path / "x.onnx"), input_shape=SMALL, max_memory=1 / 32)
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


@pytest.mark.slow
def test_a_module_that_does_not_run_in_blocks_is_run_whole_and_that_is_told(tmp_path, measured):
    measured(1 / 16)
    module = Kept()
    report = verified(module, of(module, tmp_path / "x.onnx"), SMALL, max_memory=0.5)
    assert report.passed
    assert "PyTorch had whole tensors" in " ".join(report.notes)


class Padded(nn.Module):
    """An encoder whose last tokens are padding."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 1)

    def forward(self, x):
        padding = (torch.arange(16) > 12).expand(len(x), 16)
        return self.encoder(x.reshape(-1, 16, 4), src_key_padding_mask=padding)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.slow
@pytest.mark.parametrize("limit", [None, 1 / 32])
def test_what_an_encoder_must_answer_is_no_matter_of_memory(tmp_path, measured, limit):
    measured(1 / 2**12)
    module = Padded()
    report = verified(module, of(module, tmp_path / "x.onnx"), SMALL, max_memory=limit)
    assert report.passed, report.complaint
    assert "zeros at padded places" in " ".join(report.warnings)


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf")])
def test_a_limit_is_above_nothing(attention, wrong):
    with pytest.raises(ArgumentError, match="max_memory must be above 0 MiB, got"):
        verified(*attention, max_memory=wrong)


@pytest.mark.parametrize(("file", "most"), [(0, 4096), (400, 2896), (2000, 1024)])
def test_by_default_the_models_themselves_are_part_of_it(monkeypatch, file, most):
    """Three times the file's bytes, and at least a quarter is left; what a user names is beyond them."""
    monkeypatch.setattr("aaexport.pipeline.verify.options.default_memory", lambda: 4096 * MEBIBYTE)
    assert VerifyOptions().most_bytes(file * MEBIBYTE) == most * MEBIBYTE
    assert VerifyOptions(max_memory=100).most_bytes(file * MEBIBYTE) == 100 * MEBIBYTE
