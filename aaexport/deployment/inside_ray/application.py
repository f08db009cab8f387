"""One ONNX model behind the Open Inference Protocol, over REST and gRPC, as a Ray Serve application.

    ray start …              on every host, with PYTHONPATH naming this folder, which lies there under the same path
    python application.py    on one of them: starts what serve.yaml says, or changes a running service to it

Each replica has one onnxruntime session. Queries that wait share a run, if serve.yaml lets them, with those whose
images have the same size; a replica is healthy as long as it answers the golden vectors right.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from ray import serve

from aaexport.errors import ProtocolError
from aaexport.serving import messages, rest_codec
from aaexport.serving.backend.faults import places_of, told_of_run
from aaexport.serving.bounds import TooLargeError, byte_count, largest_query, read_bounded
from aaexport.serving.golden import Query
from aaexport.serving.judge import why_wrong
from aaexport.serving.protocol import (
    ANY,
    BINARY_EXTENSION,
    ONNX_SHA256,
    InferAnswer,
    InferRequest,
    ModelConfig,
    ModelMetadata,
    ServerMetadata,
    TensorMetadata,
    check_request,
)

HERE = Path(__file__).resolve().parent
VERSION = "1"
SERVER = ServerMetadata("aaexport on Ray Serve", VERSION, (BINARY_EXTENSION,))
GRPC_METHODS = (
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "ModelConfig",
    "ModelInfer",
)
NOT_FOUND, BAD_REQUEST, TOO_LARGE = 404, 400, 413
STATUSES = {"INTERNAL": 500, "UNAVAILABLE": 503}  # of what is not the client's fault


class UnknownModelError(Exception):
    """A query names another model or version."""


class NotRunError(Exception):
    """The model could not be run, for no fault of the client's; `code` is gRPC's."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class Failed:
    """What a query gets in the place of outputs, beside others that get theirs."""

    error: ProtocolError | NotRunError


Outcome = dict[str, Any] | Failed


class Session:
    """The model that lies beside this file: one onnxruntime session, its metadata, its golden vectors."""

    def __init__(self, threads: int | None) -> None:
        about = json.loads((HERE / "model.json").read_text(encoding="utf-8"))
        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        path = HERE / "model" / about["onnx"]
        self._places = places_of(path.parent)
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        inputs, outputs = ([TensorMetadata(t["name"], t["datatype"], tuple(t["shape"])) for t in about[side]]
                           for side in ("inputs", "outputs"))  # fmt: skip
        self.metadata = ModelMetadata(about["name"], (VERSION,), "onnxruntime_onnx", tuple(inputs), tuple(outputs))
        self.onnx_sha256, self._dtype = about["onnx_sha256"], about["dtype"]
        self.batched = all(tensor.shape[:1] == (ANY,) for tensor in (*inputs, *outputs))
        self.has_open_sizes = any(ANY in tensor.shape[1:] for tensor in inputs)
        with np.load(HERE / "golden.npz") as golden:
            asked = {tensor.name: golden[f"input.{tensor.name}"] for tensor in inputs}
            right = {t.name: golden[f"output.{t.name}"] for t in outputs if f"output.{t.name}" in golden}
        self._golden = Query("golden vectors", asked, right)

    def run(self, feeds: dict[str, Any]) -> dict[str, Any]:
        """Inputs by name → outputs by name."""
        names = [tensor.name for tensor in self.metadata.outputs]
        return dict(zip(names, self._session.run(names, feeds), strict=True))

    def answer(self, queries: Sequence[InferRequest]) -> list[Outcome]:
        """What each query gets. Those of one size share a run; where it fails each runs alone, and fails alone."""
        alike: dict[tuple[Any, ...], list[int]] = {}
        for number, query in enumerate(queries):
            sizes = tuple(query.inputs[tensor.name].shape[1:] for tensor in self.metadata.inputs)
            alike.setdefault(sizes, []).append(number)
        outcomes: dict[int, Outcome] = {}
        for numbers in alike.values():
            outcomes |= zip(numbers, self._outcomes([queries[number] for number in numbers]), strict=True)
        return [outcomes[number] for number in range(len(queries))]

    def _outcomes(self, queries: Sequence[InferRequest]) -> Sequence[Outcome]:
        try:
            return self._together(queries)
        # onnxruntime's exceptions share no base but Exception.
        except Exception as error:  # noqa: BLE001
            if len(queries) > 1:
                return [self._outcomes([query])[0] for query in queries]
            code, text = told_of_run(error, has_open_sizes=self.has_open_sizes, places=self._places)
            return [Failed(NotRunError(code, text) if code in STATUSES else ProtocolError(text))]

    def _together(self, queries: Sequence[InferRequest]) -> list[dict[str, Any]]:
        """The outputs of each query; several of them share one run, their images one behind the other."""
        if len(queries) == 1:
            return [self.run(dict(queries[0].inputs))]
        names = [tensor.name for tensor in self.metadata.inputs]
        outputs = self.run({name: np.concatenate([query.inputs[name] for query in queries]) for name in names})
        ends = np.cumsum([images(query) for query in queries])[:-1]
        parts = {name: np.split(array, ends) for name, array in outputs.items()}
        return [{name: part[number] for name, part in parts.items()} for number in range(len(queries))]

    def require_right(self) -> None:
        """RuntimeError if a golden vector is answered wrongly."""
        wrong = why_wrong(self._golden, self.run(dict(self._golden.inputs)), self._dtype)
        if wrong is not None:
            raise RuntimeError(f"golden vectors must be answered right, got {wrong}")


def images(query: InferRequest) -> int:
    """Of one query; what has no dimensions is one."""
    array = next(iter(query.inputs.values()))
    return len(array) if array.ndim else 1


def images_in(queries: Sequence[InferRequest]) -> int:
    """Of all queries that would share a run."""
    return sum(images(query) for query in queries)


def _refusal(method: str, error: Exception, grpc_context: Any) -> Any:
    """What gRPC is answered. It stands before the replica's class, as Ray copies that with what is there by then."""
    code = "NOT_FOUND" if isinstance(error, UnknownModelError) else "INVALID_ARGUMENT"
    grpc_context.set_code(grpc.StatusCode[error.code if isinstance(error, NotRunError) else code])
    grpc_context.set_details(str(error))
    return messages.answer_message(method)


app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)


@app.exception_handler(ProtocolError)
async def refused(_: Request, error: ProtocolError) -> JSONResponse:
    """What is no query of the model's."""
    return JSONResponse({"error": str(error)}, BAD_REQUEST)


@app.exception_handler(TooLargeError)
async def too_large(_: Request, error: TooLargeError) -> JSONResponse:
    """More bytes than any query of the model's has."""
    return JSONResponse({"error": str(error)}, TOO_LARGE)


@app.exception_handler(UnknownModelError)
async def unknown(_: Request, error: UnknownModelError) -> JSONResponse:
    """A model that is not here."""
    return JSONResponse({"error": str(error)}, NOT_FOUND)


@app.exception_handler(NotRunError)
async def not_run(_: Request, error: NotRunError) -> JSONResponse:
    """Trouble of the server's own: whoever asked may ask again."""
    return JSONResponse({"error": str(error)}, STATUSES[error.code])


@serve.deployment(name="Model")
@serve.ingress(app)
class Model:
    """A replica."""

    def __init__(self, max_batch: int, max_delay: float, batching: bool, threads: int | None) -> None:
        self.session = Session(threads)
        self.session.require_right()
        self.metadata = self.session.metadata
        self.max_batch = max_batch if self.session.batched else None
        self.most_bytes = largest_query((tensor.shape for tensor in self.metadata.inputs), max_batch)
        shares = batching and self.session.batched
        batched: Any = self.run  # what Ray's decorator made of it
        batched.set_max_batch_size(max_batch if shares else 1)
        batched.set_batch_wait_timeout_s(max_delay if shares else 0.0)
        digest = {ONNX_SHA256: self.session.onnx_sha256}
        delay = round(max_delay * 1e6) if shares else None
        self.config = ModelConfig(self.metadata.name, self.max_batch, digest, delay, "onnxruntime")

    async def check_health(self) -> None:
        """Asked by Ray every few seconds; a replica that raises is replaced."""
        await asyncio.to_thread(self.session.require_right)

    @serve.batch(max_batch_size=1, batch_wait_timeout_s=0.0, batch_size_fn=images_in)
    async def run(self, queries: list[InferRequest]) -> list[Outcome]:
        """Runs what waits, beside the event loop, which stays free for those who come."""
        return await asyncio.to_thread(self.session.answer, queries)

    async def answered(self, query: InferRequest) -> InferAnswer:
        """The answer to a query; each is looked at before it shares a run: one's mistake is not another's."""
        self.require(query.model, query.version)
        check_request(query, self.metadata, self.max_batch)
        outputs = await self.run(query)
        if isinstance(outputs, Failed):
            raise outputs.error
        wanted = query.outputs or outputs
        return InferAnswer({name: outputs[name] for name in wanted}, self.metadata.name, VERSION, query.id)

    def require(self, model: str, version: str = "") -> None:
        """UnknownModelError for another model or version."""
        if model != self.metadata.name or version not in ("", VERSION):
            raise UnknownModelError(f"model must be {self.metadata.name} in version {VERSION}, got {model} {version}")

    # REST

    @app.get("/v2")
    async def server(self) -> Any:
        """What this server is."""
        return rest_codec.server_json(SERVER)

    @app.get("/v2/health/live")
    @app.get("/v2/health/ready")
    async def ready(self) -> Response:
        """A replica that answers is ready: Ray sends nobody to one that is not."""
        return Response()

    @app.get("/v2/models/{name}")
    @app.get("/v2/models/{name}/versions/{version}")
    async def model(self, name: str, version: str = "") -> Any:
        """Its tensors."""
        self.require(name, version)
        return rest_codec.model_json(self.metadata)

    @app.get("/v2/models/{name}/ready")
    @app.get("/v2/models/{name}/versions/{version}/ready")
    async def model_ready(self, name: str, version: str = "") -> Response:
        """Whether it is here."""
        self.require(name, version)
        return Response()

    @app.get("/v2/models/{name}/config")
    @app.get("/v2/models/{name}/versions/{version}/config")
    async def model_config(self, name: str, version: str = "") -> Any:
        """The bound of a batch, and the digest of the file."""
        self.require(name, version)
        return rest_codec.config_json(self.config)

    @app.post("/v2/models/{name}/infer")
    @app.post("/v2/models/{name}/versions/{version}/infer")
    async def infer(self, name: str, request: Request, version: str = "") -> Response:
        """A query, in JSON or with binary tensors, and its answer in what it asks for."""
        self.require(name, version)
        said = request.headers.get(rest_codec.HEADER_LENGTH)
        length = None if said is None else byte_count(rest_codec.HEADER_LENGTH, said)
        body = await read_bounded(request.stream(), request.headers.get("content-length"), self.most_bytes)
        query = rest_codec.decode_request(body, length, model=name, version=version)
        answer = rest_codec.encode_answer(await self.answered(query), query)
        return Response(answer.data, headers=answer.headers)

    # gRPC: Ray's proxies call the method of the same name

    async def ServerLive(self, _: Any) -> Any:  # noqa: N802
        """As `ready`."""
        return messages.answer_message("ServerLive", live=True)

    async def ServerReady(self, _: Any) -> Any:  # noqa: N802
        """As `ready`."""
        return messages.answer_message("ServerReady", ready=True)

    async def ServerMetadata(self, _: Any) -> Any:  # noqa: N802
        """As `server`."""
        return messages.server_message(SERVER)

    async def ModelReady(self, asked: Any) -> Any:  # noqa: N802
        """Whether it is here."""
        is_here = asked.name == self.metadata.name and asked.version in ("", VERSION)
        return messages.answer_message("ModelReady", ready=is_here)

    async def ModelMetadata(self, asked: Any, grpc_context: Any) -> Any:  # noqa: N802
        """As `model`."""
        return self._told("ModelMetadata", asked, grpc_context, lambda: messages.model_message(self.metadata))

    async def ModelConfig(self, asked: Any, grpc_context: Any) -> Any:  # noqa: N802
        """As `model_config`."""
        return self._told("ModelConfig", asked, grpc_context, lambda: messages.config_message(self.config))

    async def ModelInfer(self, asked: Any, grpc_context: Any) -> Any:  # noqa: N802
        """As `infer`."""
        try:
            return messages.encode_answer(await self.answered(messages.decode_request(asked)))
        except (ProtocolError, UnknownModelError, NotRunError) as error:
            return _refusal("ModelInfer", error, grpc_context)

    def _told(self, method: str, asked: Any, grpc_context: Any, tell: Callable[[], Any]) -> Any:
        try:
            self.require(asked.name, asked.version)
        except UnknownModelError as error:
            return _refusal(method, error, grpc_context)
        return tell()


def add_inference_service(servicer: Any, server: Any) -> None:
    """Tells Ray's gRPC proxies of the protocol's methods; serve.yaml names this function."""
    handlers = {
        method: grpc.unary_unary_rpc_method_handler(
            getattr(servicer, method),
            request_deserializer=messages.message_class(f"{method}Request").FromString,
            response_serializer=messages.message_class(f"{method}Response").SerializeToString,
        )
        for method in GRPC_METHODS
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(messages.SERVICE, handlers),))


def build(args: dict[str, Any]) -> serve.Application:
    """The application of these arguments, as serve.yaml gives them."""
    deployed: Any = Model  # what Ray's decorators made of it
    application: serve.Application = deployed.bind(**args)
    return application


def main() -> None:
    """Starts what serve.yaml says on the cluster that this host is part of, without Ray's dashboard."""
    import ray
    import yaml

    config = yaml.safe_load((HERE / "serve.yaml").read_text(encoding="utf-8"))
    wanted = config["applications"][0]
    options = {key: value for key, value in wanted["deployments"][0].items() if key != "name"}
    ray.init(address="auto", namespace="serve", log_to_driver=False)
    serve.start(proxy_location=config["proxy_location"], http_options=config["http_options"],
                grpc_options=config["grpc_options"])  # fmt: skip
    from application import Model as Importable  # as the replicas know it, and not as __main__'s

    serve.run(Importable.options(**options).bind(**wanted["args"]), name=wanted["name"], route_prefix="/")
    print(f"{wanted['name']} answers on port {config['http_options']['port']} (REST) and "
          f"{config['grpc_options']['port']} (gRPC) of every host", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
