"""What a service leaves where it does not even start, and which of its processes it misses."""

import signal
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
from served import facts

from aaexport.errors import ServiceError
from aaexport.serving import hanging, service
from aaexport.serving.bounds import IN_JSON
from aaexport.serving.engine import Engine, Ports
from aaexport.serving.process import EngineProcess
from aaexport.serving.repository import MOST_IMAGE_BYTES, RepositorySettings
from aaexport.serving.served import Served


@pytest.fixture
def of_backend(tmp_path, monkeypatch):
    """Makes a service, whose folder goes with the test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with ExitStack() as stack:

        def make(name):
            made = service.Service(Engine(Path("tritonserver"), None, None, name, ""), "127.0.0.1", Ports(1, 2, 3))
            stack.callback(made._scratch.remove)
            return made

        yield make
        stack.close()
        assert not list(tmp_path.iterdir())


def test_a_client_that_cannot_be_made_leaves_no_folder(of_backend, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise ServiceError("grpcio is not installed")

    monkeypatch.setattr(service, "Client", fails)
    with pytest.raises(ServiceError, match="grpcio is not installed"):
        of_backend("python")
    assert not list(tmp_path.iterdir())


class Processes:
    """Those of a Triton server, as their command lines tell them."""

    def __init__(self, *commands):
        self.commands, self.counted = commands, 0

    def backends(self):
        self.counted += 1
        return dict(enumerate(self.commands))

    def runs(self, pid):
        return pid < len(self.commands)


def test_the_processes_of_a_version_that_was_taken_away_may_end(of_backend):
    running = of_backend("python")
    running._instances = {"digits": 2, "digits_image": 1}
    old, new, image = (
        f"stub {running.repository}/{end}/model.py" for end in ("digits/1", "digits/2", "digits_image/2")
    )
    running._process = Processes(old, old, new, new, image)
    running._all_is_right()
    running._process = Processes(old, new, new, image)
    assert running.dead_models() == frozenset()
    running._process = Processes(new, image)
    assert running.dead_models() == {"digits"}
    running._process = Processes(new, new)
    assert running.dead_models() == {"digits_image"}


def test_as_long_as_every_process_runs_none_is_counted(of_backend):
    running = of_backend("python")
    running._instances = {"digits": 1}
    running._process = processes = Processes(f"stub {running.repository}/digits/1/model.py")
    running._all_is_right()
    assert running.dead_models() == running.dead_models() == frozenset()
    assert processes.counted == 1
    processes.commands = ()
    assert running.dead_models() == running.dead_models() == {"digits"}


def test_of_several_processes_the_one_that_hangs_is_ended_and_its_model_known(of_backend, monkeypatch):
    running = of_backend("python")
    running._instances = {"digits": 1, "digits_image": 2}
    processes = [subprocess.Popen(["sleep", "600"]) for _ in range(3)]
    pids = [process.pid for process in processes]
    names = ("digits", "digits_image", "digits_image")
    commands = {pid: f"stub {running.repository}/{name}/1/model.py" for pid, name in zip(pids, names, strict=True)}
    running._process = SimpleNamespace(
        backends=lambda: commands, runs=EngineProcess.runs, stopped=lambda pids: frozenset()
    )
    running._at_work.mkdir()
    (running._at_work / str(pids[2])).write_bytes((1).to_bytes(8, "little"))
    monkeypatch.setattr(hanging, "SURE", 0.0)
    monkeypatch.setattr(hanging, "LONGEST", 0.0)
    why = "a process of its backend was at one query for more than 0 s"
    assert running.end_hanging() == {"digits_image": why}
    assert [process.poll() for process in processes] == [None, None, -signal.SIGKILL]
    for process in processes:
        process.kill()
        process.wait()


def test_one_that_was_killed_in_a_run_is_not_at_work_for_ever(of_backend):
    """Else the end of the service would wait for it."""
    running = of_backend("python")
    running._at_work.mkdir()
    with subprocess.Popen(["sleep", "600"]) as process:
        (running._at_work / str(process.pid)).write_bytes((10**9).to_bytes(8, "little"))
        assert running._began() == {process.pid: 1.0}
        process.kill()
    assert running._began() == {}


@pytest.mark.parametrize("opens", [False, True])
def test_a_process_of_a_slow_model_is_at_work_as_long_as_a_full_batch_may_take(of_backend, opens):
    running = of_backend("python")
    running._hanging.seen("digits", float("inf") if opens else 1000.0, 1, 1)
    running._at_work.mkdir()
    with subprocess.Popen(["sleep", "600"]) as process:
        running._process = Processes()
        running._process.backends = lambda: {process.pid: f"stub {running.repository}/digits/1/model.py"}
        (running._at_work / str(process.pid)).write_bytes(time.monotonic_ns().to_bytes(8, "little"))
        assert running.is_at_work("digits") != opens
        assert not running.is_at_work("other")
        process.kill()


@pytest.mark.parametrize(("known", "loaded"), [({"silent"}, True), ({"wrong"}, True), (set(), False)])
def test_what_was_seen_to_be_wrong_is_loaded_anew_though_all_is_right_when_asked_again(
    of_backend, monkeypatch, known, loaded
):
    running, called = of_backend("python"), []
    running._process = Processes()
    monkeypatch.setattr(running, "_fault", lambda *_: None)
    monkeypatch.setattr(running._control, "unload", called.append)
    monkeypatch.setattr(running, "_load", called.append)
    model = Served(facts(image=None), 1, RepositorySettings(instances=2))
    running.reload(model, **{name: frozenset(["digits"]) for name in known})
    assert called == (["digits", "digits"] if loaded else [])


def test_where_the_engine_has_no_processes_none_is_missed(of_backend):
    running = of_backend("onnxruntime")
    running._instances, running._process = {"digits": 2}, Processes()
    running._all_is_right()
    assert running.dead_models() == frozenset()


def test_the_largest_request_that_is_taken_has_the_largest_batch_in_json_or_the_largest_photo():
    def most(**changes):
        return service._request_bytes(Served(facts(**changes), 1, RepositorySettings(max_batch=1000)))

    assert most(image=None) == service.HEAD + IN_JSON * 1000 * 64
    assert most(image=None, batch=2) == service.HEAD + IN_JSON * 2 * 64
    assert most() == service.HEAD + MOST_IMAGE_BYTES
