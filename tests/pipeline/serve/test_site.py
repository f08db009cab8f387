"""What is said of requests before a service starts."""

from pathlib import Path

import pytest

from aaexport.pipeline.serve.site import Site, said_of_requests
from aaexport.serving.engine import Engine, Ports

UNBOUNDED = "this Triton bounds a request's images, not its bytes (gRPC: 2 GiB): a proxy before it can"
UNBOUNDED_GRPC = "a request over gRPC may have 2 GiB, as no flag of Triton bounds it: a proxy before it can"


def said(address, *, bounds=False):
    engine = Engine(Path("tritonserver"), None, None, "python", "", bounds_requests=bounds)
    return list(said_of_requests(Site(engine, address, Ports(8000, 8001, 8002))))


def test_what_is_open_is_named():
    line, _ = said("192.0.2.1", bounds=True)
    assert line.startswith("open to whoever reaches 192.0.2.1: REST on port 8000, gRPC on 8001 and metrics on 8002; ")


@pytest.mark.parametrize(("address", "other"), [("0.0.0.0", "IPv6"), ("::", "IPv4")])
def test_grpc_listens_by_both_protocols_where_every_interface_is_named(address, other):
    line, _ = said(address, bounds=True)
    assert f"metrics on 8002, gRPC by {other} too; TLS" in line


@pytest.mark.parametrize("bounds", [True, False])
def test_what_no_flag_of_this_server_bounds_is_said(bounds):
    assert said("127.0.0.1", bounds=bounds) == [UNBOUNDED_GRPC if bounds else UNBOUNDED]
