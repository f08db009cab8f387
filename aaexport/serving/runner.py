"""A live service as a runner: what parity and load feed to a file in process, they feed to it over the wire."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from types import TracebackType

import numpy as np

from aaexport.errors import ProtocolError, RunnerError, ServiceError, first_few
from aaexport.runners.base import Array, Arrays, Port
from aaexport.serving.address import RefusedError
from aaexport.serving.client import Client
from aaexport.serving.protocol import ANY, ModelConfig, ModelMetadata, ServerMetadata, dtype_of

NAMED = 5  # models of a server, in a complaint


@dataclass(frozen=True)
class ServiceFacts:
    """What a service tells of a model before anything is asked of it.

    `config` is None where it does not tell how it serves the model.
    """

    server: ServerMetadata
    model: ModelMetadata
    config: ModelConfig | None

    @property
    def max_batch(self) -> int | None:
        """Images of a query at the most; None if the service names no bound."""
        sizes = {tensor.shape[0] for tensor in self.model.inputs if tensor.shape}
        if len(sizes) == 1 and (fixed := sizes.pop()) != ANY:
            return fixed
        return None if self.config is None else self.config.max_batch

    @property
    def fixed_batch(self) -> int | None:
        """The batch of every query, where it is not for the client to choose."""
        sizes = [tensor.shape[0] for tensor in self.model.inputs if tensor.shape]
        return sizes[0] if sizes and sizes[0] != ANY else None

    @property
    def onnx_sha256(self) -> str | None:
        """The digest of the file that is served; None if the service does not tell."""
        return None if self.config is None else self.config.onnx_sha256


def service_facts(client: Client, model: str, version: str = "") -> ServiceFacts:
    """What the service at the client's URLs tells of a model.

    Raises:
        ServiceError: it cannot be reached, does not speak the protocol, or has no such model that is ready.
    """
    server = client.server()
    try:
        metadata = client.model(model, version)
    except RefusedError as refused:
        if refused.retryable or refused.knows_name:
            raise
        raise ServiceError(_no_such_model(client, model, version)) from refused
    client.require_ready(model, version)
    return ServiceFacts(server, metadata, client.config(model, version))


def _no_such_model(client: Client, model: str, version: str) -> str:
    wanted = f"{model} in version {version}" if version else model
    try:
        served = [state.name for state in client.index() if state.state in ("", "READY")]
    except ServiceError:
        served = []
    names = first_few(list(dict.fromkeys(served)), NAMED)
    remedy = f"it serves {names}: name one with --served-as" if names else "name it with --served-as"
    if (close := get_close_matches(model, served, n=1)) and close[0] != model:
        remedy = f"did you mean {close[0]!r}? name it with --served-as"
    return f"{client.addresses[0]} must serve {wanted}, got another service; {remedy}"


class ServedRunner:
    """A model of a live service.

    Queries of more images than the service takes at once are asked in parts; where it takes one number of images and
    no other, the last part is filled up with its last image.

    Args:
        client: whose URLs are asked; it is closed with the runner.
        model, version: which; the version that the service chooses if it is empty.
        facts: what the service told, if it was asked already.

    Raises:
        ServiceError: as `service_facts`.
    """

    def __init__(self, client: Client, model: str, version: str = "", facts: ServiceFacts | None = None) -> None:
        self._client, self._model, self._version = client, model, version
        self.facts = facts or service_facts(client, model, version)
        self.inputs = tuple(
            Port(
                tensor.name,
                dtype_of(tensor.datatype),
                tuple(None if size == ANY else size for size in tensor.shape),
            )
            for tensor in self.facts.model.inputs
        )

    @property
    def label(self) -> str:
        """The service's own name and version, and where it is: `triton 2.51.0 over HTTP at 127.0.0.1:8000`."""
        server, addresses = self.facts.server, self._client.addresses
        over = "HTTP" if addresses[0].is_rest else "gRPC"
        return f"{server.name} {server.version} over {over} at {', '.join(one.netloc for one in addresses)}"

    def infer(self, feeds: Arrays) -> dict[str, Array]:
        """The service's answer; NaN and infinity are left for whoever asks to judge.

        Raises:
            RunnerError: the service refuses the query, or what it answers is no answer.
            ServiceError: no answer came.
        """
        most, batch = self.facts.max_batch, _batch(feeds)
        fits = most is None or batch is None or (batch <= most if self.facts.fixed_batch is None else batch == most)
        if fits or most is None or batch is None:
            return self._asked(feeds)
        places = [np.arange(at, min(at + most, batch)) for at in range(0, batch, most)]
        if self.facts.fixed_batch is not None:
            places[-1] = np.append(places[-1], np.repeat(places[-1][-1:], most - len(places[-1])))
        parts = [self._asked({name: array[place] for name, array in feeds.items()}) for place in places]
        return {name: np.concatenate([part[name] for part in parts])[:batch] for name in parts[0]}

    def _asked(self, feeds: Arrays) -> dict[str, Array]:
        try:
            answer = self._client.infer(self._model, feeds, version=self._version, finite=False)
        except ProtocolError as error:
            raise RunnerError(str(error)) from error
        except RefusedError as refused:
            if refused.retryable or refused.is_unknown:
                raise
            raise RunnerError(str(refused)) from refused
        return dict(answer.outputs)

    def __enter__(self) -> ServedRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()


def _batch(feeds: Arrays) -> int | None:
    """What all inputs have along their first axis; None if they differ."""
    sizes = {array.shape[:1] for array in feeds.values()}
    return sizes.pop()[0] if len(sizes) == 1 and sizes != {()} else None
