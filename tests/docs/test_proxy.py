"""The proxy of the page "Serve behind a proxy", as nginx itself reads and runs it."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from inference_servers import Service, over_both, service_of
from repository import ROOT

from aaexport.errors import ServiceError
from aaexport.serving.client import Client

pytest.importorskip("grpc")
PAGE = ROOT / "docs/how-to/serve-behind-a-proxy.md"
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin")
TOKEN, OURS = "PUT-A-LONG-RANDOM-TOKEN-HERE", "Bearer PUT-A-LONG-RANDOM-TOKEN-HERE"
SMALL = "64k"  # in the place of the page's bound: as much is refused, and sooner sent
AROUND = """
daemon off;
{user}
pid {room}/nginx.pid;
error_log {room}/error.log;
worker_processes 1;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {room}/body;
    proxy_temp_path {room}/proxy;
    fastcgi_temp_path {room}/fastcgi;
    uwsgi_temp_path {room}/uwsgi;
    scgi_temp_path {room}/scgi;
{shown}
}}
"""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    trustme = pytest.importorskip("trustme")
    authority, room = trustme.CA(), tmp_path_factory.mktemp("tls")
    issued = authority.issue_cert("localhost", "127.0.0.1")
    authority.cert_pem.write_to_path(str(room / "ca.pem"))
    issued.private_key_pem.write_to_path(str(room / "key.pem"))
    for part in issued.cert_chain_pems:
        part.write_to_path(str(room / "chain.pem"), append=True)
    return room


def configured(room, certificate, port, http, grpc):
    """The page's block with these ports and files in the place of its own, and what a distribution has around it."""
    (shown,) = re.findall(r"^```nginx\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    for old, new in (
        ("8443", f"127.0.0.1:{port}"), ("127.0.0.1:8000", http), ("127.0.0.1:8001", grpc), ("64m", SMALL),
        ("/etc/ssl/aaexport.pem", f"{certificate}/chain.pem"),
        ("/etc/ssl/private/aaexport.key", f"{certificate}/key.pem"),
    ):  # fmt: skip
        assert shown.count(old) == 1, old
        shown = shown.replace(old, new)
    path = room / "nginx.conf"
    path.write_text(AROUND.format(user="" if os.geteuid() else "user root;", room=room, shown=shown))
    return path


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def listens(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def place(url):
    return url.partition("://")[2]


class Proxy:
    """nginx before two ports."""

    def __init__(self, room, certificate, urls):
        if NGINX is None:
            pytest.skip("nginx is not installed; apt-get install nginx-light")
        self.port, self.ca = free_port(), certificate / "ca.pem"
        config = configured(room, certificate, self.port, place(urls["http"]), place(urls["grpc"]))
        command = [NGINX, "-p", str(room), "-e", str(room / "error.log"), "-c", str(config)]
        checked = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
        assert "emerg" not in checked.stderr
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 15
        while not listens(self.port):
            assert self.process.poll() is None, (room / "error.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def url(self, scheme):
        return f"{scheme}://127.0.0.1:{self.port}"

    def client(self, scheme, token=OURS):
        return Client(self.url(scheme), ca=self.ca, authorization=token, retry_for=0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(15)


@pytest.fixture(scope="module")
def service():
    return Service()


@pytest.fixture(scope="module")
def proxy(tmp_path_factory, certificate, service):
    with over_both(service) as urls, Proxy(tmp_path_factory.mktemp("nginx"), certificate, urls) as running:
        yield running


SCHEMES = ["https", "grpcs"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_query_goes_through_with_the_token_and_is_answered_right(proxy, service, scheme):
    images = np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2)
    with proxy.client(scheme) as client:
        assert client.live()
        found = client.infer("tiny", {"input": images}).outputs
    np.testing.assert_array_equal(found["logits"], service.compute({"input": images})["logits"])


@pytest.mark.parametrize("token", ["Bearer wrong", None])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_wrong_token_gets_401_and_a_line(proxy, monkeypatch, scheme, token):
    monkeypatch.delenv("AAEXPORT_AUTHORIZATION", raising=False)
    with proxy.client(scheme, token) as client, pytest.raises(ServiceError) as raised:
        client.server()
    said = str(raised.value)
    assert re.search(r"refuses with (401: 401 Authorization Required|UNAUTHENTICATED: .*401)", said)
    assert said.endswith("; put what it asks for into AAEXPORT_AUTHORIZATION")
    assert "<" not in said
    assert "\n" not in said


@pytest.mark.parametrize(("scheme", "refused"), [("https", "with 413: 413 "), ("grpcs", "413")])
def test_what_is_larger_than_the_bound_is_refused_over_both(proxy, service, scheme, refused):
    """Over gRPC too, whose requests do not say their length."""
    service.queries.clear()
    images = {"input": np.zeros((8192, 1, 2, 2), np.float32)}
    with proxy.client(scheme) as client:
        with pytest.raises(ServiceError) as raised:
            client.infer("tiny", images)
        assert refused in str(raised.value)
        assert not service.queries
        client.infer("tiny", {"input": images["input"][:1000]})


def test_what_is_not_the_protocols_is_not_passed_on(proxy):
    with proxy.client("https") as client, pytest.raises(ServiceError, match="refuses with 404"):
        client.load("tiny")  # v2/repository


@pytest.mark.slow
def test_verify_asks_through_tls(converted_once, certificate, tmp_path):
    """The command itself: a right service passes through the proxy, and without the token it is one line."""
    (tmp_path / "room").mkdir()
    served = service_of(converted_once / "model.onnx", "tiny", max_batch=5, version="3")
    with over_both(served) as urls, Proxy(tmp_path / "room", certificate, urls) as running:
        command = [sys.executable, "-m", "aaexport", "verify", str(converted_once), "--runtimes", "onnxruntime",
                   "--url", running.url("https"), "--served-as", "tiny", "--ca", str(running.ca)]  # fmt: skip
        right = {**os.environ, "AAEXPORT_AUTHORIZATION": OURS}
        done = subprocess.run(command, env=right, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert running.url("https") in done.stdout
        wrong = {**os.environ, "AAEXPORT_AUTHORIZATION": "Bearer wrong"}
        done = subprocess.run(command, env=wrong, capture_output=True, text=True, check=False)
    assert done.returncode == ServiceError.exit_code
    (line,) = [line for line in done.stderr.splitlines() if "401" in line]
    assert "refuses with 401: 401 Authorization Required; put what it asks for into" in line
    assert "Traceback" not in done.stderr
