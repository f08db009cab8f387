"""A model's metadata → a service that answers every query at once, with zeros: what client and protocol cost alone.

Run as `python -m aaexport.serving.null_server`. The first line on stdin says what to serve, the first on stdout says
where; it ends when stdin does. It does as little as Python can: of a query it looks at the batch alone.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np

from aaexport.serving import messages, rest_codec
from aaexport.serving.over_grpc import generic_handler, require_grpc
from aaexport.serving.protocol import (
    ANY,
    BINARY_EXTENSION,
    Array,
    InferAnswer,
    InferRequest,
    ModelMetadata,
    ServerMetadata,
    dtype_of,
)

SERVER = ServerMetadata("null", "1", (BINARY_EXTENSION,))
THREADS = 64  # of gRPC: queries that are answered at a time
END_OF_HEAD = b"\r\n\r\n"
READ = 2**20  # bytes at a time


def main() -> None:
    """Serves until stdin ends."""
    wanted = json.loads(sys.stdin.readline())
    model = rest_codec.model_of(wanted["model"])
    serve = {"http": serve_http, "grpc": serve_grpc}[wanted["kind"]]
    port, kept = serve(model)
    print(json.dumps({"port": port}), flush=True)  # noqa: T201  the parent reads it
    sys.stdin.read()
    del kept
    os._exit(0)  # whoever is connected is answered no more


def zeros(model: ModelMetadata, batch: int) -> dict[str, Array]:
    """Outputs of the size that the model's would have."""
    return {
        tensor.name: np.zeros([batch if size == ANY else size for size in tensor.shape], dtype_of(tensor.datatype))
        for tensor in model.outputs
    }


def serve_http(model: ModelMetadata) -> tuple[int, Any]:
    """The port of 127.0.0.1 on which it answers, each connection in a thread, and what must be held for that."""
    server = socket.create_server(("127.0.0.1", 0), backlog=256)
    answer = _http_answers(model)

    def accept() -> None:
        while True:
            connection, _ = server.accept()
            threading.Thread(target=_converse, args=(connection, answer), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return server.getsockname()[1], server


def _converse(connection: socket.socket, answer: Callable[[str, bytes], bytes]) -> None:
    """Answers one request after the other until the client goes."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    held = b""
    with connection:
        while True:
            while (end := held.find(END_OF_HEAD)) < 0:
                if not (more := connection.recv(READ)):
                    return
                held += more
            head, parts = held[:end].decode("latin-1"), [held[end + len(END_OF_HEAD) :]]
            missing = int(_header(head, "content-length") or 0) - len(parts[0])
            while missing > 0:
                if not (more := connection.recv(READ)):
                    return
                parts.append(more)
                missing -= len(more)
            length = int(_header(head, rest_codec.HEADER_LENGTH.lower()) or 0)
            body = parts[0] if len(parts[0]) >= length else b"".join(parts)
            connection.sendall(answer(head.partition(" HTTP")[0], body[:length]))
            held = b""


def _header(head: str, name: str) -> str:
    for line in head.split("\r\n")[1:]:
        key, _, value = line.partition(":")
        if key.lower() == name:
            return value.strip()
    return ""


def _http_answers(model: ModelMetadata) -> Callable[[str, bytes], bytes]:
    facts: dict[str, Any] = {
        "GET /v2": rest_codec.server_json(SERVER),
        f"GET /v2/models/{model.name}": rest_codec.model_json(model),
        f"GET /v2/models/{model.name}/ready": {},
    }

    @cache
    def answer(asked: str, head: bytes) -> bytes:
        """By method and path, and the JSON before the tensors, which tells the batch."""
        if asked in facts:
            return _response(200, rest_codec.Body(json.dumps(facts[asked]).encode()))
        if not asked.endswith("/infer") or not head:
            return _response(404, rest_codec.Body(b'{"error": "the null server has nothing there"}'))
        batch = int(json.loads(head)["inputs"][0]["shape"][0])
        zero = InferAnswer(zeros(model, batch), model.name, "1")
        return _response(200, rest_codec.encode_answer(zero, InferRequest({})))

    return answer


def _response(status: int, body: rest_codec.Body) -> bytes:
    headers = {**body.headers, "Content-Length": str(len(body.data))}
    lines = [f"HTTP/1.1 {status} -", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode() + END_OF_HEAD + body.data


def serve_grpc(model: ModelMetadata) -> tuple[int, Any]:
    """As `serve_http`, over gRPC."""
    grpc = require_grpc()

    @cache
    def zero(batch: int) -> Any:
        return messages.encode_answer(InferAnswer(zeros(model, batch), model.name, "1"))

    def infer(message: Any, context: Any) -> Any:
        return zero(message.inputs[0].shape[0])

    handler = generic_handler(
        {
            "ServerMetadata": lambda message, context: messages.server_message(SERVER),
            "ModelMetadata": lambda message, context: messages.model_message(model),
            "ModelReady": lambda message, context: messages.answer_message("ModelReady", ready=True),
            "ModelInfer": infer,
        }
    )
    server = grpc.server(ThreadPoolExecutor(THREADS), options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((handler,))
    port: int = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return port, server


if __name__ == "__main__":
    main()
