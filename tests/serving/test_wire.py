"""HTTP on kept connections: whatever a server writes becomes an answer, or one word for why there is none."""

import select
import socket
import threading
from contextlib import contextmanager

import pytest

from aaexport.serving.address import Address
from aaexport.serving.wire import LostError, Wire

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


@contextmanager
def server(*connections):
    """Each connection is answered by its list of pieces, one after each request; then it is closed."""
    requests = []

    def converse(listener):
        for pieces in connections:
            connection, _ = listener.accept()
            with connection:
                for piece in pieces:
                    requests.append(connection.recv(2**20))
                    if piece is not None:
                        connection.sendall(piece)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=converse, args=(listener,), daemon=True)
        thread.start()
        yield Address("http", "127.0.0.1", listener.getsockname()[1]), requests
        thread.join(5)


def asked(address, times=1, timeout=2.0):
    wire = Wire(address, timeout, None, {})
    try:
        return [wire.ask("POST", "v2", b"body", {"X": "y"}) for _ in range(times)]
    finally:
        wire.close()


@pytest.mark.parametrize(
    ("written", "status", "data"),
    [
        (OK, 200, b"hi"),
        (b"HTTP/1.1 404 No\r\ncontent-LENGTH:  0\r\n\r\n", 404, b""),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, 200, b"hi"),
        (b"HTTP/1.0 200 OK\r\n\r\nto the end", 200, b"to the end"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nhi\r\n3\r\n...\r\n0\r\nA: b\r\n\r\n",
            200,
            b"hi...",
        ),
        (b"HTTP/1.1 204 None\r\n\r\n", 204, b""),
    ],
)
def test_an_answer_is_read_however_it_ends(written, status, data):
    with server([written]) as (address, requests):
        (reply,) = asked(address)
    assert (reply.status, reply.data) == (status, data)
    head = requests[0].decode()
    assert head.startswith("POST /v2 HTTP/1.1\r\nHost: 127.0.0.1:")
    assert "\r\nX: y\r\nContent-Length: 4\r\n\r\nbody" in head


def test_a_connection_is_kept():
    with server([OK, OK, OK]) as (address, requests):
        assert [reply.data for reply in asked(address, 3)] == [b"hi"] * 3
    assert len(requests) == 3


def test_a_connection_that_was_closed_meanwhile_is_made_anew():
    with server([OK], [OK]) as (address, requests):
        wire = Wire(address, 2.0, None, {})
        assert wire.ask("GET", "v2").data == b"hi"
        (idle,) = wire._idle
        select.select([idle], [], [], 2.0)  # until it is closed
        assert wire.ask("GET", "v2").data == b"hi"
        wire.close()
    assert len(requests) == 2


def test_a_server_that_closes_says_so_and_is_believed():
    closing = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi"
    with server([closing], [OK]) as (address, _):
        assert [reply.data for reply in asked(address, 2)] == [b"hi"] * 2


@pytest.mark.parametrize(
    ("written", "kind"),
    [
        (b"", "closed"),
        (OK[:-1], "closed"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "closed"),
        (b"\0\0\x18\4\0\0", "other protocol"),
        (b"SSH-2.0-OpenSSH\r\n", "other protocol"),
        (b"HTTP/2 200\r\n\r\n", "other protocol"),
        (b"HTTP/1.1 fine\r\n\r\n", "other protocol"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "other protocol"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\n", "other protocol"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "other protocol"),
        (b"HTTP/1.1 200 OK\r\n" + b"a" * 2**17, "other protocol"),
    ],
)
def test_what_is_no_whole_answer_has_a_word(written, kind):
    with server([written]) as (address, _), pytest.raises(LostError) as caught:
        asked(address)
    assert caught.value.kind == kind


def test_what_can_be_no_host_is_an_unknown_one():
    with pytest.raises(LostError) as raised:
        asked(Address("http", "a..b", 1))
    assert raised.value.kind == "host"


def test_a_large_body_goes_whole():
    with server([OK]) as (address, _):
        wire = Wire(address, 2.0, None, {})
        assert wire.ask("POST", "v2", bytes(2**17)).data == b"hi"
        wire.close()


def test_an_answer_that_drips_ends_with_its_time():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stop = threading.Event()

        def drip():
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                while not stop.wait(0.02):
                    connection.sendall(b"A: b\r\n")

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        with pytest.raises(LostError) as caught:
            asked(Address("http", "127.0.0.1", listener.getsockname()[1]), timeout=0.2)
        stop.set()
        thread.join(5)
    assert caught.value.kind == "late"
