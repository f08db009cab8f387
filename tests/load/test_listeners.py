"""Which processes of this machine are behind a port."""

import os
import socket
import subprocess
import sys

import pytest

from aaexport.load import listeners
from aaexport.load.listeners import processes_behind


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.skipif(not listeners.PROC.is_dir(), reason="no /proc here")
def test_the_listener_and_what_it_started_are_found(port):
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as child:
        found = processes_behind(port)
        child.stdin.close()
    assert {os.getpid(), child.pid} <= set(found)


def test_nobody_is_behind_a_port_that_is_free(port):
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    assert processes_behind(free) == ()


def test_a_system_that_does_not_tell_is_no_error(port, monkeypatch, tmp_path):
    monkeypatch.setattr(listeners, "PROC", tmp_path)
    assert processes_behind(port) == ()
