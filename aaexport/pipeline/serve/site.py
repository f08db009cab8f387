"""Options → what a service needs beside its models, before any model is looked at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aaexport.errors import ProviderError, broken_rule
from aaexport.pipeline.serve.options import ServeOptions
from aaexport.serving.engine import MOST_OF_GRPC, Engine, Ports, find_engine
from aaexport.serving.ports import host_address, is_loopback, settled_ports

DEVICE_FILES = Path("/dev")
# gRPC's library takes the address of every interface for that of both protocols.
BOTH = {"0.0.0.0": ", gRPC by IPv6 too", "::": ", gRPC by IPv4 too"}


@dataclass(frozen=True)
class Site:
    """What a service needs beside its models: a server that runs here, an address and ports that are free."""

    engine: Engine
    address: str
    ports: Ports


def find_site(options: ServeOptions) -> Site:
    """What the options ask for, before any model is looked at.

    Raises:
        ArgumentError: options that do not go together, or no address of this machine.
        RunnerError: a port in use.
        EngineError: no engine.
        ProviderError: no GPU, where one was asked for.
    """
    options.check()
    address = host_address(options.host)
    ports = settled_ports(address, options.http_port, options.grpc_port, options.metrics_port)
    if options.device != "cpu" and not any(DEVICE_FILES.glob("nvidia[0-9]*")):
        rule, remedy = "be a GPU of this machine", "there is no /dev/nvidia0; take --device cpu"
        raise ProviderError(broken_rule("device", rule, options.device, remedy))
    return Site(find_engine(options.engine), address, ports)


def said_of_requests(site: Site) -> Iterator[str]:
    """What others than this machine reach, and what nobody bounds: a line each, if there is something to be said."""
    address, ports = site.address, site.ports
    if not is_loopback(address):
        where = f"REST on port {ports.http}, gRPC on {ports.grpc} and metrics on {ports.metrics}"
        also = BOTH.get(address, "")
        yield f"open to whoever reaches {address}: {where}{also}; TLS and users are a proxy's before it"
    if site.engine.bounds_requests:
        yield f"a request over gRPC may have {MOST_OF_GRPC}, as no flag of Triton bounds it: a proxy before it can"
    else:
        yield f"this Triton bounds a request's images, not its bytes (gRPC: {MOST_OF_GRPC}): a proxy before it can"
