"""Other image sizes: a trained model is retargeted, and convert, verify and serve-bench agree on it."""

import json
import re

import numpy as np
import onnx
import pytest
from PIL import Image

import aaexport
from aaexport.errors import ArgumentError, GraphError
from aaexport.folder import checkout
from aaexport.nn.build import build_network
from aaexport.pipeline.subject.subject import as_subject
from aaexport.weights.safetensors import load_weights


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The trained zoo model, converted for images of 12×10 pixels."""
    folder = checkout("aa_cnn3_digits", tmp_path_factory.mktemp("digits") / "digits")
    result = aaexport.convert(folder, size=(12, 10))
    return folder, result


@pytest.fixture(scope="module")
def smaller(tmp_path_factory):
    """The same for images of 6×8 pixels."""
    folder = checkout("aa_cnn3_digits", tmp_path_factory.mktemp("smaller") / "digits")
    return folder, aaexport.convert(folder, size=(6, 8))


@pytest.mark.slow
def test_a_larger_export_keeps_parity_and_says_what_was_interpolated(digits):
    _, result = digits
    assert result.parity.passed
    assert [note for note in result.notes if note.startswith("6 relative tables interpolated for a larger map")]


@pytest.mark.slow
def test_a_smaller_export_keeps_parity_and_says_that_it_is_exact(smaller):
    _, result = smaller
    assert result.parity.passed
    assert result.notes == ("3 relative tables cut to their central rows for a smaller map, which is exact",)


@pytest.mark.slow
def test_the_file_takes_images_of_that_size(digits):
    folder, _ = digits
    shape = onnx.load(folder.onnx_path).graph.input[0].type.tensor_type.shape
    assert [dimension.dim_value for dimension in shape.dim][1:] == [1, 12, 10]


def test_the_smaller_network_has_the_central_rows_of_the_trained_tables(tmp_path):
    folder = checkout("aa_cnn3_digits", tmp_path / "digits")
    trained = build_network(folder.recipe)
    load_weights(trained, folder.weights_path)
    module = as_subject(folder, size=(6, 8)).module
    before, after = trained.features[0], module.features[0]
    assert (len(before.rel_height), len(after.rel_height)) == (15, 11)
    assert after.rel_height.equal(before.rel_height[2:13])
    assert after.rel_width.equal(before.rel_width)


@pytest.fixture(scope="module")
def report(digits):
    return aaexport.verify(digits[0])


@pytest.mark.slow
def test_verify_follows_the_size_of_the_file_and_says_so(report):
    assert report.passed
    assert "for images of 12×10, which is not the recipe's size" in report.notes


@pytest.mark.slow
def test_images_are_resized_for_the_verification_and_it_says_so(report):
    assert any(output.case.startswith("images") for output in report.outputs)
    assert any(re.search(r"resized from 8×8 to 12×10", note) for note in report.notes)


@pytest.mark.slow
def test_a_file_of_another_size_fails_where_the_recipes_is_asked_for(digits):
    folder, _ = digits
    with pytest.raises(GraphError, match="must have the shape"):
        aaexport.verify(folder, size=(8, 8))


@pytest.mark.slow
def test_a_recipe_of_another_size_makes_the_file_stale(digits, tmp_path):
    folder = checkout(digits[0].path, tmp_path / "changed")
    folder.onnx_path.write_bytes(digits[0].onnx_path.read_bytes())
    text = folder.recipe_path.read_text(encoding="utf-8")
    folder.recipe_path.write_text(text.replace("height = 8", "height = 12"), encoding="utf-8")
    report = aaexport.verify(folder.path)
    assert any("stale" in failure for failure in report.failures)


@pytest.mark.slow
def test_the_recipes_own_size_can_be_changed_instead(tmp_path):
    folder = checkout("aa_cnn3_digits", tmp_path / "digits")
    text = folder.recipe_path.read_text(encoding="utf-8")
    folder.recipe_path.write_text(text.replace("height = 8", "height = 5"), encoding="utf-8")
    result = aaexport.convert(folder.path)
    assert result.parity.passed
    assert result.notes == ("3 relative tables cut to their central rows for a smaller map, which is exact",)


def test_build_model_builds_for_that_size():
    model = aaexport.build_model("aa_cnn3_digits", size=(10, 12))
    assert model.features[0].attention_size == (10, 12)


@pytest.mark.slow
def test_serve_bench_follows_the_size_of_the_file(digits):
    folder, _ = digits
    report = aaexport.serve_bench(folder, duration=0.2, warmup=0.0, batches=[1], device="cpu")
    assert report.inputs == "held-out images"
    assert report.comparisons  # PyTorch answered for images of that size too
    assert not [reason for reason in report.reasons if "answer differently" in reason]


def test_a_size_below_the_networks_stride_is_a_usage_error(cli, tmp_path):
    outcome = cli("convert", "aa_cnn3_digits", "--size", 1, 8)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.splitlines()[-1] == (
        "Error: --size: height must be at least 2, the network's stride, got 1; ask for larger images"
    )


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((100000, 100000), "height must be at most 65536, got 100000; ask for smaller images"),
        ((8, 65537), "width must be at most 65536, got 65537; ask for smaller images"),
        ((8, 1), "width must be at least 2, the network's stride, got 1; ask for larger images"),
    ],
)
def test_the_remedy_for_a_size_is_the_right_one(size, words):
    with pytest.raises(ArgumentError, match=re.escape(words)):
        aaexport.build_model("aa_cnn3_digits", size=size)


def test_a_size_whose_attention_no_memory_holds_is_refused_before_the_work(tmp_path):
    said = []
    with pytest.raises(ArgumentError) as refusal:
        aaexport.convert("aa_cnn3_digits", tmp_path / "x.onnx", size=(20000, 10000), say=said.append)
    assert str(refusal.value).startswith("size must let the attention of features.0 fit into this machine's ")
    assert str(refusal.value).endswith(" GiB an image; ask for smaller images")
    assert "got 20000 10000, for which it takes " in str(refusal.value)
    assert said == []


def test_a_size_is_refused_by_what_this_machine_has(monkeypatch):
    """1,024 positions and 4 heads: 32 MiB in float64."""
    from aaexport.nn import memory

    module = aaexport.build_model("aa_cnn3_digits", size=(64, 64))
    taken = max(layer.sizes.logits for layer in memory.augmented_layers(module).values()) * 8
    monkeypatch.setattr(memory, "whole_memory", lambda: (taken, "this machine's"))
    memory.require_memory(module, (1, 64, 64), bytes_a_number=8)
    monkeypatch.setattr(memory, "whole_memory", lambda: (taken - 1, "this machine's"))
    with pytest.raises(ArgumentError, match="ask for smaller images"):
        memory.require_memory(module, (1, 64, 64), bytes_a_number=8)
    memory.require_memory(module, (1, 64, 64), bytes_a_number=4)


def test_and_by_what_its_control_group_leaves_of_it(monkeypatch):
    from aaexport.nn import memory

    module = aaexport.build_model("aa_cnn3_digits", size=(64, 64))
    monkeypatch.setattr(memory, "whole_memory", lambda: (2**20, "its control group's"))
    with pytest.raises(ArgumentError, match=r"fit into its control group's 0 GiB, got 64 64, for which"):
        memory.require_memory(module, (1, 64, 64), bytes_a_number=8)


def test_a_size_is_for_recipes():
    with pytest.raises(ArgumentError, match="size must be given for a recipe's network"):
        aaexport.convert(aaexport.build_model("aa_cnn3_digits"), "x.onnx", input_shape=(1, 8, 8), size=(9, 9))


@pytest.mark.slow  # the page of other sizes has the same command
def test_the_command_line_says_what_was_interpolated(cli):
    outcome = cli("convert", "aa_cnn3_digits", "--size", 9, 9, "--no-verify", "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["notes"][0].startswith("6 relative tables interpolated")


@pytest.mark.slow
def test_serve_bench_refuses_another_size_than_the_files(cli, digits):
    folder, _ = digits
    outcome = cli("serve-bench", folder.path, "--size", 8, 8)
    assert outcome.code == 2
    assert outcome.err.splitlines()[-1] == (
        f"Error: --size must be that of {folder.onnx_path}, 12 10, got '8 8'; "
        f"write it anew with `aaexport convert {folder.path} --size 8 8`"
    )


@pytest.mark.slow
def test_the_verification_of_random_weights_says_that_they_are_random(cli, tmp_path):
    outcome = cli("convert", "resnet20_cifar10", "--random-weights", "--out", tmp_path / "plain")
    assert outcome.code == 0, outcome.err
    assert "the weights are random ones, never trained" in outcome.out
    values = onnx.load(tmp_path / "plain" / "model.onnx").metadata_props
    assert any("never trained" in entry.value for entry in values)
    assert np.isfinite(json.loads((tmp_path / "plain" / "parity.json").read_text())["max_abs_error"])


@pytest.mark.slow
def test_weights_that_are_there_are_kept_and_it_is_said(cli):
    outcome = cli("convert", "wrn10_1_digits", "--random-weights", "--no-verify")
    assert outcome.code == 0
    assert "wrn10_1_digits/weights.safetensors is there already: it is kept" in outcome.err
    assert "never trained" not in outcome.out


@pytest.mark.slow
def test_a_corrupt_image_is_left_out_of_the_verification_and_named(tmp_path):
    folder = checkout("aa_wrn10_1_digits", tmp_path / "pictures")
    text = folder.recipe_path.read_text(encoding="utf-8")
    text = text.replace('dataset = "digits"', 'dataset = "imagefolder"\npath = "pictures"')
    folder.recipe_path.write_text(text, encoding="utf-8")
    for digit in range(10):
        place = folder.path / "pictures" / "test" / str(digit)
        place.mkdir(parents=True)
        Image.fromarray(np.full((9, 7), 20 * digit, np.uint8)).save(place / "good.png")
    (place / "bad.png").write_bytes(b"no image")
    result = aaexport.convert(folder.path)
    assert result.parity.passed
    assert any(note.startswith("1 corrupt image skipped") and "bad.png" in note for note in result.parity.notes)
    assert any(output.case.startswith("images") for output in result.parity.outputs)
    assert result.parity.accuracy.images == 10


def test_a_folder_whose_data_has_a_relative_path_is_not_copied(cli, tmp_path):
    folder = checkout("aa_wrn10_1_digits", tmp_path / "pictures")
    text = folder.recipe_path.read_text(encoding="utf-8")
    text = text.replace('dataset = "digits"', 'dataset = "imagefolder"\npath = "images"')
    folder.recipe_path.write_text(text, encoding="utf-8")
    outcome = cli("convert", folder.path, "--out", tmp_path / "copy")
    assert outcome.code == 1
    assert "[data] path must be absolute where the folder is copied, got 'images'" in outcome.err
    assert not (tmp_path / "copy").exists()
