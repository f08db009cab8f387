"""What is said of requests before a service starts."""

from pathlib import Path

import pytest

from aaexport.pipeline.serve.site import Site, said_of_requests
from aaexport.serving.engine import Engine, Ports

UNBOUNDED = "this Triton bounds the images of a request, and not its bytes: a proxy before it can"


def said(address, *, bounds=False):
    engine = Engine(Path("tritonserver"), None, None, "python", "", bounds_requests=bounds)
    return list(said_of_requests(Site(engine, address, Ports(8000, 8001, 8002))))


def test_what_is_open_is_named():
    (line,) = said("192.0.2.1", bounds=True)
    assert line.startswith("open to whoever reaches 192.0.2.1: REST on port 8000, gRPC on 8001 and metrics on 8002; ")


def test_grpc_listens_by_ipv6_too_where_every_interface_is_named():
    (line,) = said("0.0.0.0", bounds=True)
    assert "metrics on 8002, gRPC by IPv6 too; TLS" in line


@pytest.mark.parametrize("bounds", [True, False])
def test_what_no_flag_of_this_server_bounds_is_said(bounds):
    assert said("127.0.0.1", bounds=bounds) == ([] if bounds else [UNBOUNDED])
