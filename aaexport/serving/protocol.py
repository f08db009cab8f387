"""The Open Inference Protocol, version 2, as values: what its clients and servers say to each other.

How a value goes over the wire is the business of `rest_codec` (JSON and binary tensors) and `messages` (gRPC).
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from aaexport.errors import ProtocolError, broken_rule, first_few

Array = npt.NDArray[Any]

# The protocol's name of each type that numpy has, in the byte order of the wire.
DATATYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype("O"),
}
NAMES = {dtype: name for name, dtype in DATATYPES.items()}
ANY = -1  # a dimension of a tensor's metadata where any size goes
ONNX_SHA256 = "onnx_sha256"  # a model's parameter: the digest of the ONNX file that it serves
BINARY_EXTENSION = "binary_tensor_data"
UNSUPPORTED = ("classification", "shared_memory_region")  # parameters that change what is meant: never passed over
NAMED = 5  # tensors, in a complaint


def datatype_of(dtype: np.dtype[Any]) -> str:
    """numpy's type → the protocol's name. ProtocolError for one that the protocol does not have."""
    name = NAMES.get(dtype)
    if name is None and dtype.kind in "SU":
        return "BYTES"
    if name is None:
        raise ProtocolError(broken_rule("a tensor's type", f"be one of {', '.join(DATATYPES)}", str(dtype)))
    return name


def dtype_of(datatype: object) -> np.dtype[Any]:
    """The protocol's name → numpy's type. ProtocolError for one that numpy does not have."""
    dtype = DATATYPES.get(datatype) if isinstance(datatype, str) else None
    if dtype is None:
        raise ProtocolError(broken_rule("datatype", f"be one of {', '.join(DATATYPES)}", datatype))
    return dtype


@dataclass(frozen=True)
class TensorMetadata:
    """One input or output of a model; a dimension is -1 where any size goes."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def takes(self, shape: Sequence[int]) -> bool:
        """Whether a tensor of this shape is one of these."""
        return len(shape) == len(self.shape) and all(
            want in (ANY, got) for want, got in zip(self.shape, shape, strict=True)
        )


@dataclass(frozen=True)
class ServerMetadata:
    """What a server says of itself."""

    name: str
    version: str
    extensions: tuple[str, ...] = ()

    @property
    def takes_binary(self) -> bool:
        """Whether tensors may go as bytes over REST."""
        return BINARY_EXTENSION in self.extensions


@dataclass(frozen=True)
class ModelMetadata:
    """What a server says of a model."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


@dataclass(frozen=True)
class ModelConfig:
    """What a server says of how it serves a model, an extension of the protocol.

    Attributes:
        name: of the model.
        max_batch: images of a query at the most; None where the server tells no bound, or the batch is the file's.
        parameters: the model's own, `onnx_sha256` among them where aaexport wrote the configuration.
        max_queue_delay_us: how long a query may wait for others to share its batch; None without dynamic batching.
        backend: what runs it.
    """

    name: str
    max_batch: int | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    max_queue_delay_us: int | None = None
    backend: str = ""

    @property
    def onnx_sha256(self) -> str | None:
        """The digest of the ONNX file that is served; None where the server does not tell."""
        return self.parameters.get(ONNX_SHA256)


@dataclass(frozen=True)
class ModelStatistics:
    """A server's counters of a model since it was loaded, an extension of the protocol; times in nanoseconds.

    Attributes:
        requests, request_ns: answered well, from when a query came in until its answer went out.
        failed: answered with an error.
        inferences, executions: images, and runs of the model on a batch of them.
        queue_ns: queries waited for their turn.
        input_ns, infer_ns, output_ns: tensors were brought to the model, it ran, its answers were taken out.
    """

    requests: int = 0
    request_ns: int = 0
    failed: int = 0
    inferences: int = 0
    executions: int = 0
    queue_ns: int = 0
    input_ns: int = 0
    infer_ns: int = 0
    output_ns: int = 0

    def __sub__(self, before: ModelStatistics) -> ModelStatistics:
        """What was counted since `before`."""
        return self._with(before, -1)

    def __add__(self, other: ModelStatistics) -> ModelStatistics:
        """Of two models, versions or servers together."""
        return self._with(other, 1)

    def _with(self, other: ModelStatistics, sign: int) -> ModelStatistics:
        names = [each.name for each in fields(self)]
        return ModelStatistics(**{name: getattr(self, name) + sign * getattr(other, name) for name in names})


@dataclass(frozen=True)
class ModelState:
    """A model of a server's repository: `READY`, `UNAVAILABLE` … and why."""

    name: str
    version: str
    state: str
    reason: str = ""


@dataclass(frozen=True, eq=False)
class InferRequest:
    """One query.

    Attributes:
        inputs: arrays by name.
        outputs: those that are wanted; all of them if none is named.
        model, version: which; the version that the server chooses if it is empty.
        id: comes back with the answer.
        binary_outputs: over REST, which outputs are to come as bytes: all, none, or these.
    """

    inputs: Mapping[str, Array]
    outputs: tuple[str, ...] = ()
    model: str = ""
    version: str = ""
    id: str = ""
    binary_outputs: bool | frozenset[str] = True

    def wants_binary(self, output: str) -> bool:
        """Whether this output is to come as bytes."""
        return self.binary_outputs if isinstance(self.binary_outputs, bool) else output in self.binary_outputs


@dataclass(frozen=True, eq=False)
class InferAnswer:
    """What a query is answered with: arrays by name, by which model and version, to which query."""

    outputs: Mapping[str, Array]
    model: str = ""
    version: str = ""
    id: str = ""


def check_request(request: InferRequest, metadata: ModelMetadata, max_batch: int | None = None) -> int:
    """The batch of a query that the model can take, for servers: to be called before queries share a batch.

    Raises:
        ProtocolError: an input is missing, unknown or of another type or shape; inputs of unlike batches; an output
            that there is not; a batch of none or of more than `max_batch`.
    """
    known = {tensor.name: tensor for tensor in metadata.inputs}
    _require_names("inputs", request.inputs, known)
    for name, array in request.inputs.items():
        _require_tensor(f"input {name!r}", array, known[name])
    unknown = sorted(set(request.outputs) - {tensor.name for tensor in metadata.outputs})
    if unknown:
        names = first_few([tensor.name for tensor in metadata.outputs], NAMED)
        raise ProtocolError(broken_rule("outputs", f"be some of {names}", ", ".join(unknown)))
    batches = {len(array) for name, array in request.inputs.items() if known[name].shape[:1] == (ANY,)}
    if len(batches) > 1:
        raise ProtocolError(broken_rule("inputs", "be of one batch", " and ".join(map(str, sorted(batches)))))
    batch = batches.pop() if batches else 1
    if batch < 1 or (max_batch is not None and batch > max_batch):
        rule = "be at least 1" if max_batch is None else f"be between 1 and {max_batch}"
        raise ProtocolError(broken_rule("the batch", rule, batch))
    return batch


def check_answer(answer: InferAnswer, request: InferRequest, metadata: ModelMetadata, *, finite: bool = True) -> None:
    """Looks whether an answer is one: every output, whole, of the type and shape that the model is said to have.

    Raises:
        ProtocolError: an output is missing, unknown, empty, of another type, shape or batch; NaN or infinity from
            finite inputs, unless `finite` is False; the answer to another query.
    """
    if request.id and answer.id != request.id:
        raise ProtocolError(broken_rule("the answer", f"be to query {request.id!r}", answer.id))
    known = {tensor.name: tensor for tensor in metadata.outputs}
    wanted = request.outputs or tuple(known)
    _require_names("the answer's outputs", answer.outputs, wanted)
    batch = _open_batch(request, metadata)
    for name, array in answer.outputs.items():
        tensor = known.get(name)
        if tensor is None:
            continue
        _require_tensor(f"output {name!r}", array, tensor)
        if batch is not None and tensor.shape[:1] == (ANY,) and len(array) != batch:
            raise ProtocolError(broken_rule(f"output {name!r}", f"be of the query's batch {batch}", len(array)))
        # The inputs are looked at only where an output makes one ask.
        if finite and array.dtype.kind == "f" and not np.isfinite(array).all() and _all_finite(request):
            raise ProtocolError(broken_rule(f"output {name!r}", "be finite as the inputs are", "NaN or infinity"))


def require_plain(parameters: Container[str]) -> None:
    """ProtocolError for parameters of a query that want an extension that changes what is asked; others are hints."""
    for name in UNSUPPORTED:
        if name in parameters:
            raise ProtocolError(broken_rule("parameters", "be ones that this server has", name))


def _open_batch(request: InferRequest, metadata: ModelMetadata) -> int | None:
    for tensor in metadata.inputs:
        if tensor.shape[:1] == (ANY,) and tensor.name in request.inputs:
            return len(request.inputs[tensor.name])
    return None


def _all_finite(request: InferRequest) -> bool:
    return all(np.isfinite(array).all() for array in request.inputs.values() if array.dtype.kind == "f")


def _require_names(called: str, got: Mapping[str, Any], wanted: Mapping[str, Any] | Sequence[str]) -> None:
    if got.keys() != set(wanted):
        names = first_few(list(got), NAMED) or "none"
        raise ProtocolError(broken_rule(called, f"be {first_few(list(wanted), NAMED)}", names))


def _require_tensor(called: str, array: Array, tensor: TensorMetadata) -> None:
    datatype = datatype_of(array.dtype)
    if datatype != tensor.datatype or not tensor.takes(array.shape):
        shape = [size if size != ANY else "any" for size in tensor.shape]
        wanted = f"{tensor.datatype} {shape}".replace("'", "")
        raise ProtocolError(broken_rule(called, f"be {wanted}", f"{datatype} {list(array.shape)}"))


def array_of(name: str, datatype: str, shape: Sequence[int], data: bytes | memoryview) -> Array:
    """The bytes of a tensor → the array, which shares their memory where they lie as numbers must.

    Raises:
        ProtocolError: the bytes are not as many as type and shape make.
    """
    dtype = dtype_of(datatype)
    if dtype.kind == "O":
        return _strings(name, shape, bytes(data))
    if len(data) != (wanted := math.prod(shape) * dtype.itemsize):
        what = f"{wanted} bytes for {datatype} {list(shape)}"
        raise ProtocolError(broken_rule(f"tensor {name!r}", f"hold {what}", len(data)))
    array = np.frombuffer(data, dtype).reshape(shape)
    return array if array.flags.aligned else array.copy()


def bytes_of(array: Array) -> bytes | memoryview:
    """The array → its bytes on the wire, without a copy where it lies in memory as it goes out."""
    if array.dtype.kind not in "OSU":
        # A view of bytes: what takes buffers need not know the types of numbers.
        return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    parts = []
    for item in array.ravel().tolist():
        text = item.encode() if isinstance(item, str) else bytes(item)
        parts += [len(text).to_bytes(4, "little"), text]
    return b"".join(parts)


def _strings(name: str, shape: Sequence[int], data: bytes) -> Array:
    items, at = [], 0
    while at + 4 <= len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        items.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    if at != len(data) or len(items) != math.prod(shape):
        rule = f"hold {math.prod(shape)} strings, each after its length in 4 bytes"
        raise ProtocolError(broken_rule(f"tensor {name!r}", rule, f"{len(data)} bytes"))
    array = np.empty(len(items), object)
    array[:] = items
    return array.reshape(shape)
