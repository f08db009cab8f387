"""(URLs, file) → the live services that are said to serve it, and what they tell that is not of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from aaexport.errors import ArgumentError, broken_rule, first_few
from aaexport.graph.files import GraphSummary, TensorInfo
from aaexport.pipeline.verify.options import VerifyOptions
from aaexport.runners.base import numpy_type
from aaexport.serving.address import model_and_version
from aaexport.serving.client import RETRY_FOR, Client
from aaexport.serving.protocol import ANY, TensorMetadata, dtype_of
from aaexport.serving.runner import ServedRunner, ServiceFacts, service_facts

DIGITS = 12  # of a digest, in a sentence


@dataclass(frozen=True)
class Service:
    """A model of a live service at one URL, and what it told of it."""

    url: str
    model: str
    version: str
    facts: ServiceFacts
    timeout: float
    ca: Path | None
    retry_for: float = RETRY_FOR

    def open(self) -> ServedRunner:
        """A runner that asks it. ServiceError if that cannot be."""
        return ServedRunner(self._client(), self.model, self.version, self.facts)

    def asked_again(self) -> ServiceFacts:
        """What it tells now. ServiceError as `service_facts`."""
        with self._client() as client:
            return service_facts(client, self.model, self.version)

    def _client(self) -> Client:
        return Client(self.url, timeout=self.timeout, retry_for=self.retry_for, ca=self.ca)

    @property
    def row_name(self) -> str:
        """What its row is called."""
        return f"served, {self.url}"

    @property
    def takes_nan(self) -> bool:
        """Whether NaN can be sent to it: JSON has none."""
        return self.facts.server.takes_binary or self.url.startswith("grpc")


def find_services(options: VerifyOptions, name: str | None) -> tuple[Service, ...]:
    """The services at the URLs, each asked what it serves; `name` is that of the model where no other is given.

    Raises:
        ArgumentError: there is no name.
        ServiceError: one cannot be reached, does not speak the protocol, or has no such model that is ready.
    """
    found = []
    for url in options.url:
        if (served_as := options.served_as or name) is None:
            raise ArgumentError(broken_rule("served_as", "be given for a module", "none"))
        model, version = model_and_version(served_as)
        ca = None if options.ca is None else Path(options.ca)
        with Client(url, timeout=options.timeout, ca=ca) as client:
            facts = service_facts(client, model, version)
        found.append(Service(url, model, version, facts, options.timeout, ca))
    return tuple(found)


def notes_on(service: Service, sizes: Sequence[int]) -> Iterator[str]:
    """What could not be tried of a service, and what was left out."""
    facts, name = service.facts, service.row_name
    if facts.fixed_batch is not None:
        yield f"{name}: takes {facts.fixed_batch} images a query, and no other number"
    elif facts.max_batch is None and sizes:
        yield f"{name}: names no largest batch: sizes to {sizes[-1]} were tried"
    elif sizes and len(sizes) < sizes[-1]:
        yield f"{name}: of the batches 1 to {sizes[-1]} only {', '.join(map(str, sizes))} were tried, for their MACs"
    if not service.takes_nan:
        yield f"{name}: takes JSON only, which has no NaN: whether it spreads was not tried"
    if facts.onnx_sha256 is None:
        yield f"{name}: does not tell which file it serves (no onnx_sha256): a stale one is seen by its answers alone"


def serves_another_file(facts: ServiceFacts, name: str, digest: str | None) -> str | None:
    """Why the service serves another file, by the digest that it tells; None if it is this one or does not tell."""
    told = facts.onnx_sha256
    if told is None or told == digest:
        return None
    rule = f"serve this file, of the SHA-256 {(digest or 'unknown')[:DIGITS]}…"
    got = f"{told[:DIGITS]}… in version {', '.join(facts.model.versions) or 'unknown'}"
    return broken_rule(name, rule, _Told(got), "the service is stale, or the file is: load the new one")


class _Told:
    """What is shown as it is, without quotes."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        return self._text


def another_model(facts: ServiceFacts, summary: GraphSummary) -> str | None:
    """Why what the service tells of its tensors cannot be this file; None if it can."""
    sides = (("inputs", facts.model.inputs, summary.inputs), ("outputs", facts.model.outputs, summary.outputs))
    for called, told, wanted in sides:
        names = [tensor.name for tensor in wanted]
        if sorted(tensor.name for tensor in told) != sorted(names):
            got = first_few([tensor.name for tensor in told], 5) or "none"
            remedy = "it is another model: name the right one with --served-as"
            return broken_rule(f"the service's {called}", f"be {first_few(names, 5)}", got, remedy)
        by_name = {tensor.name: tensor for tensor in told}
        for tensor in wanted:
            if not _is_alike(by_name[tensor.name], tensor):
                rule = f"be {tensor.dtype} {_shown(tensor.shape)} as in the file"
                got = f"{by_name[tensor.name].datatype} {_shown(by_name[tensor.name].shape)}"
                return broken_rule(f"the service's {called[:-1]} {tensor.name}", rule, _Told(got), "another model")
    return None


def _is_alike(told: TensorMetadata, wanted: TensorInfo) -> bool:
    """Whether the service's tensor may be the file's: of its type and shape, the first axis and open ones aside."""
    if dtype_of(told.datatype) != numpy_type(wanted.dtype) or len(told.shape) != len(wanted.shape):
        return False
    pairs = zip(told.shape[1:], wanted.shape[1:], strict=True)
    return all(ANY in (size, want) or not isinstance(want, int) or size == want for size, want in pairs)


def _shown(shape: Sequence[int | str | None]) -> str:
    return f"[{', '.join(str(size) if isinstance(size, int) and size != ANY else 'any' for size in shape)}]"
