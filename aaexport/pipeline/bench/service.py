"""(URLs, options) → what a live service is measured with: its worker, its counters, a server that does nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aaexport.errors import ArgumentError, MeasurementError, broken_rule
from aaexport.load.listeners import processes_behind
from aaexport.load.measurement import ServiceTimes
from aaexport.pipeline.bench.contender import environment
from aaexport.pipeline.bench.options import BenchOptions
from aaexport.pipeline.bench.worker_models import WorkerSpec
from aaexport.serving.address import model_and_version
from aaexport.serving.client import Client
from aaexport.serving.protocol import ModelStatistics
from aaexport.serving.rest_codec import model_json
from aaexport.serving.runner import ServiceFacts, service_facts

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class LiveService:
    """A model of a live service: what it told, and whom to ask for its counters."""

    model: str
    version: str
    facts: ServiceFacts
    client: Client

    @property
    def urls(self) -> tuple[str, ...]:
        """Where it is."""
        return tuple(map(str, self.client.addresses))

    @property
    def kind(self) -> str:
        """`http` or `grpc`."""
        return "http" if self.client.addresses[0].is_rest else "grpc"

    def statistics(self) -> ModelStatistics | None:
        """What it counted so far; None if it keeps no account."""
        return self.client.statistics(self.model, self.version)

    def processes(self) -> tuple[int, ...]:
        """Those of this machine, which take part in the measurement."""
        local = [address.port for address in self.client.addresses if address.host in LOOPBACK]
        return tuple(process for port in local for process in processes_behind(port))

    def spec(self, ours: WorkerSpec, options: BenchOptions) -> WorkerSpec:
        """What the worker that asks it loads."""
        sessions = max(options.under_way, *options.concurrency, 1)
        return replace(ours, runtime="served", sessions=sessions, service=_asked(self, options, self.urls))


@contextmanager
def live_service(options: BenchOptions, name: str) -> Iterator[LiveService | None]:
    """The service at the options' URLs, asked what it serves; None without a URL.

    Raises:
        ArgumentError: it takes fewer images than a query is to have.
        ServiceError: it cannot be reached, does not speak the protocol, or has no such model that is ready.
    """
    if not options.url:
        yield None
        return
    model, version = model_and_version(options.served_as or name)
    ca = None if options.ca is None else Path(options.ca)
    with Client(options.url, timeout=options.timeout, ca=ca) as client:
        facts = service_facts(client, model, version)
        most, wanted = facts.max_batch, options.samples_per_query
        if most is not None and wanted is not None and wanted > most:
            rule = f"be at most {most}, which the service takes"
            raise ArgumentError(broken_rule("samples_per_query", rule, wanted))
        yield LiveService(model, version, facts, client)


@contextmanager
def null_service(service: LiveService, ours: WorkerSpec, options: BenchOptions) -> Iterator[tuple[WorkerSpec, int]]:
    """A worker's spec for a server of the same protocol and sizes that computes nothing, and that server's process.

    Raises:
        MeasurementError: it does not start.
    """
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "aaexport.serving.null_server"],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps({"kind": service.kind, "model": model_json(service.facts.model)}) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise MeasurementError("the null server ended before it answered")
        url = f"{service.kind}://127.0.0.1:{json.loads(line)['port']}"
        spec = service.spec(ours, options)
        yield replace(spec, service={**_asked(service, options, (url,)), "version": "", "ca": None}), process.pid
    finally:
        process.stdin.close()
        process.wait(timeout=10)
        process.stdout.close()


def with_counted(times: ServiceTimes, counted: ModelStatistics) -> ServiceTimes:
    """The times with what the service says of them; as they were where it counted no query."""
    if not counted.requests or times.query is None:
        return times

    def each(nanoseconds: int) -> float:
        return nanoseconds / counted.requests / 1e6

    server_time = each(counted.request_ns)
    return replace(
        times,
        network=times.query - server_time,
        server_time=server_time,
        queue=each(counted.queue_ns),
        compute_input=each(counted.input_ns),
        compute_infer=each(counted.infer_ns),
        compute_output=each(counted.output_ns),
        images_per_run=counted.inferences / counted.executions if counted.executions else None,
    )


def notes_on(service: LiveService, digest: str) -> Iterator[str]:
    """What is to be known of a service before its figures are believed."""
    told = service.facts.onnx_sha256
    if told is None:
        yield "the service does not tell which file it serves (no onnx_sha256)"
    elif told != digest:
        yield f"the service serves another file: its onnx_sha256 is {told[:12]}…, the model's {digest[:12]}…"


def _asked(service: LiveService, options: BenchOptions, urls: tuple[str, ...]) -> dict[str, Any]:
    """As JSON can carry it to the worker."""
    return {
        "urls": list(urls),
        "model": service.model,
        "version": service.version,
        "timeout": options.timeout,
        "ca": None if options.ca is None else str(options.ca),
    }
