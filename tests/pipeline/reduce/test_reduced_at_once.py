"""A folder whose model.onnx is verified and fresh → its files in fewer bits, without PyTorch: the same as with it."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from folders import edited

from aaexport.folder import open_folder
from aaexport.graph.files import read_onnx
from aaexport.pipeline.convert.options import ConvertOptions
from aaexport.pipeline.convert.reduced import reduced_at_once
from aaexport.pipeline.subject.facts import FolderFacts, facts_of
from aaexport.pipeline.subject.known_truth import keep_truth, known_truth
from aaexport.pipeline.subject.subject import as_subject
from aaexport.pipeline.verify.inputs import gather_inputs
from aaexport.pipeline.verify.oracles import oracles

INT8 = ConvertOptions(dtype="int8")


@pytest.fixture
def reduced(reduced_once, tmp_path):
    """A copy of it that a test may spoil."""
    shutil.copytree(reduced_once[0], tmp_path / "tiny")
    return open_folder(tmp_path / "tiny")


@pytest.fixture(scope="module")
def facts(converted_once):
    return facts_of(open_folder(converted_once), None)


def images_of(facts, count=7):
    return next(gather_inputs(facts, None, 0).cases(None, None, count)).batch


def told(report):
    """All but where and when."""
    return dataclasses.replace(report, onnx="", date="", command=None)


@pytest.mark.parametrize("kind", ["int8", "float16"])
def test_file_and_verdict_are_those_that_pytorch_gives(reduced, reduced_once, monkeypatch, kind):
    monkeypatch.setattr(FolderFacts, "whole", lambda facts: pytest.fail("PyTorch was asked"))
    before = reduced.onnx_of(kind).read_bytes()
    reduced.onnx_of(kind).unlink()
    result = reduced_at_once(reduced, None, ConvertOptions(dtype=kind))
    assert reduced.onnx_of(kind).read_bytes() == before
    assert told(result.parity) == told(reduced_once[1][kind].parity)
    assert json.loads(reduced.parity_of(kind).read_text())["passed"]


def test_what_the_files_tell_is_what_the_module_tells(facts, converted_once):
    subject = as_subject(open_folder(converted_once))
    for name in ("input_shape", "output_names", "weights_digest", "notes", "recipe", "own_size", "golden"):
        assert getattr(facts, name) == getattr(subject, name), name


def test_the_kept_truth_is_what_pytorch_answers_in_float64(facts):
    images = images_of(facts)
    expected = oracles(facts.whole())[0]().infer({"input": images})
    kept = known_truth(facts, images)
    assert kept.keys() == expected.keys()
    for name, array in expected.items():
        assert kept[name].dtype == np.float64
        np.testing.assert_array_equal(kept[name], array)


def test_nothing_is_known_of_other_images(facts):
    images = images_of(facts)
    assert known_truth(facts, images[:3]) is None
    assert known_truth(facts, images[::-1].copy()) is None
    assert known_truth(facts, images.astype(np.float64)) is None


def test_nothing_is_known_of_other_weights_sizes_or_outputs(facts):
    images = images_of(facts)
    assert known_truth(dataclasses.replace(facts, weights_digest="0" * 64), images) is None
    assert known_truth(dataclasses.replace(facts, output_names=("other",)), images) is None
    assert known_truth(dataclasses.replace(facts, recipe=facts.recipe.for_size((12, 12))), images) is None


def test_a_spoilt_truth_is_none(converted):
    facts = facts_of(converted, None)
    images, whole = images_of(facts), converted.truth_path.read_bytes()
    answer = known_truth(facts, images)[facts.output_names[0]].tobytes()
    place = whole.index(answer)
    for spoilt in (whole[:-5], b"", whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]):
        converted.truth_path.write_bytes(spoilt)
        assert known_truth(facts, images) is None
    converted.truth_path.unlink()
    assert known_truth(facts, images) is None


def test_another_recipe_or_code_knows_nothing(converted, monkeypatch):
    facts = facts_of(converted, None)
    images = images_of(facts)
    assert known_truth(facts, images) is not None
    monkeypatch.setattr("aaexport.pipeline.subject.known_truth.tool_versions", lambda: {"aaexport": "0"})
    assert known_truth(facts, images) is None
    monkeypatch.undo()
    edited(converted, "mean = [0.305]", "mean = [0.3]")
    again = dataclasses.replace(facts, folder=open_folder(converted.path))
    assert known_truth(again, images) is None


def test_a_conversion_without_a_truth_leaves_no_older_one(converted):
    keep_truth(converted, facts_of(converted, None), [])
    assert not converted.truth_path.exists()


def other_weights(folder):
    content = bytearray(folder.weights_path.read_bytes())
    content[-2] ^= 1
    folder.weights_path.write_bytes(content)


def another_file(folder):
    model = read_onnx(folder.onnx_path)
    model.doc_string = "changed"
    folder.onnx_path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    "spoil",
    [
        other_weights,
        another_file,
        lambda folder: folder.onnx_path.unlink(),
        lambda folder: folder.weights_path.unlink(),
        lambda folder: folder.weights_path.write_bytes(b"{"),
        lambda folder: folder.parity_path.unlink(),
        lambda folder: edited(folder, "mean = [0.305]", "mean = [0.3]"),
    ],
    ids=[
        "other weights",
        "another file",
        "no file",
        "no weights",
        "broken weights",
        "unverified",
        "recipe",
    ],
)
def test_what_is_not_verified_and_fresh_is_left_to_pytorch(converted, spoil):
    spoil(converted)
    assert reduced_at_once(open_folder(converted.path), None, INT8) is None


@pytest.mark.parametrize("changes", [{"opset": 21}, {"batch": 3}, {"with_attention": True}], ids=str)
def test_another_float32_file_is_left_to_pytorch(converted, changes):
    assert reduced_at_once(converted, None, dataclasses.replace(INT8, **changes)) is None
