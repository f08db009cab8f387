"""The Open Inference Protocol over REST: values ↔ JSON and binary tensors, for clients and servers alike."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from aaexport.errors import ProtocolError, broken_rule, first_line
from aaexport.serving.protocol import (
    Array,
    InferAnswer,
    InferRequest,
    ModelConfig,
    ModelMetadata,
    ModelState,
    ModelStatistics,
    ServerMetadata,
    TensorMetadata,
    array_of,
    bytes_of,
    datatype_of,
    dtype_of,
    require_plain,
)

HEADER_LENGTH = "Inference-Header-Content-Length"
JSON_TYPE, BINARY_TYPE = "application/json", "application/octet-stream"
ALIGNMENT = (
    64  # bytes that the JSON before binary tensors is filled up to: then the numbers lie as a processor reads them
)
KINDS = {"b": "b", "u": "iu", "i": "iu", "f": "iuf"}  # of numbers in JSON that a kind of tensor can hold
COUNTERS = {
    "success": ("requests", "request_ns"),
    "fail": ("failed", None),
    "queue": (None, "queue_ns"),
    "compute_input": (None, "input_ns"),
    "compute_infer": (None, "infer_ns"),
    "compute_output": (None, "output_ns"),
}

Json = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Body:
    """What goes over the wire.

    Attributes:
        data: the bytes.
        header_length: of the JSON that they begin with; None where they are JSON to the end.
    """

    data: bytes
    header_length: int | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Those of HTTP that tell how the bytes are to be read."""
        if self.header_length is None:
            return {"Content-Type": JSON_TYPE}
        return {"Content-Type": BINARY_TYPE, HEADER_LENGTH: str(self.header_length)}


def encode_request(request: InferRequest, *, binary: bool = True) -> Body:
    """A query, with its tensors as bytes or as JSON. ProtocolError for NaN or infinity, which JSON does not have."""
    head: Json = {"id": request.id} if request.id else {}
    if request.outputs:
        head["outputs"] = [
            {"name": name, "parameters": {"binary_data": binary and request.wants_binary(name)}}
            for name in request.outputs
        ]
    elif binary and request.binary_outputs is True:
        head["parameters"] = {"binary_data_output": True}
    return _body(head, "inputs", request.inputs, lambda name: binary)


def encode_answer(answer: InferAnswer, request: InferRequest) -> Body:
    """The answer to a query, each output as the query wants it. ProtocolError as `encode_request`."""
    head: Json = {"model_name": answer.model, "model_version": answer.version}
    if answer.id:
        head["id"] = answer.id
    return _body(head, "outputs", answer.outputs, request.wants_binary)


def _body(head: Json, key: str, arrays: Mapping[str, Array], is_binary: Callable[[str], bool]) -> Body:
    tensors: list[Json] = []
    raw: list[bytes | memoryview] = []
    for name, array in arrays.items():
        tensor: Json = {"name": name, "datatype": datatype_of(array.dtype), "shape": list(array.shape)}
        if is_binary(name):
            raw.append(bytes_of(array))
            tensor["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            tensor["data"] = _json_data(name, array)
        tensors.append(tensor)
    text = json.dumps({**head, key: tensors}, separators=(",", ":")).encode()
    if not raw:
        return Body(text)
    text += b" " * (-len(text) % ALIGNMENT)
    return Body(b"".join([text, *raw]), len(text))


def _json_data(name: str, array: Array) -> list[Any]:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        remedy = "send it as bytes: JSON has no NaN"
        raise ProtocolError(broken_rule(f"tensor {name!r}", "be finite in JSON", "NaN or infinity", remedy))
    flat: list[Any] = array.ravel().tolist()
    return [item.decode() if isinstance(item, bytes) else item for item in flat]


def decode_request(
    data: bytes | memoryview, header_length: int | None = None, *, model: str = "", version: str = ""
) -> InferRequest:
    """A query as a server receives it.

    Args:
        data: the body.
        header_length: what the HTTP header of that name says; None where there is none.
        model, version: as the path names them.

    Raises:
        ProtocolError: it is not one; or it wants what an extension would have to do.
    """

    def request() -> InferRequest:
        head, rest = _split(data, header_length)
        common = head.get("parameters", {})
        default = bool(common.get("binary_data_output", False))
        asked = {each["name"]: each.get("parameters", {}) for each in head.get("outputs", [])}
        for parameters in (common, *asked.values(), *(each.get("parameters", {}) for each in head["inputs"])):
            require_plain(parameters)
        binary = {name for name, parameters in asked.items() if parameters.get("binary_data", default)}
        return InferRequest(
            _tensors(head["inputs"], rest),
            tuple(asked),
            model,
            version,
            str(head.get("id", "")),
            frozenset(binary) if asked else default,
        )

    return understood("an inference request", request)


def decode_answer(data: bytes | memoryview, header_length: int | None = None) -> InferAnswer:
    """An answer as a client receives it. ProtocolError if it is none."""

    def answer() -> InferAnswer:
        head, rest = _split(data, header_length)
        outputs = _tensors(head["outputs"], rest)
        return InferAnswer(
            outputs, str(head["model_name"]), str(head.get("model_version", "")), str(head.get("id", ""))
        )

    return understood("an inference answer", answer)


def understood(called: str, read: Callable[[], T]) -> T:
    """What `read` makes of the wire's bytes; ProtocolError, which says `called`, if they are something else."""
    try:
        return read()
    except ProtocolError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        seen = f"no {error}" if isinstance(error, KeyError) else first_line(error)
        raise ProtocolError(f"not {called} of the Open Inference Protocol: {seen}") from error


def parsed(data: bytes | memoryview) -> Json:
    """The JSON object that a body is. ValueError if it is none."""
    found = json.loads(bytes(data))
    if not isinstance(found, dict):
        raise ValueError(f"{type(found).__name__} instead of an object")
    return found


def _split(data: bytes | memoryview, header_length: int | None) -> tuple[Json, memoryview]:
    """The JSON that the body begins with, and the bytes behind it."""
    view = memoryview(data)
    if header_length is None:
        return parsed(view), view[len(view) :]
    if not 0 < header_length <= len(view):
        raise ProtocolError(broken_rule(HEADER_LENGTH, f"be between 1 and the body's {len(view)}", header_length))
    return parsed(view[:header_length]), view[header_length:]


def _tensors(described: Sequence[Json], rest: memoryview) -> dict[str, Array]:
    """The arrays by name; those that come as bytes lie one behind the other in `rest`, which they use up."""
    found: dict[str, Array] = {}
    at = 0
    for tensor in described:
        name, datatype, shape = str(tensor["name"]), tensor["datatype"], tuple(tensor["shape"])
        if name in found:
            raise ProtocolError(broken_rule("tensors", "have names of their own", name))
        if not all(type(size) is int and size >= 0 for size in shape):
            raise ProtocolError(broken_rule(f"the shape of {name!r}", "hold sizes", list(shape)))
        size = tensor.get("parameters", {}).get("binary_data_size")
        if size is None:
            found[name] = _from_json(name, datatype, shape, tensor["data"])
            continue
        if type(size) is not int or not 0 <= size <= len(rest) - at:
            raise ProtocolError(broken_rule(f"tensor {name!r}", f"hold the {size} bytes it says", len(rest) - at))
        found[name] = array_of(name, datatype, shape, rest[at : at + size])
        at += size
    if at != len(rest):
        raise ProtocolError(broken_rule("the body", f"end after {at} bytes of tensors", len(rest)))
    return found


def _from_json(name: str, datatype: str, shape: tuple[int, ...], data: Any) -> Array:
    dtype = dtype_of(datatype)
    if dtype.kind == "O":
        flat = [item.encode() for item in _flattened(data)]
        array = np.empty(len(flat), object)
        array[:] = flat
        return array.reshape(shape)
    loose = np.asarray(data)
    if loose.size and loose.dtype.kind not in KINDS[dtype.kind]:
        raise ProtocolError(broken_rule(f"tensor {name!r}", f"hold numbers of {datatype}", loose.dtype))
    array = np.asarray(data, dtype).reshape(shape)
    return array


def _flattened(data: Any) -> list[str]:
    return [data] if isinstance(data, str) else [item for part in data for item in _flattened(part)]


def server_json(server: ServerMetadata) -> Json:
    """GET v2."""
    return {"name": server.name, "version": server.version, "extensions": list(server.extensions)}


def server_of(found: Json) -> ServerMetadata:
    """GET v2, as a client reads it. ProtocolError if it is something else."""
    return understood(
        "server metadata",
        lambda: ServerMetadata(
            _text(found["name"]),
            _text(found["version"]),
            tuple(_text(each) for each in found.get("extensions", [])),
        ),
    )


def model_json(model: ModelMetadata) -> Json:
    """GET v2/models/NAME."""
    return {
        "name": model.name,
        "versions": list(model.versions),
        "platform": model.platform,
        "inputs": [_tensor_json(tensor) for tensor in model.inputs],
        "outputs": [_tensor_json(tensor) for tensor in model.outputs],
    }


def _tensor_json(tensor: TensorMetadata) -> Json:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}


def model_of(found: Json) -> ModelMetadata:
    """GET v2/models/NAME, as a client reads it. ProtocolError if it is something else."""
    return understood(
        "model metadata",
        lambda: ModelMetadata(
            _text(found["name"]),
            tuple(str(each) for each in found.get("versions") or []),
            str(found.get("platform", "")),
            tuple(_tensor_of(each) for each in found["inputs"]),
            tuple(_tensor_of(each) for each in found["outputs"]),
        ),
    )


def _tensor_of(found: Json) -> TensorMetadata:
    return TensorMetadata(_text(found["name"]), _text(found["datatype"]), tuple(int(size) for size in found["shape"]))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} where a text belongs")
    return value


def config_json(config: ModelConfig) -> Json:
    """GET v2/models/NAME/config, as far as aaexport's client reads it."""
    delay = config.max_queue_delay_us
    batching = {} if delay is None else {"dynamic_batching": {"max_queue_delay_microseconds": delay}}
    parameters = {key: {"string_value": value} for key, value in config.parameters.items()}
    return {
        "name": config.name,
        "backend": config.backend,
        "max_batch_size": config.max_batch or 0,
        "parameters": parameters,
        **batching,
    }


def config_of(found: Json) -> ModelConfig:
    """GET v2/models/NAME/config, as a client reads it. ProtocolError if it is something else."""

    def config() -> ModelConfig:
        batching = found.get("dynamic_batching")
        return ModelConfig(
            _text(found["name"]),
            int(found.get("max_batch_size", 0)) or None,
            {key: _text(value["string_value"]) for key, value in found.get("parameters", {}).items()},
            None if batching is None else int(batching.get("max_queue_delay_microseconds", 0)),
            str(found.get("backend", "")),
        )

    return understood("a model configuration", config)


def statistics_json(model: str, version: str, counted: ModelStatistics) -> Json:
    """GET v2/models/NAME/stats, of one version."""
    durations = {
        key: {
            "count": getattr(counted, count) if count else counted.executions,
            "ns": getattr(counted, ns) if ns else 0,
        }
        for key, (count, ns) in COUNTERS.items()
    }
    one = {
        "name": model,
        "version": version,
        "inference_count": counted.inferences,
        "execution_count": counted.executions,
        "inference_stats": durations,
    }
    return {"model_stats": [one]}


def statistics_of(found: Json) -> ModelStatistics:
    """GET v2/models/NAME/stats, all versions together. ProtocolError if it is something else."""

    def statistics() -> ModelStatistics:
        total = ModelStatistics()
        for one in found["model_stats"]:
            values = {"inferences": int(one["inference_count"]), "executions": int(one["execution_count"])}
            for key, (count, ns) in COUNTERS.items():
                duration = one["inference_stats"].get(key, {})
                values |= {count: int(duration.get("count", 0))} if count else {}
                values |= {ns: int(duration.get("ns", 0))} if ns else {}
            total += ModelStatistics(**values)
        return total

    return understood("statistics", statistics)


def states_of(found: Sequence[Json]) -> tuple[ModelState, ...]:
    """POST v2/repository/index, as a client reads it. ProtocolError if it is something else."""
    return understood(
        "a repository index",
        lambda: tuple(
            ModelState(
                _text(each["name"]),
                str(each.get("version", "")),
                str(each.get("state", "")),
                str(each.get("reason", "")),
            )
            for each in found
        ),
    )
