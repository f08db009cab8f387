"""Triton's Python backend on a GPU that computes nothing: what its session is told, and why it does not start."""

import pytest

LOADED = """
import json, sys
from pathlib import Path
from types import ModuleType
from aaexport.graph.probe import probe_model
from aaexport.serving import at_work
from aaexport.serving.repository import BACKEND_FILES
sys.modules |= {"triton_python_backend_utils": ModuleType("utils"), "at_work": at_work}
sys.path.insert(0, str(BACKEND_FILES))
import tensors
place = Path(sys.argv[1])
(place / "1").mkdir()
(place / "1" / "model.onnx").write_bytes(probe_model())
said = {"device": sys.argv[2], "max_batch": "1"}
config = {"max_batch_size": 0, "parameters": {name: {"string_value": value} for name, value in said.items()}}
model = tensors.TritonPythonModel()
try:
    model.initialize({"model_config": json.dumps(config), "model_repository": str(place), "model_version": "1"})
    told = model.session.get_provider_options()["CUDAExecutionProvider"]
    print(json.dumps({name: told[name] for name in ("device_id", "use_tf32")}))
except Exception as error:
    print(json.dumps(str(error).splitlines()[0]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("device", "settings", "told"),
    [
        ("cuda", {}, {"device_id": "0", "use_tf32": "0"}),
        ("cuda:1", {"devices": 2}, {"device_id": "1", "use_tf32": "0"}),
    ],
)
def test_a_session_on_a_gpu_computes_in_float32(fake_cuda, tmp_path, device, settings, told):
    assert fake_cuda.run(["-c", LOADED, tmp_path, device], tmp_path / "log", **settings).json == told


@pytest.mark.slow
@pytest.mark.parametrize(
    ("device", "settings", "words"),
    [
        ("cuda:1", {}, "Invalid device ID: 1"),
        ("cuda", {"driver": 12080}, "CUDA driver version is insufficient"),
    ],
)
def test_why_a_gpu_does_not_work_is_onnxruntimes_own_reason(fake_cuda, tmp_path, device, settings, words):
    assert words in fake_cuda.run(["-c", LOADED, tmp_path, device], tmp_path / "log", **settings).json
