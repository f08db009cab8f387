"""The Open Inference Protocol over gRPC: values ↔ messages, for clients and servers alike.

The messages are made of `open_inference.proto`, compiled, in a descriptor pool of their own: other libraries register
messages of the same names in the common one, and generated code would bind protobuf's version.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any

import numpy as np

from aaexport.errors import ProtocolError, ServiceError, broken_rule
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

DESCRIPTORS = "open_inference.binpb"
SERVICE = "inference.GRPCInferenceService"
# Each method by name: all are `<name>Request` → `<name>Response`.
METHODS = (
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "ModelInfer",
    "ModelConfig",
    "ModelStatistics",
    "RepositoryIndex",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
)
HEADS = 1024  # serialized heads of queries that are kept: one for each batch size
RAW_INPUT = b"\x3a"  # the tag of ModelInferRequest.raw_input_contents: field 7, of bytes
# Where a tensor lies that does not come as bytes.
CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}

Message = Any  # protobuf makes the classes when they are asked for


@cache
def message_class(name: str) -> type[Message]:
    """The class of a message of the package `inference`, by its name there: `ModelInferRequest`.

    Raises:
        ServiceError: protobuf is not installed.
    """
    made: type[Message] = _classes()[name]
    return made


@cache
def _classes() -> dict[str, type[Message]]:
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError as error:
        raise ServiceError("protobuf is not installed; pip install 'aaexport[serve]'") from error
    described = descriptor_pb2.FileDescriptorSet.FromString((files(__package__) / DESCRIPTORS).read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in described.file:
        pool.Add(file)
    made = {
        message.name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.{message.name}"))
        for file in described.file
        for message in file.message_type
    }
    for one in made.values():
        one.__module__ = __name__  # where pickle looks for it, by `__getattr__` below
    return made


def __getattr__(name: str) -> type[Message]:
    """Each message's class as an attribute of this module: `messages.ModelInferRequest`."""
    if name.startswith("_") or name not in _classes():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return message_class(name)


def method_path(method: str) -> str:
    """`ModelInfer` → the path that gRPC calls it by."""
    return f"/{SERVICE}/{method}"


def request_message(method: str, **values: Any) -> Message:
    """`ModelReady`, name='digits' → its request."""
    return message_class(f"{method}Request")(**values)


def answer_message(method: str, **values: Any) -> Message:
    """`ModelReady`, ready=True → its answer."""
    return message_class(f"{method}Response")(**values)


def encode_request(request: InferRequest) -> bytes:
    """A query, serialized: the message's head, and each tensor behind it as the field that it is, copied once."""
    parts: list[bytes | memoryview] = [_head(request)]
    for array in request.inputs.values():
        data = bytes_of(array)
        parts += [RAW_INPUT, _varint(len(data)), data]
    return b"".join(parts)


def _head(request: InferRequest) -> bytes:
    described = tuple((name, datatype_of(array.dtype), array.shape) for name, array in request.inputs.items())
    head = _serialized_head(request.model, request.version, described, request.outputs)
    # Field 3, the id: apart, so that queries that differ in nothing else share what is before it.
    name = request.id.encode()
    return head + b"\x1a" + _varint(len(name)) + name if name else head


@lru_cache(maxsize=HEADS)
def _serialized_head(
    model: str, version: str, described: tuple[tuple[str, str, tuple[int, ...]], ...], outputs: tuple[str, ...]
) -> bytes:
    message = request_message("ModelInfer", model_name=model, model_version=version)
    for name, datatype, shape in described:
        message.inputs.add(name=name, datatype=datatype, shape=shape)
    for name in outputs:
        message.outputs.add(name=name)
    head: bytes = message.SerializeToString()
    return head


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def decode_request(message: Message) -> InferRequest:
    """A ModelInferRequest as a server receives it. ProtocolError if it describes its tensors wrongly."""
    for parameters in (each.parameters for each in (message, *message.inputs, *message.outputs)):
        require_plain(parameters)
    inputs = _tensors("input", message.inputs, message.raw_input_contents)
    outputs = tuple(each.name for each in message.outputs)
    return InferRequest(inputs, outputs, message.model_name, message.model_version, message.id)


def encode_answer(answer: InferAnswer) -> Message:
    """A ModelInferResponse with its tensors as bytes."""
    message = answer_message("ModelInfer", model_name=answer.model, model_version=answer.version, id=answer.id)
    for name, array in answer.outputs.items():
        message.outputs.add(name=name, datatype=datatype_of(array.dtype), shape=array.shape)
        message.raw_output_contents.append(bytes(bytes_of(array)))
    return message


def decode_answer(message: Message) -> InferAnswer:
    """A ModelInferResponse as a client receives it. ProtocolError if it is no whole answer."""
    outputs = _tensors("output", message.outputs, message.raw_output_contents)
    return InferAnswer(outputs, message.model_name, message.model_version, message.id)


def _tensors(called: str, described: Sequence[Message], raw: Sequence[bytes]) -> dict[str, Array]:
    """The arrays by name: of bytes where there are any, else of each tensor's own contents."""
    if raw and len(raw) != len(described):
        raise ProtocolError(
            broken_rule(f"{called}s as bytes", f"be as many as the {len(described)} tensors", len(raw))
        )
    found: dict[str, Array] = {}
    for at, tensor in enumerate(described):
        shape = tuple(tensor.shape)
        if tensor.name in found:
            raise ProtocolError(broken_rule(f"{called}s", "have names of their own", tensor.name))
        if any(size < 0 for size in shape):
            raise ProtocolError(broken_rule(f"the shape of {tensor.name!r}", "hold sizes", list(shape)))
        if raw:
            found[tensor.name] = array_of(tensor.name, tensor.datatype, shape, raw[at])
        else:
            found[tensor.name] = _from_contents(tensor, shape)
    return found


def _from_contents(tensor: Message, shape: tuple[int, ...]) -> Array:
    dtype = dtype_of(tensor.datatype)
    field = CONTENTS.get(tensor.datatype)
    if field is None:
        raise ProtocolError(
            broken_rule(f"tensor {tensor.name!r}", f"come as bytes for {tensor.datatype}", "contents")
        )
    contents = getattr(tensor.contents, field)
    if len(contents) != math.prod(shape):
        rule = f"hold {math.prod(shape)} numbers for {list(shape)} in {field}"
        raise ProtocolError(broken_rule(f"tensor {tensor.name!r}", rule, len(contents)))
    if dtype.kind == "O":
        strings = np.empty(len(contents), object)
        strings[:] = list(contents)
        return strings.reshape(shape)
    wide = np.asarray(contents)
    array = wide.astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(array, wide):
        raise ProtocolError(
            broken_rule(f"tensor {tensor.name!r}", f"hold numbers of {tensor.datatype}", "larger ones")
        )
    return array.reshape(shape)


def server_message(server: ServerMetadata) -> Message:
    """The answer to ServerMetadata."""
    return answer_message("ServerMetadata", name=server.name, version=server.version, extensions=server.extensions)


def server_of(message: Message) -> ServerMetadata:
    """The answer to ServerMetadata, as a client reads it."""
    return ServerMetadata(message.name, message.version, tuple(message.extensions))


def model_message(model: ModelMetadata) -> Message:
    """The answer to ModelMetadata."""
    message = answer_message("ModelMetadata", name=model.name, versions=model.versions, platform=model.platform)
    for tensors, field in ((model.inputs, message.inputs), (model.outputs, message.outputs)):
        for tensor in tensors:
            field.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    return message


def model_of(message: Message) -> ModelMetadata:
    """The answer to ModelMetadata, as a client reads it."""
    inputs, outputs = (
        tuple(TensorMetadata(each.name, each.datatype, tuple(each.shape)) for each in tensors)
        for tensors in (message.inputs, message.outputs)
    )
    return ModelMetadata(message.name, tuple(message.versions), message.platform, inputs, outputs)


def config_message(config: ModelConfig) -> Message:
    """The answer to ModelConfig."""
    message = answer_message("ModelConfig")
    message.config.name, message.config.backend = config.name, config.backend
    message.config.max_batch_size = config.max_batch or 0
    for key, value in config.parameters.items():
        message.config.parameters[key].string_value = value
    if config.max_queue_delay_us is not None:
        message.config.dynamic_batching.max_queue_delay_microseconds = config.max_queue_delay_us
        message.config.dynamic_batching.SetInParent()
    return message


def config_of(message: Message) -> ModelConfig:
    """The answer to ModelConfig, as a client reads it."""
    config = message.config
    has_batching = config.HasField("dynamic_batching")
    return ModelConfig(
        config.name,
        config.max_batch_size or None,
        {key: value.string_value for key, value in config.parameters.items()},
        config.dynamic_batching.max_queue_delay_microseconds if has_batching else None,
        config.backend,
    )


def statistics_message(model: str, version: str, counted: ModelStatistics) -> Message:
    """The answer to ModelStatistics, of one version."""
    message = answer_message("ModelStatistics")
    one = message.model_stats.add(
        name=model, version=version, inference_count=counted.inferences, execution_count=counted.executions
    )
    stats = one.inference_stats
    stats.success.count, stats.success.ns = counted.requests, counted.request_ns
    stats.fail.count = counted.failed
    times: Mapping[str, int] = {
        "queue": counted.queue_ns,
        "compute_input": counted.input_ns,
        "compute_infer": counted.infer_ns,
        "compute_output": counted.output_ns,
    }
    for name, ns in times.items():
        duration = getattr(stats, name)
        duration.count, duration.ns = counted.executions, ns
    return message


def statistics_of(message: Message) -> ModelStatistics:
    """The answer to ModelStatistics, all versions together, as a client reads it."""
    total = ModelStatistics()
    for one in message.model_stats:
        stats = one.inference_stats
        total += ModelStatistics(
            stats.success.count,
            stats.success.ns,
            stats.fail.count,
            one.inference_count,
            one.execution_count,
            stats.queue.ns,
            stats.compute_input.ns,
            stats.compute_infer.ns,
            stats.compute_output.ns,
        )
    return total


def states_of(message: Message) -> tuple[ModelState, ...]:
    """The answer to RepositoryIndex, as a client reads it."""
    return tuple(ModelState(each.name, each.version, each.state, each.reason) for each in message.models)
