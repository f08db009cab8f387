"""The Ray Serve application's files, and what their check finds; that it runs is test_two_hosts' business."""

import ast
import io

import numpy as np
import pytest
from deployable import edit, failed, write

from aaexport.deployment.ray import SOURCE, check, files
from aaexport.deployment.settings import DeploySettings
from aaexport.errors import FolderError


def test_what_is_written_passes_its_check(facts, tmp_path):
    found = list(check(write(files(facts, DeploySettings(min_replicas=2)), tmp_path)))
    assert failed(found) == {}
    assert {one.name for one in found} == {"application", "configuration", "model"}


def test_golden_vectors_go_along_and_without_them_there_is_no_health(facts):
    with np.load(io.BytesIO(files(facts, DeploySettings())["golden.npz"])) as golden:
        assert golden["output.logits"].shape == (4, 10)
        np.testing.assert_array_equal(golden["input.input"], facts.golden[0].inputs["input"])
    with pytest.raises(FolderError, match="model must have golden vectors for Ray's health checks, got 'none'"):
        files(facts.with_golden(()), DeploySettings())


def test_the_application_needs_no_pytorch():
    """Of aaexport it takes rooms alone that a test of the house keeps free of it."""
    imported = {
        name
        for node in ast.walk(ast.parse(SOURCE.read_text()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert {name for name in imported if name.startswith("aaexport")} == {
        "aaexport.errors",
        "aaexport.serving",
        "aaexport.serving.backend.faults",
        "aaexport.serving.bounds",
        "aaexport.serving.golden",
        "aaexport.serving.judge",
        "aaexport.serving.protocol",
    }
    assert "torch" not in imported


def test_what_a_replica_uses_stands_before_it():
    """Ray copies the class where it is decorated, with the names that the file has by then."""
    tree = ast.parse(SOURCE.read_text())
    replica = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Model")
    later = {node.name for node in tree.body[tree.body.index(replica) + 1 :] if hasattr(node, "name")}
    used = {node.id for node in ast.walk(replica) if isinstance(node, ast.Name)}
    assert later
    assert not used & later


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("min_replicas", "min_replica", "got 'min_replica'; did you mean 'min_replicas'?"),
        ("health_check_period_s: 5.0", "health_check_period_s: soon", "health_check_period_s must be int or float"),
        ("proxy_location: EveryNode", "proxy_location: Everywhere", "proxy_location must be one of"),
        ("port: 9000", "port: 8000", "the ports of REST and gRPC must differ"),
        ("application.add_inference_service", "application.add", "or gRPC answers nothing"),
        ("import_path: application:build", "import_path: app:build", "import_path must be application:build"),
        ("min_replicas: 1", "min_replicas: 9", "min_replicas must be between 1 and max_replicas, 3, got 9"),
        ("batching: false", "batching: 0", "args.batching must be bool, got 0"),
        ("max_batch: 32", "max_batch: 0", "max_batch must be at least 1"),
        ("name: Model", "name: Replica", "deployments[0].name must be one of Model"),
    ],
)
def test_a_spoilt_configuration_is_found(facts, tmp_path, old, new, fault):
    write(files(facts, DeploySettings()), tmp_path)
    edit(tmp_path / "serve.yaml", old, new)
    assert fault in failed(check(tmp_path))["configuration"]


def test_another_file_or_other_tensors_are_found(facts, tmp_path):
    write(files(facts, DeploySettings()), tmp_path)
    edit(tmp_path / "model.json", '"logits"', '"scores"')
    assert "outputs of model.json must be those of model.onnx" in failed(check(tmp_path))["model"]
    edit(tmp_path / "model.json", '"scores"', '"logits"')
    with (tmp_path / "model/model.onnx").open("ab") as file:
        file.write(b"\x1a\x00")  # a producer's name: another file that means the same
    assert "model.onnx must be the file of model.json" in failed(check(tmp_path))["model"]


def test_a_broken_application_and_missing_files_are_found(facts, tmp_path):
    write(files(facts, DeploySettings()), tmp_path)
    (tmp_path / "application.py").write_text("def build(:\n")
    (tmp_path / "model.json").unlink()
    assert set(failed(check(tmp_path))) == {"application", "model"}
