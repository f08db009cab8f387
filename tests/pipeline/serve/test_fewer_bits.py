"""Files in float16 and int8, served and deployed: by their own answers, once their guard has passed them."""

import json
from dataclasses import replace

import numpy as np
import pytest
from fewer_bits import folder_in_fewer_bits, judged, spoilt

from aaexport.errors import DeploymentError, FolderError, ParityError
from aaexport.pipeline.deploy.deploy import deploy
from aaexport.pipeline.deploy.options import DeployOptions
from aaexport.pipeline.serve import prepare as prepare_module
from aaexport.pipeline.serve.options import ServeOptions
from aaexport.pipeline.serve.order import Order
from aaexport.pipeline.serve.prepare import prepare
from aaexport.runners.ort import OrtRunner
from aaexport.serving.judge import OWN, why_wrong
from aaexport.serving.reading import read_facts
from aaexport.serving.versions import holding, read_served, write_served

REDUCED = ("int8", "float16")


@pytest.fixture
def folder(tmp_path):
    return folder_in_fewer_bits(tmp_path / "digits")


def order(folder, dtype, **changes):
    wanted = {"dtype": dtype, "device": "cpu", "threads": 1, "instances": 1, "max_batch": 2}
    return Order(folder=folder.path, keep=folder.path, **wanted | changes)


def answers(folder, dtype, query):
    with OrtRunner(folder.onnx_of(dtype)) as runner:
        return runner.infer(dict(query.inputs))


@pytest.mark.parametrize("dtype", REDUCED)
def test_golden_vectors_are_what_the_very_file_answers(folder, dtype):
    prepared = prepare(order(folder, dtype))
    (query,), (float32,) = prepared.facts.golden, read_facts(folder).golden
    assert prepared.facts.onnx.name == folder.onnx_of(dtype).name
    np.testing.assert_array_equal(query.inputs["input"], float32.inputs["input"])
    assert not np.array_equal(query.outputs["logits"], float32.outputs["logits"])
    assert why_wrong(query, answers(folder, dtype, query), dtype) is None


@pytest.mark.parametrize("dtype", REDUCED)
def test_the_watchdog_sees_the_answers_of_a_file_that_is_a_little_another(folder, dtype):
    (query,) = prepare(order(folder, dtype)).facts.golden
    spoilt(folder, dtype, by=1.02)
    assert "logits off by" in str(why_wrong(query, answers(folder, dtype, query), dtype))


@pytest.mark.parametrize("dtype", REDUCED)
def test_the_answers_of_float32_are_not_those_of_a_file_in_fewer_bits(folder, dtype):
    """Else a service that serves another file of the folder's would be none the worse."""
    (query,) = prepare(order(folder, dtype)).facts.golden
    (float32,) = read_facts(folder).golden
    wrong = why_wrong(query, float32.outputs, dtype)
    assert (wrong is None) == (dtype == "float16")  # which loses less than one kernel differs from the next
    assert why_wrong(float32, query.outputs, "float32") is not None


@pytest.mark.parametrize("dtype", REDUCED)
def test_a_file_that_no_guard_has_passed_is_not_served(folder, dtype):
    judged(folder, dtype, passed=False)
    with pytest.raises(
        FolderError, match=rf"must have passed its guard, got .*run `aaexport verify .* --dtype {dtype}`"
    ):
        prepare(order(folder, dtype))
    folder.parity_of(dtype).unlink()
    with pytest.raises(FolderError, match="no verdict on this file"):
        prepare(order(folder, dtype))
    assert not list((folder.path / "served").glob("[0-9]*"))


def test_a_verdict_on_another_file_is_none(folder):
    folder.parity_of("int8").write_text(folder.parity_of("float16").read_text())
    with pytest.raises(FolderError, match="no verdict on this file"):
        prepare(order(folder, "int8"))


def test_a_version_of_another_precision_is_told_by_name(folder):
    prepared = prepare(order(folder, "int8"))
    with holding(folder.path):
        write_served(folder.path, read_served(folder.path).with_current(prepared.version))
    with pytest.raises(FolderError, match=r"version 1 of .* must be in float16 to be served so"):
        prepare(order(folder, "float16", number=1))


def test_answers_that_depend_on_who_shares_a_run_are_not_served(folder, monkeypatch):
    class Mixing(OrtRunner):
        """Gives the first image of a run the second one's answer where there are only two."""

        def infer(self, feeds):
            outputs = super().infer(feeds)
            return {name: array[::-1] if len(array) == 2 else array for name, array in outputs.items()}

    monkeypatch.setattr("aaexport.runners.ort.OrtRunner", Mixing)
    assert prepare_module.prepare is prepare
    with pytest.raises(ParityError, match="must answer its golden vectors, got logits off by"):
        prepare(order(folder, "int8"))


def test_a_file_that_takes_float16_is_asked_in_float16(tmp_path):
    folder = folder_in_fewer_bits(tmp_path / "digits", io_dtype="float16")
    facts = prepare(order(folder, "float16")).facts
    assert (facts.inputs[0].datatype, facts.image) == ("FP16", None)
    assert facts.golden[0].inputs["input"].dtype == np.float16


def test_every_precision_of_a_folder_can_be_asked_for():
    for dtype in ("float32", *REDUCED):
        ServeOptions(dtype=dtype).check()


# Deployed


@pytest.mark.parametrize("target", ["triton", "kserve", "ray", "container"])
def test_every_target_takes_a_file_in_int8(folder, tmp_path, target):
    result = deploy(folder, target, tmp_path / "out", options=DeployOptions(dtype="int8"))
    checks = {check.name: check.found for check in result.checks}
    assert checks["guard"] == "model.int8.onnx has passed it, by parity.int8.json"
    assert checks["answers"] == "4 golden images answered alike, alone and together, in onnxruntime"
    assert result.settings["dtype"] == "int8"
    written = folder.onnx_of("int8").read_bytes()
    assert any(path.read_bytes() == written for path in (tmp_path / "out").rglob("*.onnx"))


def test_a_container_serves_the_precision_that_was_deployed(folder, tmp_path):
    deploy(folder, "container", tmp_path / "out", options=DeployOptions(dtype="int8"))
    assert '"--dtype", "int8"' in (tmp_path / "out" / "Containerfile").read_text()
    inside = tmp_path / "out" / "digits"
    assert json.loads((inside / "parity.int8.json").read_text())["passed"]
    prepared = prepare(order(type(folder)(inside), "int8"))
    assert prepared.facts.onnx_sha256 == read_facts(folder, folder.onnx_of("int8")).onnx_sha256


def test_rays_replicas_are_judged_by_the_files_own_answers(folder, tmp_path):
    deploy(folder, "ray", tmp_path / "out", options=DeployOptions(dtype="int8"))
    assert json.loads((tmp_path / "out" / "model.json").read_text())["dtype"] == "int8"
    (float32,) = read_facts(folder).golden
    with np.load(tmp_path / "out" / "golden.npz") as golden:
        own = replace(float32, outputs={"logits": golden["output.logits"]})
    assert why_wrong(own, answers(folder, "int8", own), "int8") is None
    assert why_wrong(own, float32.outputs, "int8") is not None


def test_a_file_without_a_verdict_is_not_deployed(folder, tmp_path):
    folder.parity_of("int8").unlink()
    with pytest.raises(DeploymentError, match="must have passed its guard"):
        deploy(folder, "triton", tmp_path / "out", options=DeployOptions(dtype="int8"))
    assert not (tmp_path / "out").exists()


def test_bounds_of_own_answers_have_reasons():
    assert set(OWN) == set(REDUCED)
    assert all(0 < bound < 0.01 and reason for bound, reason in OWN.values())
