"""HTTP/1.1 for one service: a request's bytes → status, headers and body, on connections that are kept.

A query to a small model takes as long as a general HTTP library takes for its own lines of Python, so there is none
here: a request goes out in one piece, and of an answer's head no more is read than what its body needs. Whatever a
server does, an exchange ends with its time.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Mapping
from typing import Literal, NamedTuple

from aaexport.serving.address import Address

END = b"\r\n\r\n"
READ = 2**16  # bytes at a time, at the least
IN_ONE_PIECE = 2**16  # bytes of a body that are copied behind the head
LONGEST_HEAD = 2**16
Kind = Literal["host", "refused", "late", "closed", "TLS", "other protocol"]


class Reply(NamedTuple):
    """An answer; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    data: bytes


class LostError(Exception):
    """No whole answer came: why, in one word, and the system's own words."""

    def __init__(self, kind: Kind, text: str = "") -> None:
        super().__init__(text)
        self.kind: Kind = kind


class Wire:
    """Connections to one service. Threads may share it: each exchange has a connection to itself."""

    def __init__(
        self, address: Address, timeout: float, tls: ssl.SSLContext | None, headers: Mapping[str, str]
    ) -> None:
        self._address, self._timeout, self._tls = address, timeout, tls
        lines = {"Host": address.netloc, "User-Agent": "aaexport", **headers}
        self._common = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self._idle: deque[socket.socket] = deque()

    def ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Reply:
        """One exchange. LostError if there is no whole answer in time."""
        deadline = time.monotonic() + self._timeout
        own = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        start = f"{method} {self._address.prefix}/{path} HTTP/1.1\r\n{self._common}{own}"
        head = f"{start}Content-Length: {len(body)}\r\n\r\n".encode("latin-1")
        connection = self._kept() or self._connected(deadline)
        try:
            reply, stays = _exchanged(connection, head, body, deadline)
        except BaseException:
            connection.close()
            raise
        if stays:
            self._idle.append(connection)
        else:
            connection.close()
        return reply

    def close(self) -> None:
        """Closes the connections that nobody uses."""
        while self._idle:
            self._idle.pop().close()

    def _kept(self) -> socket.socket | None:
        """A connection that is idle and was not closed meanwhile, as a server may; None if there is none."""
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return None
            # Nothing may come where nothing was asked but the end.
            if not _is_readable(connection):
                return connection
            connection.close()

    def _connected(self, deadline: float) -> socket.socket:
        try:
            plain = socket.create_connection((self._address.host, self._address.port), _left(deadline))
        except (socket.gaierror, UnicodeError) as error:  # the latter of what can be no host's name
            raise LostError("host", str(error)) from error
        except TimeoutError as error:
            raise LostError("late") from error
        except OSError as error:
            raise LostError("refused", error.strerror or str(error)) from error
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is None:
            return plain
        try:
            return self._tls.wrap_socket(plain, server_hostname=self._address.host)
        except TimeoutError as error:
            plain.close()
            raise LostError("late") from error
        except (OSError, ValueError) as error:
            plain.close()
            raise LostError("TLS", str(error)) from error


def _exchanged(connection: socket.socket, head: bytes, body: bytes, deadline: float) -> tuple[Reply, bool]:
    """The answer, and whether the connection may be used again."""
    reader = _Reader(connection, deadline)
    try:
        connection.settimeout(_left(deadline))
        if len(body) <= IN_ONE_PIECE:
            connection.sendall(head + body)
        else:
            connection.sendall(head)
            connection.sendall(body)
        status, headers = reader.head()
        while 100 <= status < 200:
            status, headers = reader.head()
        data, stays = reader.body(status, headers)
    except TimeoutError as error:
        raise LostError("late") from error
    except OSError as error:
        raise LostError("closed", error.strerror or str(error)) from error
    except ValueError as error:
        raise LostError("other protocol", str(error)) from error
    return Reply(status, headers, data), stays and headers.get("connection", "").lower() != "close"


class _Reader:
    """What comes on a connection, until a moment."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection, self._deadline = connection, deadline
        self._held = b""

    def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers. ValueError if it is no HTTP."""
        while (end := self._held.find(END)) < 0:
            begin = self._held[:5]
            if begin != b"HTTP/"[: len(begin)] or len(self._held) > LONGEST_HEAD:
                raise ValueError("no head of HTTP")
            self._held += self._more(READ)
        if not self._held.startswith(b"HTTP/1."):
            raise ValueError("no head of HTTP/1")
        first, *lines = self._held[:end].decode("latin-1").split("\r\n")
        self._held = self._held[end + len(END) :]
        pairs = (line.partition(":") for line in lines)
        return int(first[9:12]), {name.lower(): value.strip() for name, _, value in pairs}

    def body(self, status: int, headers: Mapping[str, str]) -> tuple[bytes, bool]:
        """The bytes behind the head, and whether it is known without its end where they end."""
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return self._chunks(), True
        length = headers.get("content-length")
        if length is not None:
            return self._exactly(int(length)), True
        if status in (204, 304):
            return b"", True
        parts = [self._held]
        while part := self._received(READ):
            parts.append(part)
        return b"".join(parts), False

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self._line().partition(b";")[0], 16):
            parts.append(self._exactly(size))
            self._line()
        while self._line():
            pass  # headers behind the body
        return b"".join(parts)

    def _line(self) -> bytes:
        while (end := self._held.find(b"\r\n")) < 0:
            if len(self._held) > LONGEST_HEAD:
                raise ValueError("a line without an end")
            self._held += self._more(READ)
        line, self._held = self._held[:end], self._held[end + 2 :]
        return line

    def _exactly(self, size: int) -> bytes:
        if size < 0:
            raise ValueError("a negative length")
        if len(self._held) >= size:
            data, self._held = self._held[:size], self._held[size:]
            return data
        parts, missing = [self._held], size - len(self._held)
        self._held = b""
        while missing:
            parts.append(self._more(min(missing, 2**22)))
            missing -= len(parts[-1])
        return b"".join(parts)

    def _more(self, most: int) -> bytes:
        """At least a byte. ConnectionError where the other side has closed."""
        data = self._received(most)
        if not data:
            raise ConnectionError("closed")
        return data

    def _received(self, most: int) -> bytes:
        self._connection.settimeout(_left(self._deadline))
        return self._connection.recv(most)


def _is_readable(connection: socket.socket) -> bool:
    if not hasattr(select, "poll"):
        return bool(select.select([connection], [], [], 0)[0])
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def _left(deadline: float) -> float:
    """Seconds until then. TimeoutError if there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
