"""Values ↔ gRPC messages: what a client serializes a server reads, in messages that disturb no other library's."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from inference_servers import SMALL, TINY

pytest.importorskip("grpc")

from pathlib import Path

from google.protobuf import descriptor_pb2

from aaexport.errors import ProtocolError
from aaexport.serving import messages
from aaexport.serving.protocol import DATATYPES, InferAnswer, InferRequest, ModelConfig, ModelStatistics

ROOM = Path(messages.__file__).parent


def received(request):
    """As a server's side of gRPC hands it over."""
    return messages.decode_request(messages.ModelInferRequest.FromString(messages.encode_request(request)))


def test_a_query_comes_back(rng):
    inputs = {"a": rng.standard_normal((2, 300)).astype(np.float32), "b": np.array([1, 2], np.int8)}
    again = received(InferRequest(inputs, ("y",), "m", "3", "7"))
    assert (again.outputs, again.model, again.version, again.id) == (("y",), "m", "3", "7")
    for name, array in inputs.items():
        assert again.inputs[name].dtype == array.dtype
        np.testing.assert_array_equal(again.inputs[name], array)


def test_what_is_serialized_by_hand_is_what_protobuf_would_write():
    request = InferRequest({"x": np.arange(200, dtype=np.float64)}, (), "m", "", "q")
    message = messages.request_message("ModelInfer", model_name="m", id="q")
    message.inputs.add(name="x", datatype="FP64", shape=[200])
    message.raw_input_contents.append(request.inputs["x"].tobytes())
    assert messages.ModelInferRequest.FromString(messages.encode_request(request)) == message


def test_an_answer_comes_back():
    outputs = {"y": np.array([[1.5, np.nan]], np.float16)}
    again = messages.decode_answer(messages.encode_answer(InferAnswer(outputs, "m", "2", "7")))
    assert (again.model, again.version, again.id) == ("m", "2", "7")
    np.testing.assert_array_equal(again.outputs["y"], outputs["y"])


@pytest.mark.parametrize("datatype", [name for name in DATATYPES if name not in ("FP16", "BYTES")])
def test_contents_that_are_no_bytes_are_read_too(datatype):
    message = messages.request_message("ModelInfer", model_name="m")
    tensor = message.inputs.add(name="x", datatype=datatype, shape=[2, 1])
    getattr(tensor.contents, messages.CONTENTS[datatype]).extend([0, 1])
    array = messages.decode_request(message).inputs["x"]
    assert array.dtype == DATATYPES[datatype]
    np.testing.assert_array_equal(array, [[0], [1]])


def described(datatype="FP32", shape=(2,), raw=(), contents=(), name="x"):
    message = messages.request_message("ModelInfer", model_name="m")
    tensor = message.inputs.add(name="x", datatype=datatype, shape=shape)
    tensor.contents.int_contents.extend(contents)
    message.raw_input_contents.extend(raw)
    return message


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (lambda: described(raw=[b"1234"]), "tensor 'x' must hold 8 bytes for FP32 [2], got 4"),
        (lambda: described(raw=[b"1234", b""]), "inputs as bytes must be as many as the 1 tensors, got 2"),
        (described, "must hold 2 numbers for [2] in fp32_contents, got 0"),
        (lambda: described(shape=[-2]), "the shape of 'x' must hold sizes, got [-2]"),
        (lambda: described("FP16"), "tensor 'x' must come as bytes for FP16"),
        (lambda: described("TEXT"), "datatype must be one of"),
        (lambda: described("INT8", contents=[1, 400]), "tensor 'x' must hold numbers of INT8, got 'larger ones'"),
    ],
)
def test_what_is_no_query_is_refused(message, text):
    with pytest.raises(ProtocolError) as caught:
        messages.decode_request(message())
    assert text in str(caught.value)


def test_parameters_that_change_what_is_asked_are_refused():
    message = described(raw=[b"12345678"])
    message.outputs.add(name="y").parameters["classification"].int64_param = 2
    with pytest.raises(ProtocolError, match="parameters must be ones that this server has, got 'classification'"):
        messages.decode_request(message)


def test_facts_come_back():
    config = ModelConfig("tiny", 8, {"onnx_sha256": "ab"}, 0, "python")
    counted = ModelStatistics(3, 100, 1, 12, 2, 5, 6, 70, 8)
    assert messages.server_of(messages.server_message(SMALL)) == SMALL
    assert messages.model_of(messages.model_message(TINY)) == TINY
    assert messages.config_of(messages.config_message(config)) == config
    assert messages.config_of(messages.config_message(ModelConfig("a"))) == ModelConfig("a")
    assert messages.statistics_of(messages.statistics_message("tiny", "1", counted)) == counted


def test_messages_can_be_pickled():
    """Ray hands them from one process to another."""
    message = described(raw=[b"12345678"])
    assert pickle.loads(pickle.dumps(message)) == message


def test_the_common_pool_does_not_know_the_messages():
    """In a process of its own: in this one Triton's own client may have brought its messages there."""
    program = """
from google.protobuf import descriptor_pool
from aaexport.serving import messages
messages.request_message("ModelInfer")
try:
    descriptor_pool.Default().FindMessageTypeByName("inference.ModelInferRequest")
except KeyError:
    print("unknown")
"""
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert outcome.stdout == "unknown\n"


def test_unknown_messages_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = messages.Nothing


def test_the_compiled_descriptors_are_those_of_the_proto(tmp_path):
    pytest.importorskip("grpc_tools")
    made = tmp_path / "made.binpb"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOM}", f"--descriptor_set_out={made}"]
    subprocess.run([*command, "open_inference.proto"], check=True)
    kept = (ROOM / messages.DESCRIPTORS).read_bytes()
    parse = descriptor_pb2.FileDescriptorSet.FromString
    assert parse(made.read_bytes()) == parse(kept)


def test_every_method_of_the_proto_is_there():
    described_ = descriptor_pb2.FileDescriptorSet.FromString((ROOM / messages.DESCRIPTORS).read_bytes())
    (service,) = described_.file[0].service
    assert f"{described_.file[0].package}.{service.name}" == messages.SERVICE
    assert tuple(method.name for method in service.method) == messages.METHODS
    for method in service.method:
        assert method.input_type == f".inference.{method.name}Request"
        assert method.output_type == f".inference.{method.name}Response"
