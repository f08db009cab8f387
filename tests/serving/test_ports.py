"""Ports, addresses and memory, before anything is loaded."""

import re
import socket
from collections import namedtuple

import pytest

from aaexport.errors import ArgumentError, RunnerError
from aaexport.serving import ports
from aaexport.serving.ports import host_address, is_loopback, require_shared_memory, settled_ports

LOOPBACK = "127.0.0.1"


def test_a_port_of_zero_is_a_free_one():
    found = settled_ports(LOOPBACK, 0, 0, 0)
    assert len({found.http, found.grpc, found.metrics}) == 3
    assert min(found.http, found.grpc, found.metrics) > 0


@pytest.mark.parametrize("name", ["http_port", "grpc_port", "metrics_port"])
def test_a_port_in_use_is_said_with_its_option(name):
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        asked = {"http_port": 0, "grpc_port": 0, "metrics_port": 0} | {name: port}
        with pytest.raises(RunnerError) as raised:
            settled_ports(LOOPBACK, *asked.values())
    text = raised.value.worded({name: "--the-port"})
    assert re.match(rf"--the-port must be free, got {port} at 127\.0\.0\.1: address already in use; ", text)


def test_a_port_that_a_service_has_just_left_is_free():
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((LOOPBACK, 0))
        server.listen()
        port = server.getsockname()[1]
        with socket.create_connection((LOOPBACK, port)) as client:
            accepted, _ = server.accept()
            accepted.close()  # first, so that the port is left in TIME_WAIT
            client.recv(1)
    assert settled_ports(LOOPBACK, port, 0, 0).http == port


def test_a_host_is_told_by_its_address():
    assert is_loopback(host_address("localhost"))
    assert not is_loopback(host_address("0.0.0.0"))


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_a_host_that_is_not_this_machine_is_refused(host):
    with pytest.raises(ArgumentError, match=f"host must be an address of this machine, got '{host}'"):
        host_address(host)


def test_little_shared_memory_is_said_with_what_a_container_needs(monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(ports.shutil, "disk_usage", lambda path: usage(2**20))
    require_shared_memory(2**20)
    with pytest.raises(RunnerError, match="must have 64 MiB free for tensors, got 1 MiB; in a container --shm-size"):
        require_shared_memory(2**26)
