"""The Open Inference Protocol over HTTP: one service's URL → its answers, on connections that are kept."""

from __future__ import annotations

import html
import json
import re
import ssl
from typing import Any, NoReturn
from urllib.parse import quote

from aaexport.errors import ServiceError, first_line
from aaexport.serving import rest_codec
from aaexport.serving.address import Access, Address, RefusedError, refused, unreachable
from aaexport.serving.bounds import byte_count
from aaexport.serving.protocol import (
    InferAnswer,
    InferRequest,
    ModelConfig,
    ModelMetadata,
    ModelState,
    ModelStatistics,
    ServerMetadata,
)
from aaexport.serving.wire import LostError, Reply, Wire

RETRYABLE = (429, 500, 502, 503, 504)  # also 500: a backend that died answers so until it is loaded again
ABSENT = (404, 405, 501)  # of an extension that a server does not have
OK = 200
TITLE = re.compile(r"<title>(.*?)</title>", re.IGNORECASE | re.DOTALL)
REDIRECTS = range(300, 400)


class RestTransport:
    """A service behind http:// or https://. Threads may share it: each query has a connection to itself.

    Raises:
        ServiceError: the file of authorities cannot be read.
    """

    def __init__(self, address: Address, access: Access) -> None:
        self.address, self._access = address, access
        self._takes_binary: bool | None = None
        headers = {} if access.credentials is None else {"Authorization": access.credentials}
        self._wire = Wire(address, access.timeout, _tls(access) if address.is_secure else None, headers)

    def live(self) -> bool:
        """Whether the server says that it is alive. ServiceError if nothing answers."""
        return self._call("GET", "v2/health/live")[0] == OK

    def ready(self, model: str = "", version: str = "") -> bool:
        """Whether the server, or one of its models, says that it is ready. ServiceError if nothing answers."""
        return self._call("GET", f"{_of(model, version)}/ready" if model else "v2/health/ready")[0] == OK

    def server(self) -> ServerMetadata:
        """What the server says of itself. ServiceError if it says nothing, ProtocolError if something else."""
        return rest_codec.server_of(self._json("GET", "v2"))

    def model(self, name: str, version: str = "") -> ModelMetadata:
        """What the server says of a model. ServiceError if it has none of that name."""
        return rest_codec.model_of(self._json("GET", _of(name, version)))

    def config(self, name: str, version: str = "") -> ModelConfig | None:
        """How the server serves a model; None if it does not tell."""
        found = self._extension("GET", f"{_of(name, version)}/config")
        return None if found is None else rest_codec.config_of(found)

    def statistics(self, name: str, version: str = "") -> ModelStatistics | None:
        """A model's counters; None if the server keeps none."""
        found = self._extension("GET", f"{_of(name, version)}/stats")
        return None if found is None else rest_codec.statistics_of(found)

    def index(self) -> tuple[ModelState, ...]:
        """The models of the server's repository."""
        found: Any = self._json("POST", "v2/repository/index", b"{}")
        return rest_codec.states_of(found)

    def load(self, name: str) -> None:
        """Loads a model of the repository, or its new version. ServiceError if the server refuses."""
        self._done("POST", f"v2/repository/models/{quote(name, safe='')}/load")

    def unload(self, name: str) -> None:
        """Unloads a model. ServiceError if the server refuses."""
        self._done("POST", f"v2/repository/models/{quote(name, safe='')}/unload")

    def infer(self, request: InferRequest) -> InferAnswer:
        """The answer, as it came. ServiceError if there is none, ProtocolError if it cannot be read."""
        if self._takes_binary is None:
            self._takes_binary = self.server().takes_binary
        body = rest_codec.encode_request(request, binary=self._takes_binary)
        path = f"{_of(request.model, request.version)}/infer"
        status, headers, data = self._call("POST", path, body.data, body.headers)
        if status != OK:
            self._refused(status, headers, data)
        said = headers.get(rest_codec.HEADER_LENGTH.lower())
        length = None if said is None else byte_count(rest_codec.HEADER_LENGTH, said, f" from {self.address}")
        return rest_codec.decode_answer(data, length)

    def close(self) -> None:
        """Gives the connections back."""
        self._wire.close()

    def _json(self, method: str, path: str, body: bytes = b"") -> Any:
        status, headers, data = self._call(method, path, body, {"Content-Type": rest_codec.JSON_TYPE})
        if status != OK:
            self._refused(status, headers, data)
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            what = f"{headers.get('content-type', 'an answer')} that is no JSON to {method} /{path}"
            raise refused(self.address, what, rule="speak the Open Inference Protocol") from error

    def _extension(self, method: str, path: str) -> Any:
        try:
            return self._json(method, path)
        except RefusedError as refusal:
            if refusal.status in ABSENT and not refusal.knows_name:
                return None
            raise

    def _done(self, method: str, path: str) -> None:
        status, headers, data = self._call(method, path, b"{}", {"Content-Type": rest_codec.JSON_TYPE})
        if status != OK:
            self._refused(status, headers, data)

    def _call(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Reply:
        """Status, headers and body. ServiceError if they did not come whole, and in time."""
        try:
            return self._wire.ask(method, path, body, headers)
        except LostError as lost:
            raise self._lost(lost) from lost

    def _lost(self, lost: LostError) -> ServiceError:
        """Why no answer came, in a sentence."""
        address = self.address
        if lost.kind == "late":
            rule = f"be answered within {self._access.timeout:g} s"
            return unreachable(address, "no whole answer", "the service hangs or is overloaded", rule=rule)
        if lost.kind == "host":
            return unreachable(address, f"the unknown host {address.host}")
        if lost.kind == "refused":
            return unreachable(address, str(lost).lower(), "is the service running, and on this port?")
        if lost.kind == "TLS":
            why = str(lost).partition(" (_ssl")[0].rpartition("] ")[2]
            remedy = "; give the authority of its certificate with --ca FILE" if "certificate" in why else ""
            return ServiceError(f"url must be reached by TLS, got {why} at {address}{remedy}")
        if lost.kind == "other protocol":
            return ServiceError(f"url must speak HTTP, got something else from {address}; is it the port for gRPC?")
        return unreachable(address, "a connection that was closed without an answer")

    def _refused(self, status: int, headers: Any, data: bytes) -> NoReturn:
        if status in REDIRECTS and "location" in headers:
            raise refused(self.address, f"a redirect to {headers['location']}", rule="be the service's own")
        raise RefusedError(self.address, status, _complaint(data), retryable=status in RETRYABLE)


def _complaint(data: bytes) -> str:
    """What the server says of it."""
    try:
        return str(json.loads(data)["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        text = data.decode(errors="replace")
        titled = TITLE.search(text)  # of a proxy's page, which says no more
        return html.unescape(titled[1]) if titled else text


def _of(model: str, version: str) -> str:
    path = f"v2/models/{quote(model, safe='')}"
    return f"{path}/versions/{quote(version, safe='')}" if version else path


def _tls(access: Access) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=None if access.ca is None else str(access.ca))
    except (OSError, ValueError) as error:
        raise ServiceError(f"ca must be a file of certificates, got {access.ca}: {first_line(error)}") from error
