"""A small server of the Open Inference Protocol, over HTTP and gRPC, that can also lie, hang and go away."""

import functools
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import onnxruntime

from aaexport.errors import ProtocolError
from aaexport.graph.files import file_digest
from aaexport.serving import messages, rest_codec
from aaexport.serving.over_grpc import generic_handler, require_grpc
from aaexport.serving.protocol import (
    BINARY_EXTENSION,
    InferAnswer,
    ModelConfig,
    ModelMetadata,
    ModelStatistics,
    ServerMetadata,
    TensorMetadata,
    check_request,
)

TINY = ModelMetadata(
    "tiny",
    ("1",),
    "onnxruntime_onnx",
    (TensorMetadata("input", "FP32", (-1, 1, 2, 2)),),
    (TensorMetadata("logits", "FP32", (-1, 3)),),
)
SMALL = ServerMetadata("small", "1", (BINARY_EXTENSION, "model_configuration"))
SAYS = "says "  # mischief: what follows in the place of the JSON's length, or no such header
HELD = 30.0  # seconds that a query hangs at the most: until the server is closed


class StatusError(Exception):
    """An error that the server answers with."""

    def __init__(self, status: int, code: str, text: str):
        super().__init__(text)
        self.status, self.code = status, code


REFUSALS = {
    "unavailable": StatusError(503, "UNAVAILABLE", "the model is being loaded"),
    "internal": StatusError(500, "INTERNAL", "the backend has died"),
    "invalid": StatusError(400, "INVALID_ARGUMENT", "unexpected shape"),
    "gone": StatusError(404, "NOT_FOUND", "unknown model"),
}


def tiny_model(inputs):
    """Three numbers an image; NaN in an image stays in its own row."""
    flat = inputs["input"].reshape(len(inputs["input"]), -1)
    return {"logits": np.ascontiguousarray(flat[:, :3] * 2 + flat[:, 3:])}


def emptied(outputs):
    return {name: array[:0] for name, array in outputs.items()}


def flattened(outputs):
    return {name: array.reshape(-1) for name, array in outputs.items()}


def in_float64(outputs):
    return {name: array.astype(np.float64) for name, array in outputs.items()}


def poisoned(outputs):
    return {name: np.full_like(array, np.nan) for name, array in outputs.items()}


def shifted(outputs):
    return {name: array + 1 for name, array in outputs.items()}


def cleaned(outputs):
    return {name: np.nan_to_num(array) for name, array in outputs.items()}


def halved(outputs):
    return {name: array[: len(array) // 2] for name, array in outputs.items()}


# What is made of right answers.
LIES = {
    "empty": emptied,
    "flat": flattened,
    "float64": in_float64,
    "nan": poisoned,
    "wrong": shifted,
    "no nan": cleaned,
    "half": halved,
    "nothing": lambda outputs: {},
    "other name": lambda outputs: {f"{name}2": array for name, array in outputs.items()},
}


@dataclass
class Service:
    """What is served, and what is wrong with it.

    Attributes:
        compute: arrays by name → arrays by name.
        model, config, server: what it says of itself; no configuration where `config` is None.
        mischief: query number → a key of REFUSALS or LIES, `hang`, `reset`, `junk`, `short`, `dribble`, or SAYS and
            a length; None for an honest answer.
        counted: its statistics; None where it keeps none.
        away: how many questions after the model find it unloaded, in Triton's words.
        index_is_closed: whether nobody is told which models there are.
        token: what must go along with every query; None for nothing.
        queries: when it was asked.
        sizes: the batches that it was asked for.
    """

    compute: Callable = tiny_model
    model: ModelMetadata = TINY
    config: ModelConfig | None = None
    server: ServerMetadata = SMALL
    mischief: Callable[[int], str | None] = lambda number: None
    counted: ModelStatistics | None = field(default_factory=ModelStatistics)
    is_ready: bool = True
    away: int = 0
    index_is_closed: bool = False
    token: str | None = None
    queries: list = field(default_factory=list)
    sizes: list = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next_mischief(self):
        with self.lock:
            self.queries.append(time.monotonic())
            return self.mischief(len(self.queries) - 1)

    def answered(self, request, mischief):
        """The answer, or StatusError."""
        if mischief == "hang":
            self.stopped.wait(HELD)
        if mischief in REFUSALS:
            raise REFUSALS[mischief]
        self.require_known(request.model, request.version)
        try:
            check_request(request, self.model, None if self.config is None else self.config.max_batch)
        except ProtocolError as error:
            raise StatusError(400, "INVALID_ARGUMENT", str(error)) from error
        self.sizes.append(len(next(iter(request.inputs.values()))))
        began = time.perf_counter_ns()
        outputs = self.compute(request.inputs)
        took = time.perf_counter_ns() - began
        if self.counted is not None:
            batch = len(next(iter(request.inputs.values())))
            with self.lock:
                self.counted += ModelStatistics(1, took, 0, batch, 1, 0, 0, took, 0)
        outputs = {name: array for name, array in outputs.items() if not request.outputs or name in request.outputs}
        return InferAnswer(LIES.get(mischief, dict)(outputs), self.model.name, self.model.versions[-1], request.id)

    def require_known(self, name, version):
        if self.away and name == self.model.name:
            self.away -= 1
            raise StatusError(404, "NOT_FOUND", f"Request for unknown model: '{name}' has no available versions")
        if name != self.model.name or version not in ("", *self.model.versions):
            raise StatusError(404, "NOT_FOUND", f"unknown model {name!r}, version {version!r}")

    def index(self):
        """The models, as an index tells them."""
        if self.index_is_closed:
            raise StatusError(403, "UNAVAILABLE", "This protocol is restricted, expecting header 'authorization'")
        return [{"name": self.model.name, "version": "1", "state": "READY"}]


@functools.cache
def session_of(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options)


def service_of(path, name, *, max_batch=None, version="1"):
    """A service that answers what onnxruntime makes of the file, and tells of it what Triton would."""
    session = session_of(str(path))

    def described(ports):
        return tuple(
            TensorMetadata(port.name, "FP32", tuple(size if isinstance(size, int) else -1 for size in port.shape))
            for port in ports
        )

    outputs = [port.name for port in session.get_outputs()]
    return Service(
        compute=lambda inputs: dict(zip(outputs, session.run(outputs, dict(inputs)), strict=True)),
        model=ModelMetadata(
            name, (version,), "onnxruntime_onnx", described(session.get_inputs()), described(session.get_outputs())
        ),
        config=ModelConfig(name, max_batch, {"onnx_sha256": file_digest(Path(path), ())}),
    )


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    service: Service

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.replied(self.of_get)

    def do_POST(self):
        self.replied(self.of_post)

    def replied(self, make):
        try:
            if self.service.token not in (None, self.headers.get("Authorization")):
                raise StatusError(401, "UNAUTHENTICATED", "who are you?")
            make()
        except StatusError as refused:
            self.send(json.dumps({"error": str(refused)}).encode(), refused.status)

    def of_get(self):
        service = self.service
        match self.path.strip("/").split("/"):
            case ["v2"]:
                self.send_json(rest_codec.server_json(service.server))
            case ["v2", "health", "live"]:
                self.send(b"")
            case ["v2", "health", "ready"]:
                self.send(b"", 200 if service.is_ready else 400)
            case ["v2", "models", name, "versions", version, *rest]:
                self.of_model(name, version, rest)
            case ["v2", "models", name, *rest]:
                self.of_model(name, "", rest)
            case _:
                raise StatusError(404, "NOT_FOUND", "no such path")

    def of_model(self, name, version, rest):
        service = self.service
        service.require_known(name, version)
        if rest == []:
            self.send_json(rest_codec.model_json(service.model))
        elif rest == ["ready"]:
            self.send(b"", 200 if service.is_ready else 400)
        elif rest == ["config"] and service.config is not None:
            self.send_json(rest_codec.config_json(service.config))
        elif rest == ["stats"] and service.counted is not None:
            self.send_json(rest_codec.statistics_json(name, "1", service.counted))
        else:
            raise StatusError(404, "NOT_FOUND", "no such path")

    def of_post(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        match self.path.strip("/").split("/"):
            case ["v2", "repository", "index"]:
                self.send_json(self.service.index())
            case ["v2", "repository", "models", name, "load" | "unload"]:
                self.service.require_known(name, "")
                self.send(b"")
            case ["v2", "models", name, "versions", version, "infer"]:
                self.infer(body, name, version)
            case ["v2", "models", name, "infer"]:
                self.infer(body, name, "")
            case _:
                raise StatusError(404, "NOT_FOUND", "no such path")

    def infer(self, body, name, version):
        mischief = self.service.next_mischief()
        if mischief == "reset":
            # Closed with data unread and no time to linger: the other side sees a reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return
        length = self.headers.get(rest_codec.HEADER_LENGTH)
        try:
            request = rest_codec.decode_request(body, None if length is None else int(length), model=name)
        except ProtocolError as error:
            raise StatusError(400, "INVALID_ARGUMENT", str(error)) from error
        answer = rest_codec.encode_answer(self.service.answered(replace(request, version=version), mischief), request)
        if mischief == "junk":
            self.send(b"<html>hello</html>")
        elif mischief == "short":
            self.send(answer.data, headers=answer.headers, cut=4)
        elif mischief == "dribble":
            self.dribble(answer)
        elif mischief is not None and mischief.startswith(SAYS):
            said = mischief.removeprefix(SAYS)
            self.send(answer.data, headers={rest_codec.HEADER_LENGTH: said} if said else {})
        else:
            self.send(answer.data, headers=answer.headers)

    def dribble(self, answer):
        """A byte now and then."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer.data)))
        self.end_headers()
        for at in range(len(answer.data)):
            if self.service.stopped.wait(0.05):
                return
            self.wfile.write(answer.data[at : at + 1])

    def send_json(self, value):
        self.send(json.dumps(value).encode())

    def send(self, data, status=200, headers=None, cut=0):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) - cut])
        self.close_connection = self.close_connection or cut > 0


class HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        """A client that went away is no news."""


@contextmanager
def over_http(service: Service, tls=None) -> Iterator[str]:
    """The service behind a URL; `tls` is the context of a server's side."""
    server = HttpServer(("127.0.0.1", 0), type("Bound", (Handler,), {"service": service}))
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_address[1]}"
    finally:
        service.stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def over_grpc(service: Service, credentials=None) -> Iterator[str]:
    """The service behind a URL of gRPC."""
    grpc = require_grpc()

    def guarded(answer):
        def call(request, context):
            try:
                if service.token not in (None, dict(context.invocation_metadata()).get("authorization")):
                    raise StatusError(401, "UNAUTHENTICATED", "who are you?")
                return answer(request)
            except StatusError as refused:
                context.abort(getattr(grpc.StatusCode, refused.code), str(refused))

        return call

    def infer(message):
        mischief = service.next_mischief()
        try:
            request = messages.decode_request(message)
        except ProtocolError as error:
            raise StatusError(400, "INVALID_ARGUMENT", str(error)) from error
        return messages.encode_answer(service.answered(request, mischief))

    def of_model(make):
        def answer(message):
            service.require_known(message.name, message.version)
            return make()

        return answer

    def present(value, make):
        if value is None:
            raise StatusError(501, "UNIMPLEMENTED", "not here")
        return make()

    methods = {
        "ServerLive": lambda message: messages.answer_message("ServerLive", live=True),
        "ServerReady": lambda message: messages.answer_message("ServerReady", ready=service.is_ready),
        "ModelReady": of_model(lambda: messages.answer_message("ModelReady", ready=service.is_ready)),
        "ServerMetadata": lambda message: messages.server_message(service.server),
        "ModelMetadata": of_model(lambda: messages.model_message(service.model)),
        "ModelConfig": of_model(lambda: present(service.config, lambda: messages.config_message(service.config))),
        "ModelStatistics": of_model(
            lambda: present(
                service.counted, lambda: messages.statistics_message(service.model.name, "1", service.counted)
            )
        ),
        "RepositoryIndex": lambda message: messages.answer_message("RepositoryIndex", models=service.index()),
        "RepositoryModelLoad": lambda message: messages.answer_message("RepositoryModelLoad"),
        "RepositoryModelUnload": lambda message: messages.answer_message("RepositoryModelUnload"),
        "ModelInfer": infer,
    }
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((generic_handler({name: guarded(make) for name, make in methods.items()}),))
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield f"{'grpc' if credentials is None else 'grpcs'}://127.0.0.1:{port}"
    finally:
        service.stopped.set()
        server.stop(0).wait()


@contextmanager
def over_both(service: Service) -> Iterator[dict[str, str]]:
    """The service behind one URL of each kind."""
    with ExitStack() as stack:
        yield {"http": stack.enter_context(over_http(service)), "grpc": stack.enter_context(over_grpc(service))}


@contextmanager
def silent() -> Iterator[str]:
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def unused() -> str:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"
