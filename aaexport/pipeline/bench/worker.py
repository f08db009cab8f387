"""One contender in a process of its own: reads orders as JSON lines from stdin, answers with JSON lines on stdout.

Run as `python -m aaexport.pipeline.bench.worker`. A contender that is not measured waits for an order: it computes
nothing, and its runtime's threads stop spinning soon after its last query. Orders are read in a thread of their own,
so that `abort` is heard while a run is under way.

Whatever computes does so in a thread that ends with its order, as those of the load engine do: OpenMP gives every
thread that asks for it a team of its own, and teams that are left behind make the next one wait four times as long.
On CUDA every session has one thread for all orders instead: its graphs and its libraries' handles are that thread's.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TextIO

import numpy as np

from aaexport.device import parse_device
from aaexport.errors import AaexportError
from aaexport.load.memory import peak_memory
from aaexport.load.run import Run
from aaexport.load.single_stream import BlockPlan, run_block
from aaexport.load.threads import RunnerThread
from aaexport.pipeline.bench.feeding import Checker, Feeder
from aaexport.pipeline.bench.run_order import RunOrder
from aaexport.pipeline.bench.under_load import run_order, warm_shapes
from aaexport.pipeline.bench.worker_models import WorkerSpec, load
from aaexport.runners.base import Array

PHASE_QUERIES = 50
ANSWERS_IN_MEMORY = 2**28  # bytes; attention weights are large
ANSWERS_SECONDS = 20.0
LAST_SECONDS = 10.0
# A session that has its answer waits so long for a load generator that is sending; Python's 5 ms would be latency.
SWITCH_SECONDS = 1e-4
Order = dict[str, Any]


def main() -> None:
    """Serves orders until stdin ends."""
    # Ctrl-C reaches every process of a terminal; what becomes of a worker is its parent's to say, by closing stdin.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    sys.setswitchinterval(SWITCH_SECONDS)
    replies = _private_stdout()
    try:
        spec = WorkerSpec(**json.loads(sys.stdin.readline()))
        worker = _Worker(spec, lambda line: _reply(replies, line))
        _reply(replies, worker.introduction())
        orders: SimpleQueue[Order | None] = SimpleQueue()
        threading.Thread(target=_read_orders, args=(orders, worker.aborted), daemon=True).start()
        while (order := orders.get()) is not None:
            _reply(replies, worker.obey(order))
    except AaexportError as error:
        _reply(replies, _complaint(error))
    replies.flush()
    os._exit(0)  # a session that hangs in a thread must not keep the process


def _read_orders(orders: SimpleQueue[Order | None], aborted: threading.Event) -> None:
    for line in sys.stdin:
        order = json.loads(line)
        if order["do"] == "abort":
            aborted.set()
            continue
        if order["do"] == "run":
            aborted.clear()  # here, so that no abort that follows is lost
        orders.put(order)
    aborted.set()
    orders.put(None)
    time.sleep(LAST_SECONDS)
    os._exit(1)  # the parent is gone, and something hangs


class _Worker:
    def __init__(self, spec: WorkerSpec, tell: Callable[[Order], None]) -> None:
        kind, self.index = parse_device(spec.device)
        self.on_cuda, self.flushes = kind == "cuda", spec.flush
        self.threads = [RunnerThread(lasting=self.on_cuda) for _ in range(spec.sessions)]
        self.loaded = self.threads[0].run(lambda: load(spec, self.threads))
        self.runner = self.loaded.runners[0]
        self.feeder = Feeder(Path(spec.samples), self.runner.inputs, batched=spec.batched)
        self.aborted = threading.Event()
        self.tell = tell
        self.checker: Checker | None = None
        self.warm_sizes: set[int] = set()
        self.orders: dict[str, Callable[..., Order]] = {
            "first_query": self.first_query,
            "answers": self.answers,
            "expect": self.expect,
            "block": self.block,
            "memory": self.memory,
            "phases": self.phases,
        }

    def obey(self, order: Order) -> Order:
        """Carries an order out; a run sees to its threads itself. After one that failed another may go well."""
        name = order.pop("do")
        try:
            if name == "run":
                return self.run(**order)
            return self.threads[0].run(lambda: self.orders[name](**order))
        except AaexportError as error:
            return _complaint(error)

    def introduction(self) -> Order:
        shape = list(self.runner.inputs[0].shape)
        stays = bool(getattr(self.runner, "stays", False))
        return {"label": self.runner.label, "input_shape": shape, "stays": stays, **self.loaded.facts}

    def first_query(self, batch: int) -> Order:
        feeds = self._feeds(0, batch)
        sent = time.perf_counter()
        self.runner.infer(feeds)
        return {"seconds": time.perf_counter() - sent}

    def answers(self, path: str, count: int, batch: int) -> Order:
        """Of so many samples as fit the memory and the time; outputs without an entry for each are left out."""
        batch = batch if self.feeder.batched else 1
        parts: dict[str, list[Array]] = {}
        left_out: dict[str, None] = {}
        held, done, began = 0, 0, time.monotonic()
        while done < count and held <= ANSWERS_IN_MEMORY and time.monotonic() - began < ANSWERS_SECONDS:
            samples = self.feeder.of_query(done // batch, batch)
            for name, output in self.runner.infer(self.feeder.feeds(samples)).items():
                stacked = output if self.feeder.batched else output[None]
                if stacked.shape[:1] == (batch,):
                    parts.setdefault(name, []).append(stacked)
                else:
                    left_out[name] = None
                held += output.nbytes
            done += batch
        outputs = {name: np.concatenate(arrays)[:count] for name, arrays in parts.items()}
        np.savez(path, **outputs)  # type: ignore[arg-type]  # its own keyword is no output
        finite = all(bool(np.isfinite(output).all()) for output in outputs.values())
        return {"count": min(done, count), "finite": finite, "left_out": list(left_out)}

    def expect(self, path: str) -> Order:
        self.checker = Checker.read(Path(path), batched=self.feeder.batched)
        return {}

    def block(self, batch: int, **plan: Any) -> Order:
        # Batches are cut beforehand: a server gets its input as an array, it does not gather it from a data set.
        # What stays on the device is the input of one query, as under load.
        different = 1 if getattr(self.runner, "stays", False) else max(1, len(self.feeder) // batch)
        feeds = [self._feeds(number, batch) for number in range(different)]
        infer = getattr(self.runner, "query", self.runner.infer)

        def query(number: int) -> None:
            infer(feeds[number % len(feeds)])

        with self._flusher() as flush:
            taken = run_block(query, BlockPlan(**plan), *filter(None, (flush,)))
        return {"nanoseconds": taken.tolist()}

    def run(self, into: str, progress: bool, **order: Any) -> Order:
        wanted = RunOrder.read(order)
        if wanted.shares_batches:
            cold = [size for size in wanted.warm_sizes if size not in self.warm_sizes]
            warm_shapes(self.loaded.runners, self.threads, self.feeder, cold)
            self.warm_sizes.update(cold)
        tell = (lambda state: self.tell({"progress": state})) if progress else None
        kept = 0 if self.checker is None else self.checker.worth_keeping(ANSWERS_IN_MEMORY)
        with self._flusher() as flush:
            run = run_order(wanted, self.loaded.runners, self.threads, self.feeder, self.aborted, tell, kept, flush)
        if self.checker is not None:
            self.checker.check(run.kept)
        log = run.log
        np.savez(into, scheduled=log.scheduled, issued=log.issued, completed=log.completed, samples=log.samples)
        checked = None if self.checker is None else self.checker.take_result()
        trouble = dataclasses.asdict(run.trouble)
        return {"trouble": trouble, "aborted": run.aborted, "checked": checked, "counted": _counted(run)}

    def memory(self, batch: int) -> Order:
        feeds = self._feeds(0, batch)
        if self.on_cuda:
            # onnxruntime does not tell what it allocated there, and the host's memory is beside the point
            self.runner.infer(feeds)
            return {"bytes": None}
        return {"bytes": peak_memory(lambda: self.runner.infer(feeds))}

    def phases(self, batch: int) -> Order:
        measure = getattr(self.runner, "phases", None)  # PyTorch has none
        with self._flusher() as flush:
            given = {} if flush is None else {"between": flush}
            found = None if measure is None else measure(self._feeds(0, batch), PHASE_QUERIES, **given)
        if found is None:
            return {"phases": None, "untimed": None}
        return {"phases": found.medians(), "untimed": found.untimed}

    @contextmanager
    def _flusher(self) -> Iterator[Callable[[], None] | None]:
        if not self.flushes:
            yield None
            return
        from aaexport.runners.cuda_runtime import CudaRuntime

        with CudaRuntime(self.index).flusher() as flush:
            yield flush

    def _feeds(self, number: int, batch: int) -> dict[str, Array]:
        return self.feeder.feeds(self.feeder.of_query(number, batch))


def _counted(run: Run) -> tuple[float, float] | None:
    """When the counted part began and ended, by the monotonic clock, which all processes share; None without any."""
    if not len(run.log):
        return None
    ahead = time.monotonic() - time.perf_counter_ns() / 1e9
    began = run.began / 1e9 + ahead
    return began + float(run.log.scheduled[0]) / 1e9, began + float(run.log.scheduled[0]) / 1e9 + run.log.lasted


def _private_stdout() -> TextIO:
    """The pipe to the parent, out of reach of whatever a library prints: that goes to stderr from now on."""
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return pipe


def _complaint(error: AaexportError) -> Order:
    return {"error": type(error).__name__, "message": str(error)}


def _reply(pipe: TextIO, value: Order) -> None:
    pipe.write(json.dumps(value) + "\n")
    pipe.flush()


if __name__ == "__main__":
    main()
