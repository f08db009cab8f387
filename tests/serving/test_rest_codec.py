"""Values ↔ JSON and binary tensors: both sides understand each other, and what is neither is refused."""

import json

import numpy as np
import pytest
from inference_servers import SMALL, TINY

from aaexport.errors import ProtocolError
from aaexport.serving import rest_codec
from aaexport.serving.protocol import InferAnswer, InferRequest, ModelConfig, ModelStatistics


def same(got, wanted):
    assert got.keys() == wanted.keys()
    for name, array in wanted.items():
        assert got[name].dtype == array.dtype
        np.testing.assert_array_equal(got[name], array)


ARRAYS = {
    "floats": np.array([[0.1, -2.5], [3e38, 1e-45]], np.float32),
    "halves": np.array([0.1, 6e-8], np.float16),
    "bytes": np.arange(3, dtype=np.uint8),
    "flags": np.array([True, False]),
    "large": np.array([2**63 - 1, -(2**63)], np.int64),
    "none": np.zeros((0, 3), np.float32),
}


@pytest.mark.parametrize("binary", [True, False])
def test_a_query_comes_back(binary):
    body = rest_codec.encode_request(InferRequest(ARRAYS, ("a", "b"), id="7"), binary=binary)
    again = rest_codec.decode_request(body.data, body.header_length, model="m", version="3")
    same(again.inputs, ARRAYS)
    assert (again.outputs, again.model, again.version, again.id) == (("a", "b"), "m", "3", "7")
    assert again.wants_binary("a") is binary


@pytest.mark.parametrize("binary", [True, False])
def test_an_answer_comes_back(binary):
    answer = InferAnswer(ARRAYS, "m", "3", "7")
    body = rest_codec.encode_answer(answer, InferRequest({}, binary_outputs=binary))
    again = rest_codec.decode_answer(body.data, body.header_length)
    same(again.outputs, ARRAYS)
    assert (again.model, again.version, again.id) == ("m", "3", "7")


def test_each_output_comes_as_it_is_wanted():
    body = rest_codec.encode_answer(
        InferAnswer({"a": np.ones(2), "b": np.ones(3)}, "m"), InferRequest({}, binary_outputs=frozenset({"b"}))
    )
    head = json.loads(body.data[: body.header_length])
    assert ["data" in tensor for tensor in head["outputs"]] == [True, False]
    same(rest_codec.decode_answer(body.data, body.header_length).outputs, {"a": np.ones(2), "b": np.ones(3)})


def test_outputs_come_as_json_unless_a_query_says_otherwise():
    """So the protocol has it, for clients that know nothing of the extension."""
    plain = {"inputs": [{"name": "x", "datatype": "INT8", "shape": [2], "data": [1, 2]}]}
    assert not rest_codec.decode_request(json.dumps(plain).encode()).wants_binary("y")
    wanted = {**plain, "parameters": {"binary_data_output": True}}
    assert rest_codec.decode_request(json.dumps(wanted).encode()).wants_binary("y")


def test_numbers_begin_where_a_processor_reads_them():
    body = rest_codec.encode_request(InferRequest({"x": np.ones(1)}))
    assert body.header_length % rest_codec.ALIGNMENT == 0
    assert body.headers == {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(body.header_length),
    }


def test_nested_lists_and_strings_are_taken():
    head = {
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [[1, 2], [3, 4]]},
            {"name": "s", "datatype": "BYTES", "shape": [2], "data": ["a", "ö"]},
        ]
    }
    inputs = rest_codec.decode_request(json.dumps(head).encode()).inputs
    np.testing.assert_array_equal(inputs["x"], [[1, 2], [3, 4]])
    assert [item.decode() for item in inputs["s"]] == ["a", "ö"]


def tensor(**changes):
    return {"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2], **changes}


def query(*tensors, **head):
    return json.dumps({"inputs": list(tensors), **head}).encode()


@pytest.mark.parametrize(
    ("data", "length", "text"),
    [
        (b"{", None, "not an inference request of the Open Inference Protocol: "),
        (b"[1]", None, "list instead of an object"),
        (b'{"id": "1"}', None, "no 'inputs'"),
        (b'{"inputs": 3}', None, "not an inference request"),
        (b"[" * 100_000, None, "not an inference request"),
        (b"{}", 999, "Inference-Header-Content-Length must be between 1 and the body's 2, got 999"),
        (query(tensor(datatype="FP31")), None, "datatype must be one of"),
        (query(tensor(shape=[3])), None, "cannot reshape array of size 2 into shape (3,)"),
        (query(tensor(shape=[-1])), None, "the shape of 'x' must hold sizes, got [-1]"),
        (query(tensor(shape=[True, 2])), None, "must hold sizes"),
        (query(tensor(), tensor()), None, "tensors must have names of their own, got 'x'"),
        (query(tensor(data=["1", "2"])), None, "tensor 'x' must hold numbers of FP32"),
        (query(tensor(datatype="INT8", data=[1.5, 2])), None, "must hold numbers of INT8, got float64"),
        (query(tensor(datatype="UINT8", data=[1, 300])), None, "not an inference request"),
        (query(tensor(data=None, parameters={"binary_data_size": 8})), None, "hold the 8 bytes it says, got 0"),
        (query(tensor(parameters={"shared_memory_region": "r"})), None, "parameters must be ones that this server"),
        (query(tensor(), outputs=[{"name": "y", "parameters": {"classification": 2}}]), None, "got 'classification'"),
    ],
)
def test_what_is_no_query_is_refused(data, length, text):
    with pytest.raises(ProtocolError) as caught:
        rest_codec.decode_request(data, length)
    assert text in str(caught.value)


def test_bytes_that_belong_to_no_tensor_are_refused():
    body = rest_codec.encode_request(InferRequest({"x": np.ones(1)}))
    with pytest.raises(ProtocolError, match="the body must end after 8 bytes of tensors, got 9"):
        rest_codec.decode_request(body.data + b"!", body.header_length)


def test_nan_goes_as_bytes_only():
    request = InferRequest({"x": np.array([np.nan])})
    assert rest_codec.encode_request(request).header_length
    with pytest.raises(
        ProtocolError, match="tensor 'x' must be finite in JSON, got 'NaN or infinity'; send it as by"
    ):
        rest_codec.encode_request(request, binary=False)


CONFIG = ModelConfig("tiny", 8, {"onnx_sha256": "ab"}, 100, "python")
COUNTED = ModelStatistics(3, 100, 1, 12, 2, 5, 6, 70, 8)


def test_facts_come_back():
    assert rest_codec.server_of(rest_codec.server_json(SMALL)) == SMALL
    assert rest_codec.model_of(rest_codec.model_json(TINY)) == TINY
    assert rest_codec.config_of(rest_codec.config_json(CONFIG)) == CONFIG
    assert rest_codec.config_of(rest_codec.config_json(ModelConfig("a"))) == ModelConfig("a")
    assert rest_codec.statistics_of(rest_codec.statistics_json("tiny", "1", COUNTED)) == COUNTED


@pytest.mark.parametrize(
    ("read", "found"),
    [
        (rest_codec.server_of, {"status": "ok"}),
        (rest_codec.server_of, ["v2"]),
        (rest_codec.model_of, {"name": "a", "inputs": [{"name": "x"}], "outputs": []}),
        (rest_codec.model_of, {"name": 3, "inputs": [], "outputs": []}),
        (rest_codec.config_of, {"name": "a", "max_batch_size": "many"}),
        (rest_codec.statistics_of, {"model_stats": 3}),
        (rest_codec.states_of, {"a": 1}),
    ],
)
def test_other_facts_are_refused(read, found):
    with pytest.raises(ProtocolError, match="of the Open Inference Protocol: "):
        read(found)
