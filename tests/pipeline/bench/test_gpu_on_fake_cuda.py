"""What a GPU's driver tells while serve-bench and tune are at work: all but the numbers is as on a real one."""

import json
import os
import shutil

import pytest
from repository import ROOT

pytestmark = pytest.mark.slow
SHORT = (
    "--device",
    "cuda",
    "--compare",
    "none",
    "--no-check",
    "--duration",
    "3",
    "--warmup",
    "0.05",
    "--settle",
    "0s",
)


@pytest.fixture
def beside(fake_cuda):
    """The environment of a process that finds the management library as well."""
    path = fake_cuda.environment()["PYTHONPATH"]
    return {"PYTHONPATH": os.pathsep.join([str(ROOT / "tests" / "fake_cuda" / "nvml"), path])}


def test_clocks_energy_and_memory_are_told_of_a_gpu_among_others_that_refuse(fake_cuda, converted, tmp_path, beside):
    folder = shutil.copytree(converted.path, tmp_path / "model")
    command = ["-m", "aaexport", "-q", "serve-bench", folder, *SHORT, "--batch", "1,2", "--json"]
    ran = fake_cuda.run(command, tmp_path / "log", env={**beside, "FAKE_NVML_REFUSED": "2"})
    value = json.loads(ran.out)
    assert (value["gpu_before"]["name"], value["gpu_load"]["sm_clock"]) == ("NVIDIA H200 (fake)", 1980)
    assert value["gpu_load"]["samples"] >= 3
    for row in value["throughput"]:
        # 300 W by the account of energy, whatever lies before and after the queries
        assert row["energy"] * row["images_per_second"] == pytest.approx(300, rel=0.05)
        assert row["memory"] == 0  # this one's account never changes


@pytest.mark.parametrize(("shown", "name"), [("MIG-fake", "NVIDIA H200 (fake) MIG 3g.71gb"), ("MIG-other", None)])
def test_an_instance_of_a_gpu_is_read_by_its_name_or_a_note_says_why_not(
    fake_cuda, converted, tmp_path, beside, shown, name
):
    folder = shutil.copytree(converted.path, tmp_path / "model")
    command = ["-m", "aaexport", "-q", "serve-bench", folder, *SHORT, "--batch", "1", "--json"]
    value = json.loads(fake_cuda.run(command, tmp_path / "log", env={**beside, "CUDA_VISIBLE_DEVICES": shown}).out)
    assert value["label"] == "onnxruntime CUDA"
    assert (value["gpu_before"] or {"name": None})["name"] == name
    noted = [note for note in value["notes"] if note.startswith("the GPU's clocks and heat were not read: ")]
    assert len(noted) == (name is None)


def test_a_gpu_that_does_not_work_is_a_note_of_what_is_measured_on_the_cpu(fake_cuda, converted, tmp_path):
    folder = shutil.copytree(converted.path, tmp_path / "model")
    command = ["-m", "aaexport", "-q", "serve-bench", folder, *SHORT[2:], "--batch", "1", "--json"]
    value = json.loads(fake_cuda.run(command, tmp_path / "log", driver=12080).out)
    assert value["label"] == "onnxruntime CPU"
    (note,) = (note for note in value["notes"] if note.startswith("measured on the CPU, as CUDA does not work here"))
    assert "CUDA driver version is insufficient" in note


TUNE = """
import json, sys
from pathlib import Path
from aaexport.errors import ParityError
from aaexport.nn import AugmentedConv2d
from aaexport.nn.choice import Choice
from aaexport.pipeline.tune.layer_contest import Conditions, LayerContest
layer = AugmentedConv2d(4, 8, 3, dk=4, dv=4, num_heads=2, height=4, width=4)
conditions = Conditions(opset=20, images=1, device="cuda", threads=1, duration=0.1, seed=0)
steps = []
try:
    LayerContest(layer, conditions, Path(sys.argv[1])).run(("layer",), lambda step, share: steps.append(step),
                                                           [Choice("skew"), Choice("table")])
except ParityError as error:
    print(json.dumps({"steps": steps, "error": str(error)}))
"""


def test_tune_times_a_layer_on_it_and_takes_no_wrong_answers(fake_cuda, tmp_path):
    """It computes nothing: every decomposition runs, and none is inside the parity bound."""
    ran = fake_cuda.run(["-c", TUNE, tmp_path], tmp_path / "log")
    assert ran.json["steps"] == ["first look at skew", "first look at table"]
    assert ran.json["error"].startswith("no decomposition of layer is inside the parity bound")
    assert ran.count("kernel") > 0
    assert ran.count("error") == 0
