"""How large a query may be, and that a larger one is not read."""

import asyncio
import json

import numpy as np
import pytest

from aaexport.errors import ProtocolError
from aaexport.serving.bounds import OPEN, TooLargeError, byte_count, largest_query, read_bounded
from aaexport.serving.protocol import InferRequest
from aaexport.serving.rest_codec import encode_request


@pytest.mark.parametrize("binary", [True, False])
def test_the_largest_query_fits_whatever_its_numbers_are(binary):
    images = np.full((32, 3, 8, 8), np.finfo(np.float64).min)
    body = encode_request(InferRequest({"input": images}), binary=binary).data
    assert len(body) <= largest_query([(-1, 3, 8, 8)], 32)
    assert len(json.dumps({"data": images.tolist()})) <= largest_query([(-1, 3, 8, 8)], 32)


def test_a_fixed_batch_is_its_own_bound_and_open_images_have_one_of_all():
    assert largest_query([(2, 3)], 32) == largest_query([(-1, 3)], 2)
    assert largest_query([(-1, 3, -1, -1)], 2) == OPEN
    assert largest_query([()], 9) == largest_query([(1,)], 9)


class Body:
    """What comes in parts of ten bytes; how many were taken."""

    def __init__(self, parts):
        self.parts, self.taken = parts, 0

    async def stream(self):
        for _ in range(self.parts):
            self.taken += 1
            yield b"0123456789"


def read(body, length, most):
    return asyncio.run(read_bounded(body.stream(), length, most))


@pytest.mark.parametrize("length", [None, "30"])
def test_what_fits_is_read_whole(length):
    assert read(Body(3), length, 30) == b"0123456789" * 3


def test_what_says_that_it_is_larger_is_not_read_at_all():
    body = Body(4)
    with pytest.raises(TooLargeError, match="the query must have at most 30 bytes, got '31'"):
        read(body, "31", 30)
    assert body.taken == 0


@pytest.mark.parametrize("length", [None, "3"])
def test_what_is_larger_than_it_says_is_read_no_further_than_the_bound(length):
    body = Body(10**6)
    with pytest.raises(TooLargeError, match="the query must have at most 30 bytes, got 'more'"):
        read(body, length, 30)
    assert body.taken == 4


def test_a_length_that_is_none_is_refused():
    with pytest.raises(ProtocolError, match="Content-Length must be a number of bytes, got '-1'"):
        read(Body(1), "-1", 30)


@pytest.mark.parametrize("said", ["-1", "+1", "1.0", "", "many", "1_0", "٣", "²", "9" * 19, "9" * 10**5])
def test_what_is_no_number_of_bytes_is_refused_in_a_short_line(said):
    with pytest.raises(ProtocolError, match="Length must be a number of bytes, got '") as raised:
        byte_count("Length", said)
    assert len(str(raised.value)) < 100
    with pytest.raises(ProtocolError, match="Content-Length must be a number of bytes, got '"):
        read(Body(1), said, 30)


def test_a_number_of_bytes_is_one():
    assert [byte_count("Length", said) for said in ("0", "007", "9" * 18)] == [0, 7, 10**18 - 1]
