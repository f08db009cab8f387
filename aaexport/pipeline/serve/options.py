"""What was asked of a service, as a value."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aaexport.device import parse_device
from aaexport.errors import ArgumentError, broken_rule, parameter
from aaexport.folder import ONNX_FILES, Dtype
from aaexport.serving.repository import Batching, RepositorySettings, on_cuda

MOST_PORT = 65535


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Every default is what suits one machine.

    Attributes:
        http_port, grpc_port, metrics_port: 0 takes a free one.
        host: what the service listens on.
        dtype: the precision whose file is served.
        instances: sessions of each model.
        threads: of each session; None for tuning.json's where it holds here, else onnxruntime's default.
        max_batch: most images of one run, where the file takes any number.
        batching: whether queries that wait share a run.
        max_delay: milliseconds that a query may wait for others to share its run.
        device: `cpu`, `cuda` or `cuda:N`.
        engine: a tritonserver; None for the one that is found.
        watch: whether a new conversion in a folder takes over once it was checked.
        check_every: seconds between golden vectors.
    """

    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    host: str = "127.0.0.1"
    dtype: Dtype = "float32"
    instances: int = 1
    threads: int | None = None
    max_batch: int = 32
    batching: bool = True
    max_delay: float = 0.0
    device: str = "cpu"
    engine: Path | None = None
    watch: bool = False
    check_every: float = 3.0

    def check(self) -> None:
        """ArgumentError if a value breaks its rule, before anything is read."""
        ports = [("http_port", self.http_port), ("grpc_port", self.grpc_port), ("metrics_port", self.metrics_port)]
        for name, port in ports:
            if not 0 <= port <= MOST_PORT:
                raise ArgumentError(broken_rule(name, f"be between 0 and {MOST_PORT}", port))
            if port and [other for _, other in ports].count(port) > 1:
                raise ArgumentError(broken_rule(name, "be a port of its own", port))
        if self.dtype not in ONNX_FILES:
            raise ArgumentError(broken_rule("dtype", f"be one of {', '.join(ONNX_FILES)}", self.dtype))
        if not 0 < self.check_every < float("inf"):
            raise ArgumentError(broken_rule("check_every", "be a number of seconds above 0", self.check_every))
        if not 0 <= self.max_delay < float("inf"):
            raise ArgumentError(broken_rule("max_delay", "be a time of at least 0", self.max_delay))
        if self.max_delay and not self.batching:
            raise ArgumentError(broken_rule("max_delay", f"go with {parameter('batching')}", "no batching"))
        parse_device(self.device)
        self.settings("python", self.threads)

    def settings(self, backend: str, threads: int | None, versions: tuple[int, ...] = ()) -> RepositorySettings:
        """How a model is served."""
        is_told = backend == "onnxruntime" and parse_device(self.device)[0] == "cuda"  # the other is ours, and knows
        return RepositorySettings(
            backend="onnxruntime" if backend == "onnxruntime" else "python",
            max_batch=self.max_batch,
            batching=Batching(self.max_delay / 1000) if self.batching else None,
            instances=self.instances,
            threads=threads,
            device=self.device,
            optimization=on_cuda() if is_told else {},
            versions=versions,
        )
