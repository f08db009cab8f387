"""What contenders lose of float32: measured for all, judged by the guard of each kind, not by that of float32."""

from dataclasses import replace

import numpy as np
import pytest
from fewer_bits import folder_in_fewer_bits
from test_rivals import Pretended

from aaexport.errors import ArgumentError, FolderError
from aaexport.folder import open_folder
from aaexport.load.measurement import Loss
from aaexport.pipeline.bench.answer_check import Asked, Terms, checked_answers
from aaexport.pipeline.bench.contender import OURS
from aaexport.pipeline.bench.feeding import Feeder
from aaexport.pipeline.bench.losses import loss_of
from aaexport.pipeline.bench.option_rules import validate
from aaexport.pipeline.bench.options import BenchOptions
from aaexport.pipeline.bench.rival_names import IN_PROCESS
from aaexport.pipeline.bench.specs import find_file, require_comparable_models, require_for_tensorrt
from aaexport.runners.base import Port

IMAGES = 64


@pytest.fixture
def scores(rng):
    """Of ten classes, far enough from each other that noise of 25 dB ties few of them."""
    return 3 * rng.standard_normal((IMAGES, 10)).astype(np.float32)


def noisy(array, db, rng):
    """The same with noise so many dB below."""
    noise = rng.standard_normal(array.shape)
    power = np.square(array).mean() / np.square(noise).mean()
    return array + noise * np.sqrt(power) * 10 ** (-db / 20)


def lost(tmp_path, expected, answers, kind="int8", judged=True, scores=None):
    np.savez(tmp_path / "expected.npz", y=expected)
    np.savez(tmp_path / "answers.npz", y=answers)
    paths = (tmp_path / "answers.npz", tmp_path / "expected.npz")
    return loss_of("ours", kind, *paths, "PyTorch", scores, judged=judged)


@pytest.mark.parametrize("db", [20.0, 36.0, 60.0])
def test_a_loss_is_told_in_db_and_in_images(tmp_path, scores, rng, db):
    found = lost(tmp_path, scores, noisy(scores, db, rng)).loss
    assert found.sqnr_db == pytest.approx(db, abs=0.1)
    assert (found.kind, found.against, found.images) == ("int8", "PyTorch", IMAGES)
    assert found.same_class > 0.9


@pytest.mark.parametrize(
    ("kind", "db", "within"),
    [("int8", 36.0, True), ("int8", 17.4, False), ("float16", 60.0, True), ("float16", 36.0, False),
     ("quantized", 17.4, None), ("float32", 17.4, None)],
)  # fmt: skip
def test_each_kind_is_judged_by_its_own_guard(tmp_path, scores, rng, kind, db, within):
    found = lost(tmp_path, scores, noisy(scores, db, rng), kind)
    assert found.loss.within is within
    assert bool(found.failures) == (within is False)
    assert all(line.startswith(("SQNR of y", "KL of y", "top-")) for line in found.failures)


def test_what_cannot_be_judged_is_measured_all_the_same(tmp_path, scores, rng):
    found = lost(tmp_path, scores, noisy(scores, 17.4, rng), judged=False)
    assert found.loss.within is None
    assert found.failures == ()
    assert found.loss.sqnr_db == pytest.approx(17.4, abs=0.1)


def test_the_same_answers_have_lost_nothing(tmp_path, scores):
    assert lost(tmp_path, scores, scores).loss == Loss("int8", "PyTorch", IMAGES, None, 1.0, within=True)


def test_what_is_finite_in_float32_alone_is_the_end_of_any_signal(tmp_path, scores):
    answers = scores.copy()
    answers[3, 2] = np.nan
    found = lost(tmp_path, scores, answers)
    assert found.loss.sqnr_db == -np.inf
    assert found.loss.within is False


def test_other_outputs_have_no_loss(tmp_path, scores):
    assert lost(tmp_path, scores, scores[:, :5]) is None


def test_scores_that_are_none_have_no_class(tmp_path, scores):
    assert lost(tmp_path, scores, scores, scores=frozenset()).loss.same_class is None


# Beside each other


def checked(tmp_path, rng, ours_db, kind="int8", is_noise=False, **rivals_db):
    """What comes of asking pretended contenders whose answers lie so many dB off float32's."""
    truth = 3 * rng.standard_normal(4)
    contenders = {name: Pretended(name, [], answer=noisy(truth, db, rng)) for name, db in rivals_db.items()}
    ours = Pretended("ours", [], answer=noisy(truth, ours_db, rng))
    contenders["eager"] = Pretended("eager", [], answer=truth)
    kinds = {OURS: kind} | {name: name for name in rivals_db}
    asked = Asked(ours, contenders, Terms(kinds, None, is_noise), 1, None, tmp_path)
    return checked_answers(asked, object(), None, by_rival=True)


def test_a_reduced_file_must_answer_as_itself_and_lose_what_its_guard_allows(tmp_path, rng):
    found = checked(tmp_path, rng, 36.0, float32=200.0, float16=60.0)
    assert found.reasons == []
    assert found.expected.against == "the file's own, in small batches"
    with np.load(found.expected.path) as own, np.load(tmp_path / "expected.npz") as float32:
        assert not np.array_equal(own["y"], float32["y"])
    assert found.loss.within
    same = {name: each.same for name, each in found.agreements.items()}
    assert same == {"float32": True, "float16": True, "eager": True}
    assert found.agreements["float16"].loss.sqnr_db == pytest.approx(60.0, abs=6.0)


def test_a_reduced_file_that_lost_too_much_makes_no_valid_measurement(tmp_path, rng):
    found = checked(tmp_path, rng, 12.0, float16=30.0)
    assert found.reasons[0].startswith("int8 must lose no more than its guard allows: SQNR of y by onnxruntime")
    assert found.agreements["float16"].same is False
    assert any(note.startswith("float16: SQNR of y by float16") for note in found.notes)


def test_the_file_in_process_beside_its_service_is_judged_as_what_it_is(tmp_path, rng):
    truth = 3 * rng.standard_normal(4)
    ours = Pretended("ours", [], answer=noisy(truth, 36.0, rng))
    for db, same in ((36.0, True), (12.0, False)):
        rivals = {IN_PROCESS: Pretended(IN_PROCESS, [], answer=noisy(truth, db, rng))}
        rivals["eager"] = Pretended("eager", [], answer=truth)
        terms = Terms({OURS: "int8", IN_PROCESS: "int8"}, None, is_noise=False)
        found = checked_answers(Asked(ours, rivals, terms, 1, None, tmp_path), object(), None, by_rival=True)
        assert found.agreements[IN_PROCESS].same is same


def test_noise_does_not_judge_int8_and_says_so(tmp_path, rng):
    found = checked(tmp_path, rng, 12.0, is_noise=True, float16=60.0)
    assert (found.reasons, found.loss.within) == ([], None)
    assert found.agreements["float16"].same is True
    assert found.notes == ["noise cannot judge what int8 has lost; `aaexport verify` judges the file by images"]


def test_a_float32_file_beside_a_reduced_one_tells_its_own_loss(tmp_path, rng):
    found = checked(tmp_path, rng, 120.0, kind="float32", int8=36.0)
    assert found.expected.against == "eager at work"
    assert found.loss.sqnr_db > 60
    assert found.loss.within is None
    assert found.agreements["int8"].same is True


# What is asked for


def test_a_file_by_itself_has_the_precision_that_it_has(tmp_path):
    with pytest.raises(ArgumentError, match=r"dtype must go with a model folder, got 'int8 for x\.onnx'"):
        find_file("x.onnx", "int8")


def test_a_file_that_is_not_there_is_named_with_how_to_write_it(converted):
    with pytest.raises(
        FolderError, match=r"has no model\.int8\.onnx yet; write it with `aaexport convert .* --dtype int8`"
    ):
        find_file(open_folder(converted.path), "int8")
    with pytest.raises(FolderError, match=r"has no model\.fp16\.onnx yet"):
        require_comparable_models(BenchOptions(compare=("float16",)), converted)


def test_another_precision_is_a_folders(tmp_path):
    with pytest.raises(ArgumentError, match=r"be a file of a model folder's, got .*an ONNX file alone"):
        require_comparable_models(BenchOptions(compare=("int8",)), None)


def test_no_file_is_measured_beside_itself():
    with pytest.raises(ArgumentError, match="compare must be others than the file that is measured"):
        validate(BenchOptions(dtype="int8", compare=("float32", "int8")))
    with pytest.raises(ArgumentError, match="compare must be others than the file that is measured"):
        validate(BenchOptions(compare=("float32",)))


def test_images_are_fed_in_the_type_that_a_file_takes(tmp_path, rng):
    images = rng.standard_normal((4, 1, 2, 2)).astype(np.float32)
    np.savez(tmp_path / "samples.npz", image=images)
    ports = (Port("image", np.dtype(np.float16), (None, 1, 2, 2)),)
    fed = Feeder(tmp_path / "samples.npz", ports, batched=True).feeds((1, 2))
    assert fed["image"].dtype == np.float16
    assert np.array_equal(fed["image"], images[1:3].astype(np.float16))


def test_tensorrt_is_given_symmetric_int8_only(tmp_path):
    folder = folder_in_fewer_bits(tmp_path / "digits")
    path, asked = folder.onnx_of("int8"), BenchOptions(dtype="int8", session={"tensorrt": True}, compare=())
    with pytest.raises(ArgumentError, match=r"tensorrt must be given int8 .*--dtype int8 --target cuda"):
        require_for_tensorrt(path, folder, asked)
    with pytest.raises(ArgumentError, match=r"tensorrt must be given int8 .*model\.int8\.onnx with"):
        require_for_tensorrt(folder.onnx_path, folder, replace(asked, dtype="float32", compare=("int8",)))
    with pytest.raises(ArgumentError, match="tensorrt must be given int8"):
        require_for_tensorrt(folder.onnx_path, folder, replace(asked, compare=(f"onnx:{path}",)))
    require_for_tensorrt(folder.onnx_path, folder, asked)
    require_for_tensorrt(path, folder, replace(asked, session={}))
