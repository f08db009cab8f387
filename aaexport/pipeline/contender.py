"""The parent's side of `bench_worker`: a process that can be asked for a block of latencies, and be given up."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

import aaexport
from aaexport import errors
from aaexport.errors import AaexportError, MeasurementError
from aaexport.load.single_stream import BlockPlan
from aaexport.load.statistics import Milliseconds
from aaexport.pipeline.bench_worker import WorkerSpec


def _import_path() -> str:
    """Where this aaexport was imported from, installed or not, before what PYTHONPATH said."""
    package = str(Path(aaexport.__file__).parent.parent)
    return os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])


START_TIMEOUT = 300.0
ANSWER_TIMEOUT = 300.0
COLD_START_TIMEOUT = 1800.0  # a compiler may be at work


class Contender:
    """A worker process; leave the `with` block and it is gone.

    Raises:
        AaexportError: what the worker raised, by its own class.
        MeasurementError: the worker died or answered too late.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  closed with the process
        self._process = subprocess.Popen(
            # -P: a file of the user's that is called random.py must not stand in for the standard library's.
            [sys.executable, "-P", "-m", "aaexport.pipeline.bench_worker"],
            env=os.environ | {"PYTHONPATH": _import_path()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
        )
        self._spec = spec
        self._send(dataclasses.asdict(spec))

    def __enter__(self) -> Contender:
        try:
            introduction = self._receive(START_TIMEOUT)
            self.label = str(introduction["label"])
            self.provider = str(introduction["provider"])
            self.fixed_batch: int | None = introduction["input_shape"][0]
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    @property
    def process_id(self) -> int:
        """The worker's, for whoever keeps accounts of the CPU."""
        return self._process.pid

    def cold_start(self, batch: int) -> float:
        """Seconds of the first query; asked before anything else, so that all that a runtime puts off is in it."""
        return float(self._ask({"do": "cold_start", "batch": batch}, COLD_START_TIMEOUT)["seconds"])

    def answer(self, batch: int) -> tuple[Milliseconds, bool]:
        """The first output for the first `batch` samples, and whether all of it is finite."""
        reply = self._ask({"do": "answer", "batch": batch}, ANSWER_TIMEOUT)
        return np.asarray(reply["answer"]), bool(reply["finite"])

    def block(self, batch: int, plan: BlockPlan) -> Milliseconds:
        """Latencies of one block, in milliseconds."""
        patience = plan.warmup + plan.max_duration + ANSWER_TIMEOUT
        reply = self._ask({"do": "block", "batch": batch, **dataclasses.asdict(plan)}, patience)
        return np.asarray(reply["nanoseconds"], np.float64) / 1e6

    def peak_memory(self, batch: int) -> int | None:
        """Bytes of the process's memory that one query takes at its peak; None where the system does not tell.

        To be asked first: what later queries take was mostly kept from earlier ones.
        """
        reply = self._ask({"do": "memory", "batch": batch}, ANSWER_TIMEOUT)
        return None if reply["bytes"] is None else int(reply["bytes"])

    def _ask(self, order: dict[str, Any], timeout: float) -> dict[str, Any]:
        self._send(order)
        return self._receive(timeout)

    def _send(self, value: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(value) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the worker has died: reading its answer says so, and why

    def _receive(self, timeout: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        too_late = threading.Event()

        def give_up() -> None:
            too_late.set()
            self._process.kill()

        watchdog = threading.Timer(timeout, give_up)
        watchdog.start()
        try:
            line = self._process.stdout.readline()
        finally:
            watchdog.cancel()
        if not line.endswith("\n"):  # also where it was killed in the middle of a line
            reason = f"it had {timeout:g} s to answer" if too_late.is_set() else self._last_words()
            raise MeasurementError(f"the {self._spec.runtime} process ended without an answer: {reason}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            kind = getattr(errors, reply["error"], AaexportError)
            raise kind(reply["message"])
        return reply

    def _last_words(self) -> str:
        self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {self._process.returncode}"

    def _end(self) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._stderr.close()
