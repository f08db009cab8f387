"""A file and a batch size → what a query of so many images takes of a GPU, by readings around a process of its own.

onnxruntime keeps what it once took for the next query, and CUDA graphs keep their buffers: a process that has seen
larger batches tells nothing of a smaller one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from aaexport.graph.probe import probe_model
from aaexport.pipeline.bench.contender import Contender
from aaexport.pipeline.bench.worker_models import WorkerSpec

QUERIES = 2  # of each size: the first searches for algorithms


class DeviceMemory:
    """Of one file. Nobody else may take or give back memory of the GPU meanwhile: what changes is taken for its own.

    Args:
        read: bytes of the whole GPU that are in use now; None where nobody tells.
        spec: what loads the file.
        room: a folder for files that live as long as this.
        start: what makes a process of a spec.
    """

    def __init__(
        self,
        read: Callable[[], int | None],
        spec: WorkerSpec,
        room: Path,
        start: Callable[[WorkerSpec], Contender] = Contender,
    ) -> None:
        self._read, self._start, self._room = read, start, room
        self._spec = replace(spec, sessions=1, flush=False)
        self._bare: int | None = None

    def of(self, size: int) -> int | None:
        """Bytes that a session holds after queries of so many images: weights, numbers between nodes, workspaces.

        Without what any process takes that uses CUDA at all, as one does with a model of one node. None where nobody
        tells.

        Raises:
            AaexportError: what the process raised; RunnerError if it finds no room beside the others.
        """
        if self._read() is None:
            return None
        if self._bare is None:
            self._bare = self._taken(self._of_one_node(), 1)
        taken = self._taken(self._spec, size)
        return None if taken is None or self._bare is None else max(taken - self._bare, 0)

    def _taken(self, spec: WorkerSpec, size: int) -> int | None:
        before = self._read()
        with self._start(spec) as process:
            for _ in range(QUERIES):
                process.first_query(size)
            after = self._read()
        return None if before is None or after is None else after - before

    def _of_one_node(self) -> WorkerSpec:
        model, samples = self._room / "probe.onnx", self._room / "probe.npz"
        model.write_bytes(probe_model())
        np.savez(samples, x=np.ones((1, 1), np.float32))
        return replace(self._spec, model=str(model), samples=str(samples), session={}, engines=None, batched=False)
