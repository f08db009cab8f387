"""The Open Inference Protocol over gRPC: one service's URL → its answers, on one channel."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from aaexport.errors import ArgumentError, ServiceError, broken_rule, first_line
from aaexport.serving import messages
from aaexport.serving.address import Access, Address, RefusedError, unreachable
from aaexport.serving.protocol import (
    InferAnswer,
    InferRequest,
    ModelConfig,
    ModelMetadata,
    ModelState,
    ModelStatistics,
    ServerMetadata,
)

# INTERNAL too: a backend that died answers so until it is loaded again.
RETRYABLE = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "CANCELLED", "INTERNAL")
ABSENT = ("UNIMPLEMENTED",)
LATE, OTHER, CUT = "late", "another protocol", "a connection that was closed without an answer"
OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),  # as over REST: the URL says where the service is
    ("grpc.use_local_subchannel_pool", 1),  # a client's trouble with a server is not another's
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
)


class GrpcTransport:
    """A service behind grpc:// or grpcs://. Threads may share it.

    Raises:
        ServiceError: grpcio is not installed, or the file of authorities cannot be read.
    """

    def __init__(self, address: Address, access: Access) -> None:
        self._grpc = require_grpc()
        self.address, self._access = address, access
        credentials = access.credentials
        named = {} if credentials is None else {"authorization": credentials}
        self._metadata = tuple((named | dict(access.headers)).items())
        if address.is_secure:
            certificates = self._grpc.ssl_channel_credentials(_authorities(access))
            self._channel = self._grpc.secure_channel(address.netloc, certificates, OPTIONS)
        else:
            self._channel = self._grpc.insecure_channel(address.netloc, OPTIONS)
        self._methods = {name: self._method(name) for name in messages.METHODS}

    def _method(self, name: str) -> Callable[..., Any]:
        call: Callable[..., Any] = self._channel.unary_unary(
            messages.method_path(name),
            # A query comes serialized already: its tensors are copied once.
            request_serializer=None if name == "ModelInfer" else _serialized,
            response_deserializer=messages.message_class(f"{name}Response").FromString,
            _registered_method=True,  # as generated stubs have it: the path is looked up once
        )
        return call

    def live(self) -> bool:
        """Whether the server says that it is alive. ServiceError if nothing answers."""
        return bool(self._ask("ServerLive").live)

    def ready(self, model: str = "", version: str = "") -> bool:
        """Whether the server, or one of its models, says that it is ready. ServiceError if nothing answers."""
        try:
            if model:
                return bool(self._ask("ModelReady", name=model, version=version).ready)
            return bool(self._ask("ServerReady").ready)
        except RefusedError as refusal:
            if refusal.status in ("NOT_FOUND", "INVALID_ARGUMENT"):
                return False
            raise

    def server(self) -> ServerMetadata:
        """What the server says of itself. ServiceError if it says nothing."""
        return messages.server_of(self._ask("ServerMetadata"))

    def model(self, name: str, version: str = "") -> ModelMetadata:
        """What the server says of a model. ServiceError if it has none of that name."""
        return messages.model_of(self._ask("ModelMetadata", name=name, version=version))

    def config(self, name: str, version: str = "") -> ModelConfig | None:
        """How the server serves a model; None if it does not tell."""
        found = self._extension("ModelConfig", name=name, version=version)
        return None if found is None else messages.config_of(found)

    def statistics(self, name: str, version: str = "") -> ModelStatistics | None:
        """A model's counters; None if the server keeps none."""
        found = self._extension("ModelStatistics", name=name, version=version)
        return None if found is None else messages.statistics_of(found)

    def index(self) -> tuple[ModelState, ...]:
        """The models of the server's repository."""
        return messages.states_of(self._ask("RepositoryIndex"))

    def load(self, name: str) -> None:
        """Loads a model of the repository, or its new version. ServiceError if the server refuses."""
        self._ask("RepositoryModelLoad", model_name=name)

    def unload(self, name: str) -> None:
        """Unloads a model. ServiceError if the server refuses."""
        self._ask("RepositoryModelUnload", model_name=name)

    def infer(self, request: InferRequest) -> InferAnswer:
        """The answer, as it came. ServiceError if there is none, ProtocolError if it cannot be read."""
        return messages.decode_answer(self._call("ModelInfer", messages.encode_request(request)))

    def close(self) -> None:
        """Gives the connection back."""
        self._channel.close()

    def _ask(self, method: str, **values: Any) -> Any:
        return self._call(method, messages.request_message(method, **values))

    def _extension(self, method: str, **values: Any) -> Any:
        try:
            return self._ask(method, **values)
        except RefusedError as refusal:
            if refusal.status in ABSENT:
                return None
            raise

    def _call(self, method: str, request: Any) -> Any:
        try:
            return self._methods[method](request, timeout=self._access.timeout, metadata=self._metadata)
        except self._grpc.RpcError as error:
            raise self._failure(error) from error
        except ValueError as error:  # of a channel that another thread has closed
            raise ServiceError(f"{self.address} was asked after its client was closed") from error

    def _failure(self, error: Any) -> ServiceError:
        """Why no answer came, in a sentence."""
        code, details = error.code().name, " ".join(str(error.details() or "no reason given").split())
        lost = _lost(details) if code == "UNAVAILABLE" else None
        if lost == "TLS" and not self.address.is_secure:  # gRPC shakes hands without it, too
            lost = CUT
        if code == "DEADLINE_EXCEEDED" or lost == LATE:
            rule = f"be answered within {self._access.timeout:g} s"
            return unreachable(self.address, "no whole answer", "the service hangs or is overloaded", rule=rule)
        if lost == OTHER:
            text = f"something else from {self.address}"
            return ServiceError(f"url must speak gRPC, got {text}; is it the port for HTTP?")
        if lost is not None:
            return self._unconnected(lost, details)
        return RefusedError(self.address, code, details, retryable=code in RETRYABLE)

    def _unconnected(self, lost: str, details: str) -> ServiceError:
        if lost == "TLS":
            why = "a certificate that is not trusted" if "CERTIFICATE_VERIFY" in details.upper() else "no TLS"
            remedy = "give the authority of its certificate with --ca FILE" if why != "no TLS" else ""
            text = f"{why} at {self.address}{'; ' + remedy if remedy else ''}"
            return ServiceError(f"url must be reached by TLS, got {text}")
        remedy = "is the service running, and on this port?" if lost == "connection refused" else ""
        return unreachable(self.address, lost, remedy)


def _lost(details: str) -> str | None:
    """What became of the connection, of gRPC's long account of it; None where the server itself is UNAVAILABLE."""
    known = {
        "refused": "connection refused",
        "timed out": LATE,
        "parsing HTTP/2": OTHER,
        "resolving": "an unknown host",
        "DNS": "an unknown host",
        "handshake": "TLS",
        "Handshake": "TLS",
        "SSL": "TLS",
        "reset": CUT,
        "closed": CUT,
        "Broken pipe": CUT,
        "failed to connect": "no connection",
    }
    return next((text for word, text in known.items() if word in details), None)


def _serialized(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data


def require_grpc() -> Any:
    """The library grpc. ServiceError, which says how to install it, where it is not."""
    # Its core writes lines of its own on stderr; what goes wrong is said by the errors that it raises.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        import grpc
    except ImportError as error:
        raise ServiceError("grpcio is not installed; pip install 'aaexport[serve]'") from error
    return grpc


def _authorities(access: Access) -> bytes | None:
    if access.ca is None:
        return None
    try:
        return access.ca.read_bytes()
    except OSError as error:
        raise ServiceError(f"ca must be a file of certificates, got {access.ca}: {first_line(error)}") from error


def generic_handler(methods: Mapping[str, Callable[[Any, Any], Any]]) -> Any:
    """Functions (request message, context) → answer message, by the protocol's name → a handler for grpc.server.

    Raises:
        ArgumentError: a name that is no method of the protocol.
    """
    grpc = require_grpc()
    for name in methods:
        if name not in messages.METHODS:
            raise ArgumentError(broken_rule("methods", f"be some of {', '.join(messages.METHODS)}", name))
    return grpc.method_handlers_generic_handler(
        messages.SERVICE,
        {
            name: grpc.unary_unary_rpc_method_handler(
                function, messages.message_class(f"{name}Request").FromString, _serialized
            )
            for name, function in methods.items()
        },
    )
