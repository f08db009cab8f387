"""What is asked of a deployment, and which of it is wrong: seen without loading anything."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypedDict

from aaexport.deployment.settings import STORAGES, TARGET_SETTINGS
from aaexport.device import MAX_THREADS, parse_device
from aaexport.errors import ArgumentError, broken_rule, did_you_mean, parameter
from aaexport.folder import DTYPES, Dtype

MAX_BATCH = 65536
LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True)
class DeployOptions:
    """What is asked of a deployment; None leaves it to the target, and what a target does not take is refused.

    Attributes:
        dtype: which of the folder's files: model.onnx is `float32`, the default, and `float16` and `int8` are those
            beside it, which are deployed once their guard has passed them.
        device: where it runs: `cpu`, `cuda` or `cuda:N`; the CPU by default.
        instances: sessions of one server, 1 by default, or as many as the last peak search of bench.json had.
        threads: of each session; by default that peak search's, else `cpus` in a cluster, else onnxruntime's.
        max_batch: most images of one run, 32 by default, or that peak search's.
        max_delay: milliseconds that a query may wait for others to share its run, 0 by default, or that search's.
        batching: whether queries share runs; by default only where `unbatched` shows that it wins.
        unbatched: a peak search of the same file with `max_batch` 1, as serve-bench --json prints it.
        tensorrt, fp16, cuda_graph: on CUDA, by TensorRT, in float16, its launches recorded.
        images: whether a model that takes image files is served too; the server's Python needs NumPy and Pillow.
        min_replicas, max_replicas: the bounds of autoscaling; 1 and 3 by default, on Ray 2 and 4.
        cpus, memory: cores and MiB of a replica; 1 and 2048 by default.
        storage: where a cluster finds models: SCHEME://PLACE; `pvc://models` by default.
        namespace: of Kubernetes; `default` by default.
        runtime_files: for the web, the folder of npm's package onnxruntime-web; by default that of node_modules here,
            or of this repository's examples.
        fetch_runtime: for the web, whether npm is to fetch that package: else nothing is asked of the network.
        force: whether files in the folder are replaced that were changed since they were written.
    """

    dtype: Dtype | None = None
    device: str | None = None
    instances: int | None = None
    threads: int | None = None
    max_batch: int | None = None
    max_delay: float | None = None
    batching: bool | None = None
    unbatched: str | Path | None = None
    tensorrt: bool | None = None
    fp16: bool | None = None
    cuda_graph: bool | None = None
    images: bool | None = None
    min_replicas: int | None = None
    max_replicas: int | None = None
    cpus: int | None = None
    memory: int | None = None
    storage: str | None = None
    namespace: str | None = None
    runtime_files: str | Path | None = None
    fetch_runtime: bool | None = None
    force: bool = False

    def check(self, target: str) -> None:
        """ArgumentError for what can be seen to be wrong before any work."""
        if target not in TARGET_SETTINGS:
            remedy = did_you_mean(target, TARGET_SETTINGS)
            raise ArgumentError(broken_rule("to", f"be one of {', '.join(TARGET_SETTINGS)}", target, remedy))
        for each in fields(self):
            setting = "batching" if each.name == "unbatched" else each.name
            if getattr(self, each.name) is not None and setting not in ("force", *TARGET_SETTINGS[target]):
                takers = [name for name, takes in TARGET_SETTINGS.items() if setting in takes]
                remedy = f"it is for {' and '.join(takers)}"
                raise ArgumentError(
                    broken_rule(each.name, f"be left out for {target}", getattr(self, each.name), remedy)
                )
        for name, rule, got in (*self._faults(), *(self._on_kserve() if target == "kserve" else ())):
            raise ArgumentError(broken_rule(name, rule, got))

    def _faults(self) -> Iterator[tuple[str, str, object]]:
        most = {"max_batch": MAX_BATCH, "threads": MAX_THREADS}
        for name in ("instances", "threads", "max_batch", "min_replicas", "max_replicas", "cpus", "memory"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= most.get(name, value):
                yield name, f"be between 1 and {most[name]}" if name in most else "be at least 1", value
        if self.max_delay is not None and not 0 <= self.max_delay < float("inf"):
            yield "max_delay", "be at least 0 ms", self.max_delay
        if self.dtype not in (None, *DTYPES):
            yield "dtype", f"be one of {', '.join(DTYPES)}", self.dtype
        low, high = self.min_replicas, self.max_replicas
        if low is not None and high is not None and low > high:
            yield "min_replicas", f"be at most {high}, max_replicas", low
        on_gpu = parse_device(self.device or "cpu")[0] == "cuda"
        for name in ("tensorrt", "fp16", "cuda_graph"):
            if getattr(self, name) and not on_gpu:
                yield "device", f"be cuda for {parameter(name)}", self.device or "cpu"
        for name in ("fp16", "cuda_graph"):
            if getattr(self, name) and not self.tensorrt:
                yield "tensorrt", f"be on with {parameter(name)}, which it does", "off"
        if self.runtime_files is not None and self.fetch_runtime:
            yield "runtime_files", "be left out where onnxruntime-web is fetched", str(self.runtime_files)
        if self.unbatched is not None and self.batching is not None:
            yield "unbatched", "be left out where batching is decided", str(self.unbatched)
        yield from self._places()

    def _on_kserve(self) -> Iterator[tuple[str, str, object]]:
        if parse_device(self.device or "cpu")[1]:
            yield "device", "be cpu or cuda on kserve, where Kubernetes gives a pod its GPU", self.device

    def _places(self) -> Iterator[tuple[str, str, object]]:
        if self.namespace is not None and LABEL.fullmatch(self.namespace) is None:
            yield "namespace", "be a label of DNS: letters, digits and -", self.namespace
        if self.storage is not None:
            scheme, found, place = self.storage.partition("://")
            if not found or scheme not in STORAGES or not place.strip("/"):
                yield "storage", f"be SCHEME://PLACE with one of {', '.join(STORAGES)}", self.storage


class DeployOverrides(TypedDict, total=False):
    """The fields of `DeployOptions` as keywords."""

    dtype: Dtype | None
    device: str | None
    instances: int | None
    threads: int | None
    max_batch: int | None
    max_delay: float | None
    batching: bool | None
    unbatched: str | Path | None
    tensorrt: bool | None
    fp16: bool | None
    cuda_graph: bool | None
    images: bool | None
    min_replicas: int | None
    max_replicas: int | None
    cpus: int | None
    memory: int | None
    storage: str | None
    namespace: str | None
    runtime_files: str | Path | None
    fetch_runtime: bool | None
    force: bool
