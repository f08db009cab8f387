"""model.onnx → model.fp16.onnx and model.int8.onnx: guarded, beside it, and never a file that is not right."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from folders import edited, files_of
from low_limits import low_limits
from onnx import TensorProto, numpy_helper

import aaexport
from aaexport.errors import ArgumentError, DataError, GraphError, ParityError
from aaexport.folder import open_folder
from aaexport.graph.files import read_onnx
from aaexport.graph.precision.kinds import read_origin
from aaexport.parity.thresholds import THRESHOLDS, Threshold
from aaexport.pipeline.reduce.fresh import outdated
from aaexport.pipeline.reduce.reduce import _Job
from aaexport.results import KeptLayer


@pytest.fixture
def reduced(reduced_once, tmp_path):
    """A copy of it that a test may spoil."""
    shutil.copytree(reduced_once[0], tmp_path / "tiny")
    return open_folder(tmp_path / "tiny")


def test_both_files_lie_beside_model_onnx_which_stays_as_it_is(reduced_once, converted_once):
    path, results = reduced_once
    folder = open_folder(path)
    assert folder.onnx_path.read_bytes() == (converted_once / "model.onnx").read_bytes()
    assert folder.parity_path.read_bytes() == (converted_once / "parity.json").read_bytes()
    recorded = json.loads(folder.manifest_path.read_text())["files"]
    for kind, result in results.items():
        assert result.path == folder.onnx_of(kind)
        assert (result.dtype, result.calibration) == (kind, "64 training images of digits")
        assert result.parity.passed
        record = json.loads(folder.parity_of(kind).read_text())
        assert (record["passed"], record["kind"], record["guard"]["kind"]) == (True, kind, kind)
        origin = read_origin(read_onnx(result.path))
        assert origin.source == recorded["model.onnx"]["sha256"]
        assert record["onnx_sha256"] == recorded[result.path.name]["sha256"]
        assert origin.calibration["images"] == 64


def test_what_is_told_names_the_kind_the_guard_and_what_it_was_judged_on(reduced_once):
    for kind, result in reduced_once[1].items():
        text = str(result)
        assert f"PASS: {kind} with an SQNR of" in text
        assert f"judged as {kind} on 359 held-out images of digits" in text
        assert "95 % interval" in text
        assert "not judged: the weights are random" in text


def test_a_model_onnx_that_is_no_float32_file_is_not_compared_with(reduced):
    """It says that it holds these weights, and does: in float16."""
    shutil.copy(reduced.onnx_of("float16"), reduced.onnx_path)
    report = aaexport.verify(reduced, dtype="float16")
    assert any("judged by PyTorch in float32" in note and "is not in float32" in note for note in report.notes)


@pytest.mark.slow
def test_it_is_the_same_file_every_time(reduced, reduced_once):
    before = reduced.onnx_of("int8").read_bytes()
    aaexport.convert(reduced, dtype="int8")
    assert reduced.onnx_of("int8").read_bytes() == before
    other = aaexport.convert(reduced, dtype="int8", seed=1)
    assert reduced.onnx_of("int8").read_bytes() != before
    assert other.parity.passed


@pytest.mark.slow
def test_verify_judges_each_file_by_its_kind_and_names_the_others(reduced):
    for kind in ("int8", "float16"):
        report = aaexport.verify(reduced, dtype=kind)
        assert (report.passed, report.kind, report.computations) == (True, kind, ())
        assert json.loads(reduced.parity_of(kind).read_text())["passed"]
        by_itself = aaexport.verify(reduced, reduced.onnx_of(kind))  # it says what it is
        assert by_itself.guard.sqnr_db == report.guard.sqnr_db
    against = {(row.computation, row.against) for row in report.guard.rows if row.measure == "SQNR"}
    assert against == {
        ("onnxruntime CPU", "the float32 file"),
        ("onnxruntime CPU", "PyTorch in float64"),
        ("onnxruntime CPU, unoptimized", "PyTorch in float64"),
        ("onnx's reference evaluator", "PyTorch in float64"),
    }


@pytest.mark.slow
def test_a_file_that_is_judged_as_another_kind_keeps_its_own_record(reduced):
    before = files_of(reduced)
    assert not aaexport.verify(reduced, reduced.onnx_of("int8"), dtype="float16").passed
    assert files_of(reduced) == before
    with pytest.raises(ArgumentError, match=r"atol must be left out for a file in int8, got '1\.0'"):
        aaexport.verify(reduced, dtype="int8", atol=1.0)


@pytest.mark.slow
def test_images_that_seem_not_to_be_normalised_are_warned_of(reduced, rng, tmp_path):
    np.savez(tmp_path / "pixels.npz", rng.uniform(0, 255, (8, 1, 8, 8)).astype(np.float32))
    report = aaexport.verify(reduced, dtype="int8", inputs=tmp_path / "pixels.npz")
    assert any("pixels that were not normalised?" in line for line in report.warnings)


@pytest.mark.slow
def test_weights_of_seven_bits_are_judged_by_their_own_grid(reduced):
    result = aaexport.convert(reduced, dtype="int8", weight_type="int7")
    assert result.parity.passed
    assert max(row.value for row in result.parity.guard.rows if row.measure == "weights") < 1
    held = read_onnx(result.path).graph.initializer
    stored = [numpy_helper.to_array(each) for each in held if each.data_type == TensorProto.INT8]
    assert max(np.abs(each.astype(int)).max() for each in stored) == 64


@pytest.mark.slow
def test_signed_weights_of_8_bits_pass_where_the_cpu_adds_them_in_32_and_are_refused_where_not(reduced):
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        pytest.skip("the system does not tell how the CPU adds")
    if "vnni" in info.read_text():
        assert aaexport.convert(reduced, dtype="int8", weight_type="int8").parity.passed
        return
    before = files_of(reduced)
    with pytest.raises(ParityError, match=r"in 16 bits on this CPU; take --weight-type uint8 or int7$"):
        aaexport.convert(reduced, dtype="int8", weight_type="int8")
    assert files_of(reduced) == before


@pytest.mark.slow
def test_a_file_of_another_opset_is_not_said_to_be_of_another_float32_file(reduced):
    aaexport.convert(reduced, dtype="int8", opset=21)
    assert open_folder(reduced.path).onnx_of("int8").is_file()
    report = aaexport.verify(reduced, dtype="int8")
    assert report.passed
    assert not any("must be made of" in line for line in report.warnings)


@pytest.mark.slow
def test_a_file_of_other_weights_or_of_another_model_onnx_is_stale(reduced, tmp_path):
    model = onnx.load(reduced.onnx_of("int8"))
    for entry in model.metadata_props:
        if entry.key == "aaexport.reduction":
            entry.value = entry.value.replace('"source": "', '"source": "0')
        if entry.key == "aaexport.weights_digest":
            entry.value = "0"
    onnx.save(model, reduced.onnx_of("int8"))
    report = aaexport.verify(reduced, dtype="int8")
    assert any("must hold the model's weights" in line for line in report.failures)
    assert any("must be made of the model.onnx beside it" in line for line in report.warnings)


@pytest.mark.slow
def test_a_model_onnx_that_is_not_up_to_date_is_written_first(reduced):
    reduced.onnx_path.unlink()
    steps = []
    aaexport.convert(reduced, dtype="float16", calibrate=2, say=steps.append)
    assert any(step.startswith("converting to float32 first") for step in steps)
    assert aaexport.verify(reduced).passed


@pytest.mark.slow
def test_a_guard_that_fails_leaves_the_old_file_and_names_the_layers_that_cost_most(reduced, monkeypatch):
    before = files_of(reduced)
    monkeypatch.setitem(THRESHOLDS, ("SQNR", "int8"), Threshold(60.0, "none is as good as that"))
    with pytest.raises(
        ParityError, match=r"most is lost by features\.\S+ \([\d.]+ dB alone\), .* --keep auto"
    ) as caught:
        aaexport.convert(reduced, dtype="int8")
    assert caught.value.exit_code == 3
    assert not caught.value.report.guard.passed
    assert files_of(reduced) == before


@pytest.mark.slow
def test_as_few_layers_are_kept_as_it_takes(reduced, reduced_once, monkeypatch):
    best = reduced_once[1]["int8"].parity.guard.sqnr_db
    monkeypatch.setitem(THRESHOLDS, ("SQNR", "int8"), Threshold(best + 0.5, "a little more than it has"))
    result = aaexport.convert(reduced, dtype="int8", keep=["auto"])
    kept = result.kept_layers
    assert result.parity.guard.sqnr_db >= best + 0.5
    assert 0 < len(kept) < reduced_once[1]["int8"].reduced
    assert [layer.alone_db for layer in kept] == sorted(layer.alone_db for layer in kept)
    assert f"{kept[-1].sqnr_db:.1f} dB" in str(result)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["int8", "float16"])
def test_of_a_model_that_protobuf_does_not_hold_the_layers_are_ranked_and_kept_too(
    reduced, reduced_once, monkeypatch, kind
):
    best = reduced_once[1][kind].parity.guard.sqnr_db
    monkeypatch.setitem(THRESHOLDS, ("SQNR", kind), Threshold(best + 0.5, "a little more than it has"))
    with low_limits():
        before = files_of(reduced)
        with pytest.raises(ParityError, match=r"most is lost by \S+ \([\d.]+ dB alone\)"):
            aaexport.convert(reduced, dtype=kind)
        assert files_of(reduced) == before
        result = aaexport.convert(reduced, dtype=kind, keep=["auto"])
        assert result.data_file.is_file()
        assert result.parity.guard.sqnr_db >= best + 0.5
    assert [layer.path for layer in result.kept_layers]
    assert not [path for path in reduced.path.iterdir() if path.is_dir()]  # what was tried


@pytest.mark.slow
def test_where_no_choice_of_layers_passes_what_came_nearest_is_told(reduced, monkeypatch):
    before = files_of(reduced)
    monkeypatch.setitem(THRESHOLDS, ("SQNR", "int8"), Threshold(500.0, "nothing is"))
    with pytest.raises(ParityError, match=r"no choice of layers passes the guard.*nearest came SQNR of logits"):
        aaexport.convert(reduced, dtype="int8", keep=["auto"])
    assert files_of(reduced) == before


def test_a_layer_that_is_named_stays_in_float32(reduced):
    result = aaexport.convert(reduced, dtype="int8", keep=["features.3"])
    (kept,) = [layer for layer in result.kept_layers if layer.path.startswith("features.3")][:1]
    assert (kept.operator, kept.reason) == ("Conv", "it was asked to stay in float32")


def test_a_name_of_no_layer_is_refused_before_anything_is_calibrated(reduced):
    for dtype in ("int8", "float16"):
        steps = []
        with pytest.raises(ArgumentError, match="keep must name a module or a node"):
            aaexport.convert(reduced, dtype=dtype, keep=["features.7x"], say=steps.append)
        assert not any(step.startswith("calibrating") for step in steps)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"dtype": "bfloat16"}, ArgumentError, "dtype must be one of .* got 'bfloat16'; take float16"),
        ({"dtype": "float64"}, ArgumentError, "dtype must be one of .* got 'float64'; take float32"),
        ({"dtype": "int8", "io_dtype": "float16"}, ArgumentError, "io_dtype must be float32 with dtype int8"),
        (
            {"dtype": "int8", "keep": ["features.7x"]},
            ArgumentError,
            "keep must name a module .* did you mean 'features.7",
        ),
        ({"dtype": "int8", "keep": ["auto", "stem"]}, ArgumentError, "keep must be auto alone"),
        ({"dtype": "int8", "calibrate": 1}, ArgumentError, "calibrate must be 2 to 4096 images, got 1"),
        (
            {"dtype": "int8", "calibrate": "none.npz"},
            DataError,
            "calibrate must be whole, but none.npz cannot be read",
        ),
        ({"dtype": "int8", "verify": False}, ArgumentError, "verify must be on with dtype int8"),
        ({"dtype": "int8", "atol": 1.0}, ArgumentError, "atol must be left out with dtype int8"),
        ({"dtype": "int8", "weight_type": "int4"}, ArgumentError, "weight_type must be one of uint8, int8, int7"),
        ({"dtype": "float16", "weight_type": "int7"}, ArgumentError, "weight_type must go with dtype int8"),
        ({"weight_type": "int7"}, ArgumentError, "weight_type must go with dtype float16 or int8, got 'int7'"),
        (
            {"dtype": "int8", "target": "cuda", "weight_type": "int7"},
            ArgumentError,
            "weight_type must be left out with target cuda",
        ),
        ({"calibrate": 64}, ArgumentError, "calibrate must go with dtype float16 or int8, got '64'"),
        ({"keep": ["features"]}, ArgumentError, "keep must go with dtype float16 or int8, got 'features'$"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(reduced, changes, error, words):
    before = files_of(reduced)
    with pytest.raises(error, match=words):
        aaexport.convert(reduced, **changes)
    assert files_of(reduced) == before


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (
            np.zeros((8, 1, 9, 8), np.float32),
            r"calibrate of .* must have the shape \('N', 1, 8, 8\), got \(8, 1, 9, 8\)",
        ),
        (np.ones((8, 1, 8, 8), np.float32), "calibrate of .* must hold images that differ, got 8 that are all alike"),
        (np.full((8, 1, 8, 8), np.nan, np.float32), "calibrate of .* must be finite"),
        (np.zeros((8, 1, 8, 8)), "calibrate of .* must be float32, got float64"),
        (np.zeros((1, 1, 8, 8), np.float32), "calibrate must hold at least 2 images, got 1"),
    ],
)
def test_calibration_images_that_say_nothing_are_refused(reduced, tmp_path, images, words):
    np.savez(tmp_path / "images.npz", images)
    with pytest.raises(DataError, match=words):
        aaexport.convert(reduced, dtype="int8", calibrate=tmp_path / "images.npz")


def test_an_image_that_is_too_large_for_the_network_is_named_as_it_lies_in_its_file(reduced, rng, tmp_path):
    images = rng.standard_normal((8, 1, 8, 8), dtype=np.float32)
    images[5] = 3e38
    np.savez(tmp_path / "images.npz", images)
    before = files_of(reduced)
    with pytest.raises(GraphError, match=r"the output of Conv \S+ of \S+ must be finite .* image 5 of images\.npz$"):
        aaexport.convert(reduced, dtype="int8", calibrate=tmp_path / "images.npz")
    assert files_of(reduced) == before


@pytest.mark.slow
def test_int8_wants_images_and_float16_takes_noise(reduced, monkeypatch):
    edited(reduced, 'dataset = "digits"', 'dataset = "imagefolder"\npath = "/nowhere"')
    aaexport.convert(reduced, verify=False)
    with pytest.raises(DataError, match=r"calibrate must name images for int8, got none .*give images of your own"):
        aaexport.convert(reduced, dtype="int8")
    result = aaexport.convert(reduced, dtype="float16", calibrate=4)
    assert result.calibration == "4 images of noise"
    assert any("calibrated on noise" in note for note in result.notes)


@pytest.mark.slow
def test_a_quantized_model_onnx_is_not_quantized_again(reduced):
    shutil.copy(reduced.onnx_of("int8"), reduced.onnx_path)
    steps = []
    aaexport.convert(reduced, dtype="float16", calibrate=2, say=steps.append)
    assert any("is not in float32" in step for step in steps)
    with pytest.raises(GraphError, match="must be a float32 file"):
        from aaexport.graph.precision.kinds import require_float32

        require_float32(read_onnx(reduced.onnx_of("int8")), "int8")


@pytest.mark.slow
def test_a_new_model_onnx_outdates_what_was_made_of_the_old_one(reduced):
    result = aaexport.convert(reduced, opset=21)
    assert any("model.int8.onnx was made of another model.onnx" in note for note in result.notes)
    assert not reduced.parity_of("int8").exists()
    assert any(
        "must be made of the model.onnx beside it" in w for w in aaexport.verify(reduced, dtype="int8").warnings
    )
    assert any("model.int8.onnx lies beside it" in note for note in aaexport.verify(reduced).notes)


@pytest.mark.parametrize("enough", range(3, 9))
def test_no_more_layers_are_kept_than_it_takes(enough):
    """Eight do, two do not."""
    tried = []

    def write(kept):
        tried.append(kept)
        if len(kept) < enough:
            raise ParityError("too few", None)
        return f"{len(kept)} kept"

    job = SimpleNamespace(write=write, converted=lambda nodes: nodes)
    layers = [KeptLayer("", f"conv_{n}", "Conv", "it cost most") for n in range(8)]
    written, kept = _Job.fewest(job, "8 kept", layers, 2)
    assert (written, len(kept)) == (f"{enough} kept", enough)
    assert len(tried) <= 3


def test_a_new_model_onnx_outdates_what_was_made_of_the_old_one_and_not_what_names_none(reduced):
    def without_source(kind, digest=None):
        model = onnx.load(reduced.onnx_of(kind))
        for entry in model.metadata_props:
            if entry.key == "aaexport.reduction":
                entry.value = json.dumps(json.loads(entry.value) | {"source": ""})
            if digest is not None and entry.key == "aaexport.weights_digest":
                entry.value = digest
        onnx.save(model, reduced.onnx_of(kind))

    without_source("int8")
    assert outdated(reduced) == ()
    without_source("float16", digest="0")
    (note,) = outdated(reduced)
    assert note.startswith("model.fp16.onnx was made of another model.onnx")
    assert [reduced.parity_of(kind).is_file() for kind in ("int8", "float16")] == [True, False]
