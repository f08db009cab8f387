"""One contender in a process of its own: reads orders as JSON lines from stdin, answers with JSON lines on stdout.

Run as `python -m aaexport.pipeline.bench_worker`. A contender that is not measured waits in a read: it computes
nothing, and its runtime's threads stop spinning soon after its last query.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from aaexport.device import parse_device
from aaexport.errors import AaexportError
from aaexport.load.memory import peak_memory
from aaexport.load.single_stream import BlockPlan, run_block
from aaexport.runners.base import Array, Runner

if TYPE_CHECKING:
    from aaexport.runners.torch import TorchRunner


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker loads: one of `LOADERS`, and what it needs.

    `model` is an ONNX file or, for torch, a model folder; `samples` a .npy of images; `scratch` a folder that is
    empty and will be thrown away.
    """

    runtime: str
    model: str
    samples: str
    device: str
    threads: int | None
    size: tuple[int, int] | None = None  # (H, W) that the model is built for; None: its recipe's
    with_attention: bool = False  # whether PyTorch too answers with its attention weights
    scratch: str | None = None


def main() -> None:
    """Serves orders until stdin ends."""
    replies = _private_stdout()
    try:
        worker = _Worker(WorkerSpec(**json.loads(sys.stdin.readline())))
        _reply(replies, worker.introduction())
        for line in sys.stdin:
            order = json.loads(line)
            _reply(replies, worker.orders[order.pop("do")](**order))
    except AaexportError as error:
        _reply(replies, {"error": type(error).__name__, "message": str(error)})


class _Worker:
    def __init__(self, spec: WorkerSpec) -> None:
        self.samples: Array = np.load(spec.samples, allow_pickle=False)
        self.runner, self.facts = LOADERS[spec.runtime](spec)
        self.input = self.runner.inputs[0]
        self.on_cuda = parse_device(spec.device)[0] == "cuda"
        self.orders: dict[str, Callable[..., dict[str, Any]]] = {
            "cold_start": self.cold_start,
            "answer": self.answer,
            "block": self.block,
            "memory": self.memory,
        }

    def introduction(self) -> dict[str, Any]:
        shape = list(self.input.shape)
        return {"label": self.runner.label, "input_shape": shape, **self.facts}

    def cold_start(self, batch: int) -> dict[str, Any]:
        feeds = self._feeds(0, batch)
        sent = time.perf_counter()
        self.runner.infer(feeds)
        return {"seconds": time.perf_counter() - sent}

    def answer(self, batch: int) -> dict[str, Any]:
        outputs = self.runner.infer(self._feeds(0, batch))
        first = next(iter(outputs.values())).astype(np.float64)
        return {
            "answer": np.where(np.isfinite(first), first, 0).tolist(),
            "finite": bool(np.isfinite(first).all()),
        }

    def block(self, batch: int, **plan: Any) -> dict[str, Any]:
        # Batches are cut beforehand: a server gets its input as an array, it does not gather it from a data set.
        feeds = [self._feeds(number, batch) for number in range(max(1, len(self.samples) // batch))]

        def query(number: int) -> None:
            self.runner.infer(feeds[number % len(feeds)])

        return {"nanoseconds": run_block(query, BlockPlan(**plan)).tolist()}

    def memory(self, batch: int) -> dict[str, Any]:
        feeds = self._feeds(0, batch)
        if (
            self.on_cuda
        ):  # onnxruntime does not tell what it allocated there, and the host's memory is beside the point
            self.runner.infer(feeds)
            return {"bytes": None}
        return {"bytes": peak_memory(lambda: self.runner.infer(feeds))}

    def _feeds(self, number: int, batch: int) -> dict[str, Array]:
        index = (number * batch + np.arange(batch)) % len(self.samples)
        return {self.input.name: np.ascontiguousarray(self.samples[index])}


def _load_onnxruntime(spec: WorkerSpec) -> tuple[Runner, dict[str, Any]]:
    from aaexport.runners.ort import OrtRunner

    runner = OrtRunner(Path(spec.model), device=spec.device, threads=spec.threads)
    return runner, {"provider": runner.provider}


def _load_torch(spec: WorkerSpec) -> tuple[Runner, dict[str, Any]]:
    return _eager(spec), {"provider": "torch"}


def _load_compiled(spec: WorkerSpec) -> tuple[Runner, dict[str, Any]]:
    # Before torch is imported. What another run has compiled must not make this cold start a warm one, and torch's
    # pool of compiling processes would be a load that nobody accounts for.
    os.environ |= {"TORCHINDUCTOR_CACHE_DIR": str(spec.scratch), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    from aaexport.runners.compiled import CompiledRunner

    return CompiledRunner(_eager(spec)), {"provider": "torch.compile"}


def _eager(spec: WorkerSpec) -> TorchRunner:
    import torch

    from aaexport.pipeline.subject import as_subject
    from aaexport.program import INPUT_NAME
    from aaexport.runners.torch import TorchRunner

    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    subject = as_subject(spec.model, size=spec.size)
    if spec.with_attention:
        subject = subject.observed()
    shape, names = subject.input_shape, subject.output_names
    return TorchRunner(subject.runnable(subject.module), (INPUT_NAME,), names, input_shape=shape, device=spec.device)


LOADERS: dict[str, Callable[[WorkerSpec], tuple[Runner, dict[str, Any]]]] = {
    "onnxruntime": _load_onnxruntime,
    "torch": _load_torch,
    "torch.compile": _load_compiled,
}


def _private_stdout() -> TextIO:
    """The pipe to the parent, out of reach of whatever a library prints: that goes to stderr from now on."""
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return pipe


def _reply(pipe: TextIO, value: dict[str, Any]) -> None:
    pipe.write(json.dumps(value) + "\n")
    pipe.flush()


if __name__ == "__main__":
    main()
