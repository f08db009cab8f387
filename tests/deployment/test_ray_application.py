"""What the Ray application answers to queries that came together, without Ray: each gets its own."""

import importlib.util
import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from aaexport.deployment.ray import SOURCE
from aaexport.errors import ProtocolError
from aaexport.serving.protocol import InferRequest

pytest.importorskip("grpc")
CLASSES = 3
LEAST = 4  # pixels: the file below reads the last of so many


def network(path):
    """Images of any size → their first pixels; a Gather refuses those that have fewer than it reads."""
    nodes = [
        helper.make_node("Reshape", ["input", "flat"], ["row"]),
        helper.make_node("Gather", ["row", "first"], ["logits"], axis=1),
    ]
    numbers = [
        helper.make_tensor("flat", TensorProto.INT64, [2], [0, -1]),
        helper.make_tensor("first", TensorProto.INT64, [CLASSES], [0, 1, LEAST - 1]),
    ]
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 1, "height", "width"])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])]
    graph = helper.make_graph(nodes, "any_size", inputs, outputs, numbers)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


def same(value):
    return value


def fake_ray_and_fastapi():
    """Their names, with decorators that leave what they are put on as it is."""
    ray, fastapi, responses = ModuleType("ray"), ModuleType("fastapi"), ModuleType("fastapi.responses")
    ray.serve = SimpleNamespace(
        deployment=lambda **_: same, ingress=lambda app: same, batch=lambda **_: same, Application=object
    )
    methods = dict.fromkeys(("get", "post", "exception_handler"), lambda self, *_: same)
    fastapi.FastAPI = type("FastAPI", (), {"__init__": lambda self, **_: None, **methods})
    fastapi.Request = fastapi.Response = responses.JSONResponse = object
    return {"ray": ray, "fastapi": fastapi, "fastapi.responses": responses}


@pytest.fixture(scope="module")
def application(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ray")
    (folder / "model").mkdir()
    network(folder / "model/model.onnx")
    tensor = {"name": "input", "datatype": "FP32", "shape": [-1, 1, -1, -1]}
    scores = {"name": "logits", "datatype": "FP32", "shape": [-1, CLASSES]}
    about = {"name": "any", "onnx": "model.onnx", "onnx_sha256": "ab", "dtype": "float32"}
    (folder / "model.json").write_text(json.dumps(about | {"inputs": [tensor], "outputs": [scores]}))
    golden = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
    np.savez(folder / "golden.npz", **{"input.input": golden, "output.logits": golden.reshape(1, 4)[:, [0, 1, 3]]})
    (folder / "application.py").write_text(SOURCE.read_text())
    with pytest.MonkeyPatch.context() as patch:
        for name, module in fake_ray_and_fastapi().items():
            patch.setitem(sys.modules, name, module)
        spec = importlib.util.spec_from_file_location("application_of_ray", folder / "application.py")
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture(scope="module")
def session(application):
    found = application.Session(1)
    found.require_right()
    assert found.has_open_sizes
    return found


def query(height, width, batch=1, at=0.0):
    size = batch * height * width
    images = np.arange(size, dtype=np.float32).reshape(batch, 1, height, width) + np.float32(at)
    return InferRequest({"input": images}, (), "any")


def expected(asked):
    return asked.inputs["input"].reshape(len(asked.inputs["input"]), -1)[:, [0, 1, LEAST - 1]]


def test_queries_of_several_sizes_that_came_together_each_get_their_answer(session, monkeypatch):
    asked = [query(2, 2), query(3, 5, batch=2, at=100), query(2, 2, batch=3, at=7), query(1, 6, at=-3)]
    runs, run = [], session.run
    monkeypatch.setattr(session, "run", lambda feeds: runs.append(feeds["input"].shape) or run(feeds))
    for one, outcome in zip(asked, session.answer(asked), strict=True):
        np.testing.assert_array_equal(outcome["logits"], expected(one))
    assert runs == [(4, 1, 2, 2), (2, 1, 3, 5), (1, 1, 1, 6)]


def test_a_query_that_the_network_does_not_take_fails_alone(application, session):
    asked = [query(2, 2), query(1, 2), query(2, 2, at=5)]
    first, wrong, last = session.answer(asked)
    assert isinstance(wrong, application.Failed)
    assert isinstance(wrong.error, ProtocolError)
    for one, outcome in zip((asked[0], asked[2]), (first, last), strict=True):
        np.testing.assert_array_equal(outcome["logits"], expected(one))


@pytest.mark.parametrize(
    ("error", "code", "status"), [(MemoryError(), "UNAVAILABLE", 503), (KeyError("/a/b"), "INTERNAL", 500)]
)
def test_a_run_that_fails_for_one_fails_for_none_of_its_size(application, session, monkeypatch, error, code, status):
    run = session.run

    def runs(feeds):
        if (feeds["input"] < 0).any():
            raise error
        return run(feeds)

    monkeypatch.setattr(session, "run", runs)
    asked = [query(2, 2), query(2, 2, at=-9), query(2, 2, at=3)]
    first, wrong, last = session.answer(asked)
    assert (wrong.error.code, application.STATUSES[wrong.error.code]) == (code, status)
    assert "/" not in str(wrong.error)
    for one, outcome in zip((asked[0], asked[2]), (first, last), strict=True):
        np.testing.assert_array_equal(outcome["logits"], expected(one))


def test_what_has_no_dimensions_is_one_image(application):
    assert application.images(InferRequest({"x": np.float32(1).reshape(())}, (), "any")) == 1
