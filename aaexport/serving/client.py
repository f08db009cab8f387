"""URLs of one service → its answers, each looked at: the one client of live services."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from aaexport.errors import ArgumentError, ProtocolError, ServiceError, broken_rule
from aaexport.serving.address import TIMEOUT, Access, Address, RefusedError, parse_urls
from aaexport.serving.over_grpc import GrpcTransport
from aaexport.serving.over_rest import RestTransport
from aaexport.serving.protocol import (
    Array,
    InferAnswer,
    InferRequest,
    ModelConfig,
    ModelMetadata,
    ModelState,
    ModelStatistics,
    ServerMetadata,
    check_answer,
)

T = TypeVar("T")
Transport = RestTransport | GrpcTransport

RETRY_FOR = 2.0  # seconds in which further attempts at a query begin
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0  # seconds before an attempt is made again; each is twice the one before
REST = 2.0  # seconds for which a server that did not answer is asked only if no other is left


class Client:
    """Asks a service at one URL, or at several that serve the same models and are taken in turn.

    A query is idempotent: it is asked again, of the next server, where the connection is refused or reset, the answer
    late, or the server unavailable or in error; also while the model is away, as it is loaded anew. A name that no
    server has ever heard of is refused at once, where they tell. Threads may share a client: each query over HTTP has
    a connection of its own, all queries over gRPC share one.

    Args:
        urls: `http://`, `https://`, `grpc://` or `grpcs://` and HOST[:PORT].
        timeout: seconds for one attempt.
        retry_for: seconds after the first attempt in which further ones begin, two at least and one for each URL;
            0 for a single attempt.
        ca: a file of the authorities whose certificates count; None for those that the system trusts.
        authorization: goes along with every query, as `Bearer …`; AAEXPORT_AUTHORIZATION of the environment if None.
        headers: go along too; metadata over gRPC.

    Raises:
        ArgumentError: no such URL, or a time that is none.
        ServiceError: grpcio or protobuf is not installed, or `ca` cannot be read.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        timeout: float = TIMEOUT,
        retry_for: float = RETRY_FOR,
        ca: Path | None = None,
        authorization: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if not 0 < timeout < float("inf"):
            raise ArgumentError(broken_rule("timeout", "be a number of seconds above 0", timeout))
        if not 0 <= retry_for < float("inf"):
            raise ArgumentError(broken_rule("retry_for", "be a number of seconds from 0", retry_for))
        access = Access(timeout, ca, authorization, headers or {})
        self.addresses = parse_urls(urls)
        self._transports = tuple(_transport(address, access) for address in self.addresses)
        self._retry_for = retry_for
        self._turn = count()
        self._rests_until = [0.0] * len(self._transports)
        self._models: dict[tuple[str, str], ModelMetadata] = {}
        self._lock = threading.Lock()
        self._retried = 0

    @property
    def retried(self) -> int:
        """Attempts so far that were not the first at their query."""
        return self._retried

    def live(self) -> bool:
        """Whether the next server says that it is alive; False if none answers."""
        return self._says(lambda transport: transport.live())

    def ready(self, model: str = "", version: str = "") -> bool:
        """Whether the next server, or one of its models, says that it is ready; False if none answers."""
        return self._says(lambda transport: transport.ready(model, version))

    def server(self) -> ServerMetadata:
        """What a server says of itself. ServiceError if none answers, ProtocolError if it says something else."""
        return self._asked(lambda transport: transport.server())

    def model(self, name: str, version: str = "") -> ModelMetadata:
        """What a server says of a model, asked anew. ServiceError if it has none of that name and version."""
        return self._model(name, version, self._deadline())

    def _model(self, name: str, version: str, deadline: float) -> ModelMetadata:
        found = self._asked(lambda transport: transport.model(name, version), deadline=deadline, model=name)
        if found.name != name:
            raise ProtocolError(broken_rule("the model's metadata", f"be of {name}", found.name))
        self._models[name, version] = found
        return found

    def config(self, name: str, version: str = "") -> ModelConfig | None:
        """How a server serves a model; None if it does not tell. ServiceError if it has none of that name."""
        return self._told_of(lambda transport: transport.config(name, version), name, version)

    def statistics(self, name: str, version: str = "") -> ModelStatistics | None:
        """A model's counters, those of all servers together; None if one of them keeps none.

        ServiceError if one has no model of that name.
        """
        found = [
            self._told_of(lambda transport: transport.statistics(name, version), name, version, [one])
            for one in self._transports
        ]
        total = ModelStatistics()
        for each in found:
            if each is None:
                return None
            total += each
        return total

    def require_ready(self, model: str, version: str = "") -> None:
        """Returns when a server says that the model is ready. ServiceError if none does in time."""

        def ask(transport: Transport) -> None:
            if not transport.ready(model, version):
                where = f"{model} at {transport.address}"
                got = "a model that is being loaded or failed to load"
                raise ServiceError(f"{where} must be ready, got {got}", retryable=True)

        self._asked(ask)

    def index(self) -> tuple[ModelState, ...]:
        """The models in a server's repository, an extension."""
        return self._asked(lambda transport: transport.index())

    def load(self, name: str) -> None:
        """Has every server load a model, or its new version. ServiceError if one refuses; it is asked once."""
        for transport in self._transports:
            transport.load(name)

    def unload(self, name: str) -> None:
        """Has every server unload a model. ServiceError if one refuses; it is asked once."""
        for transport in self._transports:
            transport.unload(name)

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Array],
        *,
        version: str = "",
        outputs: Sequence[str] = (),
        id: str = "",  # noqa: A002 - the protocol's name
        finite: bool = True,
    ) -> InferAnswer:
        """The model's answer: every output that is wanted, whole, of the type and shape that the server told.

        Args:
            model, version: which; the version that the server chooses if it is empty.
            inputs: arrays by name.
            outputs: those that are wanted; all of them if none is named.
            id: comes back with the answer.
            finite: whether NaN and infinity, of finite inputs, are no answer.

        Raises:
            ServiceError: no server answers.
            ProtocolError: the answer is empty, not whole, not finite, or of another type, shape or query.
        """
        key, deadline = (model, version), self._deadline()
        metadata = self._models.get(key) or self._model(model, version, deadline)
        request = InferRequest(inputs, tuple(outputs), model, version, id)
        answer = self._asked(lambda transport: transport.infer(request), deadline=deadline, is_known=True)
        try:
            check_answer(answer, request, metadata, finite=finite)
        except ProtocolError:
            self._models.pop(key, None)  # the server may have another version by now: it is asked what it has
            raise
        return answer

    def close(self) -> None:
        """Gives the connections back."""
        for transport in self._transports:
            transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _says(self, ask: Callable[[Transport], bool]) -> bool:
        try:
            return ask(self._transports[self._in_turn()[0]])
        except ServiceError:
            return False

    def _deadline(self) -> float:
        """Until when further attempts at a query begin that begins now."""
        return time.monotonic() + self._retry_for

    def _told_of(
        self, ask: Callable[[Transport], T | None], model: str, version: str, of: Sequence[Transport] = ()
    ) -> T | None:
        """What a server tells of a model that it has; one that is away it tells nothing of, or refuses."""

        def asked(transport: Transport) -> T | None:
            try:
                if (found := ask(transport)) is not None:
                    return found
            except RefusedError as refused:
                if refused.retryable or refused.is_unknown:
                    raise
            transport.model(model, version)
            return ask(transport)

        return self._asked(asked, of, model=model)

    def _asked(
        self,
        ask: Callable[[Transport], T],
        of: Sequence[Transport] = (),
        *,
        deadline: float | None = None,
        model: str = "",
        is_known: bool = False,
    ) -> T:
        """What the first server answers that does, of those that are asked until `deadline`.

        Args:
            ask: a query.
            of: the servers; all of them if none is named.
            model: whose name a server may not know.
            is_known: there is such a model, and it may come back.
        """
        deadline = self._deadline() if deadline is None else deadline
        transports = of or [self._transports[index] for index in self._in_turn()]
        without: set[int] = set()
        for attempt in count(1):
            place = (attempt - 1) % len(transports)
            transport = transports[place]
            try:
                return ask(transport)
            except ServiceError as error:
                is_unknown = isinstance(error, RefusedError) and error.is_unknown and bool(model or is_known)
                if self._retry_for == 0 or not (error.retryable or is_unknown):
                    raise
                if is_unknown and not (is_known or _may_come(transport, model, error)):
                    without.add(place)
                    if len(without) == len(transports):
                        raise
                self._rests_until[self._transports.index(transport)] = time.monotonic() + REST
                pause = _pause(attempt, len(transports))
                if attempt >= max(2, len(transports)) and time.monotonic() + pause >= deadline:
                    raise
            with self._lock:
                self._retried += 1
            time.sleep(pause)
        raise AssertionError

    def _in_turn(self) -> list[int]:
        """The servers, beginning with the next; those that did not answer lately come last."""
        among = len(self._transports)
        if among == 1:
            return [0]
        first, now = next(self._turn), time.monotonic()
        order = [(first + index) % among for index in range(among)]
        return sorted(order, key=lambda index: self._rests_until[index] > now)


def _transport(address: Address, access: Access) -> Transport:
    return RestTransport(address, access) if address.is_rest else GrpcTransport(address, access)


def _may_come(transport: Transport, model: str, error: ServiceError) -> bool:
    """Whether a server that has no such model now may have it soon: it knows the name, or nobody can tell.

    Triton's words tell; of another server its repository's index does, where it shows one.
    """
    assert isinstance(error, RefusedError)
    if error.knows_name is not None:
        return error.knows_name
    try:
        return model in {state.name for state in transport.index()}
    except ServiceError:
        return True


def _pause(attempt: int, among: int) -> float:
    """Seconds before the next attempt: none while there is a server that was not asked; at random, so that clients
    that failed together do not come back together.
    """
    if attempt < among:
        return 0.0
    longest = min(FIRST_PAUSE * 2.0 ** (attempt - among), LONGEST_PAUSE)
    return longest * random.uniform(0.5, 1.0)
