"""The engine's processes end with this one, whatever becomes of it."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aaexport.errors import RunnerError
from aaexport.serving import process as processes
from aaexport.serving.process import EngineProcess

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Triton runs on Linux only")
# A server with a backend, each of which writes its number into a file.
SERVER = 'echo $$ > server; sh -c "echo \\$\\$ > backend; exec sleep 60" & wait'
STUBBORN = f"trap '' TERM; {SERVER}; wait"


def start(folder, script=SERVER):
    folder.mkdir()
    process = EngineProcess(["/bin/sh", "-c", script], os.environ, folder, "aaexport-test-")
    until(lambda: (folder / "backend").exists() and (folder / "backend").read_text())
    return process, [int((folder / name).read_text()) for name in ("server", "backend")]


def until(holds, seconds=15):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.02)


def runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_server_without_a_guard_does_not_stay(tmp_path, monkeypatch):
    started = []
    popen = subprocess.Popen

    def fails_second(*words, **options):
        if started:
            raise KeyboardInterrupt
        started.append(popen(*words, **options))
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", fails_second)
    with pytest.raises(KeyboardInterrupt):
        EngineProcess(["/bin/sh", "-c", "sleep 60"], os.environ, tmp_path, "aaexport-test-")
    assert started[0].returncode == -signal.SIGKILL


def test_a_system_that_starts_no_process_more_is_told_as_what_it_is(tmp_path, monkeypatch):
    def fails(*words, **options):
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(subprocess, "Popen", fails)
    with pytest.raises(RunnerError, match="room for one more process, got: Cannot allocate memory; end others"):
        EngineProcess(["/bin/sh"], os.environ, tmp_path, "aaexport-test-")


def test_a_program_that_is_not_there_is_no_lack_of_room(tmp_path):
    with pytest.raises(FileNotFoundError):
        EngineProcess([str(tmp_path / "tritonserver")], os.environ, tmp_path, "aaexport-test-")


def test_stopping_ends_the_server_with_its_backends_and_its_folder(tmp_path):
    process, pids = start(tmp_path / "scratch")
    assert process.alive()
    assert list(process.backends()) == [pids[1]]
    assert process.stop()
    until(lambda: not any(map(runs, pids)))
    assert not (tmp_path / "scratch").exists()
    assert not process.alive()


def test_a_backend_that_is_stopped_is_known_unless_the_server_is_stopped_too(tmp_path):
    process, pids = start(tmp_path / "scratch")
    assert process.stopped(pids) == frozenset()
    os.kill(pids[1], signal.SIGSTOP)
    until(lambda: process.stopped(pids) == {pids[1]})
    os.kill(pids[0], signal.SIGSTOP)
    until(lambda: process.stopped(pids) == frozenset())
    assert process.runs(pids[1])
    process.stop(grace=0)


def test_a_server_that_does_not_end_is_killed(tmp_path):
    process, pids = start(tmp_path / "scratch", STUBBORN)
    assert not process.stop(grace=0.2)
    until(lambda: not any(map(runs, pids)))


SAYS = "echo Found {} live models and 0 in-flight non-inference requests"
WAITING = f"trap '{SAYS.format(2)}; sleep 0.5; {SAYS.format(1)}' TERM"


@pytest.fixture
def hasty(monkeypatch):
    """What takes half a minute takes half a second."""
    for name, seconds in {"LINGER": 0.5, "LONG": 0.2, "CALM": 0.3}.items():
        monkeypatch.setattr(processes, name, seconds)


def test_a_server_that_waits_for_connections_is_ended_once_no_long_query_is_left(tmp_path, hasty):
    """One that began before the signal, and one that waited for it."""
    server, pids = start(tmp_path / "scratch", STUBBORN)
    told = time.monotonic()
    runs_of = [(told - 0.1, told + 1.0), (told + 1.0, told + 2.0)]

    def began():
        now = time.monotonic()
        return [first for first, last in runs_of if first <= now < last]

    assert server.stop(grace=30, began=began)
    assert 2.0 < time.monotonic() - told < 10
    until(lambda: not any(map(runs, pids)))


def test_short_queries_that_go_on_and_on_keep_no_server(tmp_path, hasty):
    server, _ = start(tmp_path / "scratch", STUBBORN)
    told = time.monotonic()
    assert server.stop(grace=30, began=lambda: [time.monotonic() - 0.1])
    assert 0.5 < time.monotonic() - told < 10


def test_a_query_that_takes_too_long_is_cut_off_and_that_is_told(tmp_path, hasty):
    server, _ = start(tmp_path / "scratch", STUBBORN)
    assert not server.stop(grace=1, began=lambda: [0.0])


def test_a_server_that_waits_for_what_is_dead_alone_is_done(tmp_path):
    """Triton never gets rid of a model whose backend was killed, and would wait for it half a minute."""
    process, pids = start(tmp_path / "scratch", f"{WAITING}; {SERVER}; wait; wait")
    assert process.stop(grace=30, ghosts=1)
    until(lambda: not any(map(runs, pids)))


def test_how_a_server_ended_is_told_with_its_last_errors(tmp_path):
    (tmp_path / "scratch").mkdir()
    script = "echo fine; echo 'E1130 06:15:32.000000 17 x.cc:1] no room'; exit 3"
    process = EngineProcess(["/bin/sh", "-c", script], os.environ, tmp_path / "scratch", "aaexport-test-")
    assert process.ended() == "exit code 3"
    assert process.complaints() == "no room"
    process.stop()


PARENT = """
import os, sys, time
sys.path.insert(0, {helpers!r})
from pathlib import Path
from test_process import start
process, pids = start(Path({folder!r}))
print(*pids, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_stays_behind_when_this_process_is_killed(tmp_path, number):
    folder = tmp_path / "scratch"
    code = PARENT.format(helpers=str(Path(__file__).parent), folder=str(folder))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert all(map(runs, pids))
        parent.send_signal(number)
        parent.wait()
        until(lambda: not any(map(runs, pids)))
        until(lambda: not folder.exists())
