"""A conversion for a command that goes on for long leaves nothing of itself in that command's process."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aaexport.cli.conversion import convert_apart
from aaexport.errors import AaexportError, ServiceError
from aaexport.folder import ModelFolder, checkout

SERVED = """
import json, sys
from aaexport.cli.serve import _folders
(folder,) = _folders(("aa_cnn3_digits",), "float32")
print(json.dumps([folder.onnx_of("float32").is_file(), sorted({"torch", "onnx", "onnxruntime"} & set(sys.modules))]))
"""


@pytest.mark.slow
def test_a_service_that_converts_first_has_loaded_nothing_for_it(tmp_path):
    done = subprocess.run([sys.executable, "-c", SERVED], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [True, []]
    assert "converting it first" in done.stderr
    assert "capturing the module with torch.export" in done.stderr  # its steps are told as ever


@pytest.mark.slow
def test_what_it_could_not_do_is_raised_here(tmp_path):
    folder = checkout("conv_cnn3_digits", tmp_path / "net")
    folder.weights_path.write_bytes(b"no weights")
    with pytest.raises(AaexportError, match=r"weights\.safetensors"):
        convert_apart(folder, "float32")
    assert not folder.onnx_path.exists()


def test_a_process_that_dies_is_an_error_that_names_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(AaexportError, match="net must be converted, but: its process ended with 1"):
        convert_apart(ModelFolder(tmp_path / "net"), "float32")


def test_what_is_done_meanwhile_ends_the_process_if_it_fails(tmp_path, monkeypatch):
    """A library that is missing is said at once, and nothing goes on converting."""
    sleeper = tmp_path / "sleeper"
    sleeper.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    sleeper.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(sleeper))

    def meanwhile():
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            time.sleep(0.01)
        raise ServiceError("grpcio is not installed")

    with pytest.raises(ServiceError, match="grpcio is not installed"):
        convert_apart(ModelFolder(tmp_path / "net"), "float32", meanwhile)
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()
