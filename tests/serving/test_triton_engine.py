"""What is known of Triton, without Triton."""

import os
import re
import sys
from pathlib import Path

import pytest

from aaexport.errors import EngineError
from aaexport.serving import engine
from aaexport.serving.engine import INSTALL, Engine, Ports, command_line, find_engine
from aaexport.serving.process import GRACE

FLAGS = "--http-restricted-api --grpc-restricted-protocol"


def server(path, says=FLAGS):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


def without_wheel(monkeypatch):
    monkeypatch.setattr(engine, "WHEEL", "no-such-distribution")


def test_without_an_engine_the_line_that_installs_it_is_said(monkeypatch, tmp_path):
    without_wheel(monkeypatch)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match=f"no Triton server was found; {re.escape(INSTALL)}, or name"):
        find_engine()
    assert EngineError.exit_code == 5


def test_a_server_on_the_path_is_taken_with_its_own_backend(monkeypatch, tmp_path):
    without_wheel(monkeypatch)
    binary = server(tmp_path / "bin" / "tritonserver")
    monkeypatch.setenv("PATH", f"{binary.parent}{os.pathsep}{os.environ['PATH']}")
    assert find_engine().backend == "python"
    (tmp_path / "backends" / "onnxruntime").mkdir(parents=True)
    found = find_engine()
    assert (found.binary, found.backend) == (binary, "onnxruntime")


def test_a_server_that_is_too_old_is_refused(tmp_path):
    old = server(tmp_path / "tritonserver", "--http-port")
    with pytest.raises(EngineError, match=r"engine must be a tritonserver of at least 2\.40, got .* knows no --grpc"):
        find_engine(old)


@pytest.mark.parametrize("name", ["absent", "plain.txt"])
def test_what_is_no_server_is_refused(tmp_path, name):
    (tmp_path / "plain.txt").write_text("no program")
    with pytest.raises(EngineError, match="engine must be a tritonserver that can be run, got"):
        find_engine(tmp_path / name)


def test_a_static_python_is_refused_in_a_sentence(monkeypatch):
    monkeypatch.setattr(engine.sysconfig, "get_config_var", {"INSTSONAME": "libpython3.11.a"}.get)
    with pytest.raises(EngineError, match="Python must be a shared library for Triton to embed it, got a static one"):
        engine._folder_of_libpython()


def wheel(tmp_path, stub):
    root = tmp_path / "pytriton" / "tritonserver"
    server(root / "bin" / "tritonserver")
    (root / "backends" / "python").mkdir(parents=True)
    (root / "backends" / "python" / "libtriton_python.so").touch()
    folder = root / "python_backend_stubs" / stub
    folder.mkdir(parents=True)
    (folder / engine.STUB).touch()
    return root


def test_a_wheel_without_this_pythons_stub_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(engine.importlib.metadata, "version", lambda name: engine.TESTED)
    with pytest.raises(EngineError, match=r"Python must be one of 2\.7 for nvidia-pytriton 0\.7\.0, got '3"):
        engine._of_wheel(wheel(tmp_path, "2.7"))


def test_another_wheel_than_the_tested_one_is_refused_with_the_line(tmp_path, monkeypatch):
    monkeypatch.setattr(engine.importlib.metadata, "version", lambda name: "0.5.9")
    with pytest.raises(EngineError, match=re.escape(f"must be 0.7.0, got '0.5.9'; {INSTALL}")):
        engine._of_wheel(wheel(tmp_path, "3.11"))


def test_the_backends_of_a_wheel_are_put_together_beside_the_stub(tmp_path, monkeypatch):
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    root = wheel(tmp_path, own)
    made = Engine(
        root / "bin/tritonserver", root / "backends", root / "python_backend_stubs" / own / engine.STUB, "python", ""
    )
    home = made.prepared(tmp_path / "scratch")
    assert {path.name for path in (home / "python").iterdir()} == {"libtriton_python.so", engine.STUB}


def test_the_environment_finds_packages_and_libraries_of_this_python_first():
    made = Engine(Path("tritonserver"), None, None, "python", "", (Path("/libraries"),))
    found = made.environment({"PATH": "/bin", "PYTHONPATH": "/mine", "LD_LIBRARY_PATH": "/theirs", "HOME": "/home"})
    assert found["LD_LIBRARY_PATH"] == f"/libraries{os.pathsep}/theirs"
    assert found["PYTHONPATH"].split(os.pathsep)[-1] == "/mine"
    assert found["PATH"].split(os.pathsep) == [str(Path(sys.executable).parent), "/bin"]
    assert found["HOME"] == "/home"


def test_the_server_is_given_nothing_that_it_does_not_need():
    made = Engine(Path("tritonserver"), None, None, "python", "")
    given = {
        "AAEXPORT_AUTHORIZATION": "Bearer s", "AWS_SECRET_ACCESS_KEY": "s", "HF_TOKEN": "s", "NVIDIA_API_KEY": "s",
        "SOMETHING": "s", "OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": "1", "LC_ALL": "C.UTF-8", "TMPDIR": "/room",
    }  # fmt: skip
    found = made.environment(given)
    kept = {name: value for name, value in found.items() if name in given}
    assert kept == {"OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": "1", "LC_ALL": "C.UTF-8", "TMPDIR": "/room"}


def test_the_server_listens_where_it_is_told_and_keeps_its_controls_to_us():
    made = Engine(Path("tritonserver"), None, None, "python", "")
    line = command_line(made, Path("models"), None, "127.0.0.1", Ports(1, 2, 3), "secret", 5)
    assert {"--http-address=127.0.0.1", "--grpc-address=127.0.0.1", "--metrics-address=127.0.0.1"} <= set(line)
    closed = "model-repository,shared-memory,trace,logging:authorization=secret"
    assert {f"--http-restricted-api={closed}", f"--grpc-restricted-protocol={closed}"} <= set(line)
    assert not [flag for flag in line if "queue" in flag or "input-size" in flag]


def test_the_server_takes_configurations_as_they_are_written():
    """Else it starts a process for each model only to ask it what its configuration lacks: half of its start."""
    line = command_line(Engine(Path("tritonserver"), None, None, "python", ""), Path("models"), None, "127.0.0.1",
                        Ports(1, 2, 3), "secret", 5)  # fmt: skip
    assert "--disable-auto-complete-config" in line


@pytest.mark.parametrize("backend", ["python", "onnxruntime"])
def test_it_cuts_nothing_off_before_we_would_where_we_know_what_is_at_work(backend):
    made = Engine(Path("tritonserver"), None, None, backend, "")
    line = command_line(made, Path("models"), None, "127.0.0.1", Ports(1, 2, 3), "secret", 5)
    (seconds,) = (int(flag.partition("=")[2]) for flag in line if flag.startswith("--exit-timeout-secs="))
    assert (seconds > GRACE) == (backend == "python")


def test_an_address_of_ipv6_is_written_as_each_part_of_the_server_reads_it():
    made = Engine(Path("tritonserver"), None, None, "python", "")
    line = command_line(made, Path("models"), None, "::1", Ports(1, 2, 3), "secret", 5)
    assert {"--http-address=ipv6:::1", "--grpc-address=[::1]", "--metrics-address=ipv6:::1"} <= set(line)


def test_the_bytes_of_a_request_are_bounded_where_the_server_can(tmp_path):
    assert not find_engine(server(tmp_path / "old")).bounds_requests
    newer = find_engine(server(tmp_path / "newer", f"{FLAGS} --http-max-input-size"))
    line = command_line(newer, Path("models"), None, "127.0.0.1", Ports(1, 2, 3), "secret", 5)
    assert "--http-max-input-size=5" in line
