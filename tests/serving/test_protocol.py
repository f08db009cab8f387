"""The protocol's values: types, bytes and which queries and answers are those of a model."""

import numpy as np
import pytest
from inference_servers import TINY

from aaexport.errors import ProtocolError
from aaexport.serving.protocol import (
    DATATYPES,
    InferAnswer,
    InferRequest,
    ModelStatistics,
    array_of,
    bytes_of,
    check_answer,
    check_request,
    datatype_of,
    dtype_of,
)


@pytest.mark.parametrize("datatype", [name for name in DATATYPES if name != "BYTES"])
def test_numbers_come_back_from_their_bytes(datatype, rng):
    array = (rng.standard_normal((2, 3)) * 50).astype(DATATYPES[datatype])
    again = array_of("x", datatype, (2, 3), bytes_of(array.T.copy().T))  # laid out by columns
    assert again.dtype == array.dtype
    np.testing.assert_array_equal(again, array)


def test_strings_come_back_from_their_bytes():
    array = np.array([["eins", "zwölf"], ["", "a\0b"]], object)
    again = array_of("x", "BYTES", (2, 2), bytes_of(array))
    assert [item.decode() for item in again.ravel()] == list(array.ravel())


def test_numbers_that_lie_oddly_are_copied_to_where_they_can_be_read():
    data = memoryview(b"\0" + np.arange(3, dtype=np.float32).tobytes())[1:]
    array = array_of("x", "FP32", (3,), data)
    assert array.flags.aligned
    np.testing.assert_array_equal(array, [0, 1, 2])


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "text"),
    [
        ("FP32", (2, 3), b"1234", "tensor 'x' must hold 24 bytes for FP32 [2, 3], got 4"),
        ("FP32", (10**9, 10**9), b"1234", "got 4"),
        ("BF16", (1,), b"12", "datatype must be one of BOOL, "),
        ("BYTES", (1,), b"\5\0\0\0abc", "tensor 'x' must hold 1 strings, each after its length"),
        ("BYTES", (2,), b"\1\0\0\0a", "must hold 2 strings"),
    ],
)
def test_bytes_that_are_not_the_tensor_are_refused(datatype, shape, data, text):
    with pytest.raises(ProtocolError) as caught:
        array_of("x", datatype, shape, data)
    assert text in str(caught.value)


def test_types_that_the_protocol_lacks_are_refused():
    with pytest.raises(ProtocolError, match=r"a tensor's type must be one of BOOL, .* got 'complex64'"):
        datatype_of(np.dtype("complex64"))
    with pytest.raises(ProtocolError, match="datatype must be one of"):
        dtype_of(["FP32"])


def of(batch, **changes):
    array = np.zeros((batch, 1, 2, 2), np.float32)
    return InferRequest({"input": array}, **changes)


def test_a_query_that_the_model_takes_has_a_batch():
    assert check_request(of(5), TINY, 5) == 5


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (of(0), "the batch must be between 1 and 4, got 0"),
        (of(5), "the batch must be between 1 and 4, got 5"),
        (of(1, outputs=("scores",)), "outputs must be some of logits, got 'scores'"),
        (InferRequest({"image": np.zeros(3)}), "inputs must be input, got 'image'"),
        (InferRequest({}), "inputs must be input, got 'none'"),
        (
            InferRequest({"input": np.zeros((1, 1, 2, 3), np.float32)}),
            "input 'input' must be FP32 [any, 1, 2, 2], got 'FP32 [1, 1, 2, 3]'",
        ),
        (InferRequest({"input": np.zeros((1, 1, 2, 2))}), "got 'FP64 [1, 1, 2, 2]'"),
        (InferRequest({"input": np.zeros((1, 2, 2), np.float32)}), "got 'FP32 [1, 2, 2]'"),
    ],
)
def test_a_query_that_the_model_does_not_take_is_refused(request_, text):
    with pytest.raises(ProtocolError) as caught:
        check_request(request_, TINY, 4)
    assert text in str(caught.value)


def logits(batch=2, value=0.0, **changes):
    return InferAnswer({"logits": np.full((batch, 3), value, np.float32)}, "tiny", "1", **changes)


def test_a_whole_answer_passes():
    check_answer(logits(id="7"), of(2, id="7"), TINY)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (InferAnswer({}), "the answer's outputs must be logits, got 'none'"),
        (logits(batch=0), "output 'logits' must be of the query's batch 2, got 0"),
        (logits(batch=1), "must be of the query's batch 2, got 1"),
        (InferAnswer({"logits": np.zeros((2, 4), np.float32)}), "must be FP32 [any, 3], got 'FP32 [2, 4]'"),
        (InferAnswer({"logits": np.zeros((2, 3))}), "got 'FP64 [2, 3]'"),
        (InferAnswer({"scores": np.zeros((2, 3), np.float32)}), "must be logits, got 'scores'"),
        (logits(value=np.nan), "output 'logits' must be finite as the inputs are, got 'NaN or infinity'"),
        (logits(value=np.inf), "must be finite"),
    ],
)
def test_what_is_no_answer_is_refused(answer, text):
    with pytest.raises(ProtocolError) as caught:
        check_answer(answer, of(2), TINY)
    assert text in str(caught.value)


def test_the_answer_to_another_query_is_refused():
    with pytest.raises(ProtocolError, match="the answer must be to query 'a', got 'b'"):
        check_answer(logits(id="b"), of(2, id="a"), TINY)


def test_nan_may_come_of_nan_and_of_whoever_allows_it():
    poisoned = InferRequest({"input": np.full((2, 1, 2, 2), np.nan, np.float32)})
    check_answer(logits(value=np.nan), poisoned, TINY)
    check_answer(logits(value=np.inf), of(2), TINY, finite=False)


def test_statistics_of_an_interval_are_a_difference():
    before, after = ModelStatistics(1, 10, 0, 4, 1, 2), ModelStatistics(4, 50, 1, 9, 3, 7)
    assert after - before == ModelStatistics(3, 40, 1, 5, 2, 5)
    assert before + (after - before) == after
