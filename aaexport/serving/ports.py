"""Addresses and memory that a service needs → what it gets, or why it cannot have it, before anything is loaded."""

from __future__ import annotations

import ipaddress
import math
import shutil
import socket
from pathlib import Path

from aaexport.errors import ArgumentError, RunnerError, broken_rule, first_line, parameter
from aaexport.memory import MEBIBYTE
from aaexport.serving.engine import Ports

SHARED_MEMORY = Path("/dev/shm")


def host_address(host: str) -> str:
    """The address of a host's name. ArgumentError if it is none of this machine."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address[0], 0))
    except OSError as error:
        rule = "be an address of this machine"
        raise ArgumentError(broken_rule("host", rule, host, first_line(error))) from error
    return str(address[0])


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches it."""
    return ipaddress.ip_address(address).is_loopback


def settled_ports(address: str, http: int, grpc: int, metrics: int) -> Ports:
    """The ports to listen on, a free one in the place of each 0.

    Raises:
        RunnerError: somebody listens on one already.
    """
    found: list[int] = []
    held: list[socket.socket] = []
    try:
        for name, port in (("http_port", http), ("grpc_port", grpc), ("metrics_port", metrics)):
            held.append(_bound(address, name, port))
            found.append(int(held[-1].getsockname()[1]))
    finally:
        for probe in held:
            probe.close()
    return Ports(*found)


def _bound(address: str, name: str, port: int) -> socket.socket:
    probe = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        # What the last service left in TIME_WAIT does not count; what listens does.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((address, port))
    except OSError as error:
        probe.close()
        remedy = f"give another {parameter(name)}, or 0 for a free one"
        got = f"{port} at {address}: {(error.strerror or first_line(error)).lower()}"
        raise RunnerError(f"{parameter(name)} must be free, got {got}; {remedy}") from error
    return probe


def require_shared_memory(needed: int) -> None:
    """RunnerError if /dev/shm, through which tensors reach the backends, has no room for so many bytes."""
    if not SHARED_MEMORY.is_dir():
        return
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free < needed:
        rule = f"have {needed / MEBIBYTE:,.0f} MiB free for tensors"
        remedy = f"in a container --shm-size={math.ceil(needed / MEBIBYTE)}m gives it as many"
        raise RunnerError(f"{SHARED_MEMORY} must {rule}, got {free / MEBIBYTE:,.0f} MiB; {remedy}")
