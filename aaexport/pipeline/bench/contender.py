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
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

import aaexport
from aaexport import errors
from aaexport.errors import AaexportError, MeasurementError
from aaexport.load.course import INTERRUPTED
from aaexport.load.measurement import ColdStart, Phases
from aaexport.load.run import QueryLog, Trouble
from aaexport.load.single_stream import BlockPlan
from aaexport.load.statistics import Milliseconds
from aaexport.pipeline.bench.run_order import PROGRESS_MARK, RunOrder
from aaexport.pipeline.bench.worker_models import WorkerSpec
from aaexport.serving.protocol import ModelStatistics


def environment() -> dict[str, str]:
    """For a process that imports aaexport from where this one did, installed or not."""
    package = str(Path(aaexport.__file__).parent.parent)
    return os.environ | {"PYTHONPATH": os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])}


START_TIMEOUT = 300.0
ANSWER_TIMEOUT = 300.0
COLD_START_TIMEOUT = 1800.0  # a compiler may be at work
ABORT_TIMEOUT = 20.0
OURS = "onnxruntime"  # the contender that the report is of

Progress = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, eq=False)
class Served:
    """What one run of a worker left: times, trouble, why it ended early, and what came of checking its answers."""

    log: QueryLog
    trouble: Trouble = field(default_factory=Trouble)
    aborted: str | None = None
    checked: int = 0
    wrong: int = 0
    largest_error: float = 0.0
    statistics: ModelStatistics | None = None  # of a live service, of what it counted meanwhile
    counted: tuple[float, float] | None = None  # when what counts began and ended, by time.monotonic


@dataclass(frozen=True)
class Answers:
    """How many samples were answered, whether all outputs are finite, and which have no entry for each sample."""

    count: int
    finite: bool
    left_out: tuple[str, ...] = ()


class RunInterrupted(KeyboardInterrupt):
    """Ctrl-C during a run; `served` is what was measured until then."""

    def __init__(self, served: Served) -> None:
        super().__init__()
        self.served = served


@contextmanager
def blaming(name: str) -> Iterator[None]:
    """Puts a rival's name before what went wrong with it."""
    try:
        yield
    except AaexportError as error:
        if name == OURS:
            raise
        raise type(error)(f"{name}: {error}") from error


class Contender:
    """A worker process; leave the `with` block and it is gone.

    Raises:
        AaexportError: what the worker raised, by its own class.
        MeasurementError: the worker died or answered too late; it may take `start_timeout` seconds to start.
    """

    def __init__(self, spec: WorkerSpec, *, start_timeout: float = START_TIMEOUT) -> None:
        self._start_timeout = start_timeout
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  closed with the process
        self._began = time.perf_counter()
        self._process = subprocess.Popen(
            # -P: a file of the user's that is called random.py must not stand in for the standard library's.
            [sys.executable, "-P", "-m", "aaexport.pipeline.bench.worker"],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
        )
        self._spec = spec
        self.beside: tuple[int, ...] = ()  # processes that take part because of this one
        self._send(dataclasses.asdict(spec))

    untimed: str | None = None

    def __enter__(self) -> Contender:
        try:
            introduction = self._receive(self._start_timeout)
            self.started_in = time.perf_counter() - self._began
            self.label = str(introduction["label"])
            self.provider = str(introduction["provider"])
            self.fixed_batch: int | None = introduction["input_shape"][0] if introduction["input_shape"] else None
            self.load_seconds = float(introduction["load_s"])
            self.stays = bool(introduction["stays"])  # whether its queries find their input on the device
            self.max_batch: int | None = introduction.get("max_batch")
            self.settings: Mapping[str, Any] = introduction.get("settings") or {}
            self.placement: Mapping[str, tuple[str, ...]] | None = introduction.get("placement")
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    @property
    def process_ids(self) -> tuple[int, ...]:
        """The worker's, for whoever keeps accounts of the CPU."""
        return (self._process.pid, *self.beside)

    def first_query(self, batch: int) -> float:
        """Seconds of the next query; the first of its shape has in it whatever the runtime puts off."""
        return float(self._ask({"do": "first_query", "batch": batch}, COLD_START_TIMEOUT)["seconds"])

    def cold_start(self, batch: int) -> ColdStart:
        """As `first_query`, and before that the start of the process."""
        first = self.first_query(batch)
        return ColdStart(self.started_in + first, self.load_seconds, first, self._spec.build_s)

    def answers(self, path: Path, count: int, batch: int) -> Answers:
        """Writes the outputs for the first `count` samples, or as many as there is time for, to `path`, a .npz."""
        order = {"do": "answers", "path": str(path), "count": count, "batch": batch}
        reply = self._ask(order, ANSWER_TIMEOUT)
        return Answers(int(reply["count"]), bool(reply["finite"]), tuple(reply["left_out"]))

    def expect(self, path: Path) -> None:
        """From now on answers are compared with these while measuring; as `answers` wrote them."""
        self._ask({"do": "expect", "path": str(path)}, ANSWER_TIMEOUT)

    def block(self, batch: int, plan: BlockPlan) -> Milliseconds:
        """Latencies of one block of single-stream, in milliseconds."""
        patience = plan.warmup + plan.max_duration + ANSWER_TIMEOUT
        reply = self._ask({"do": "block", "batch": batch, **dataclasses.asdict(plan)}, patience)
        return np.asarray(reply["nanoseconds"], np.float64) / 1e6

    def run(self, order: RunOrder, progress: Progress | None = None) -> Served:
        """One run of a scenario.

        Raises:
            RunInterrupted: Ctrl-C came; what was measured is in it.
        """
        with tempfile.TemporaryDirectory(prefix="aaexport-") as room:
            path = Path(room) / "log.npz"
            value = {"do": "run", "into": str(path), "progress": progress is not None, **dataclasses.asdict(order)}
            try:
                reply = self._ask(value, order.patience + ANSWER_TIMEOUT, progress)
            except KeyboardInterrupt:
                raise RunInterrupted(self._aborted(path)) from None
            return _served(reply, path, apart=self._spec.flush)

    def abort(self) -> None:
        """Has a run that is under way end now, with what it measured."""
        self._send({"do": "abort"})

    def _aborted(self, path: Path) -> Served:
        """What a run leaves that is to end now; nothing if it does not end."""
        self.abort()
        try:
            return _served(self._receive(ABORT_TIMEOUT), path, apart=self._spec.flush)
        except MeasurementError:
            return Served(QueryLog.empty(), aborted=INTERRUPTED)

    def phases(self, batch: int) -> Phases | None:
        """Where the time of a query goes; None where the runner cannot tell.

        Where the device's own time is not among it, `untimed` says why.
        """
        reply = self._ask({"do": "phases", "batch": batch}, ANSWER_TIMEOUT)
        self.untimed = reply["untimed"]
        return None if reply["phases"] is None else Phases(**reply["phases"])

    def peak_memory(self, batch: int) -> int | None:
        """Bytes of the process's memory that one query takes at its peak; None where the system does not tell.

        To be asked first: what later queries take was mostly kept from earlier ones.
        """
        reply = self._ask({"do": "memory", "batch": batch}, ANSWER_TIMEOUT)
        return None if reply["bytes"] is None else int(reply["bytes"])

    def _ask(self, order: dict[str, Any], timeout: float, progress: Progress | None = None) -> dict[str, Any]:
        self._send(order)
        return self._receive(timeout, progress)

    def _send(self, value: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(value) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the worker has died: reading its answer says so, and why

    def _receive(self, timeout: float, progress: Progress | None = None) -> dict[str, Any]:
        """The next reply; what is told before it on the way goes to `progress`."""
        assert self._process.stdout is not None
        too_late = threading.Event()

        def give_up() -> None:
            too_late.set()
            self._process.kill()

        watchdog = threading.Timer(timeout, give_up)
        watchdog.daemon = True  # an interrupt may come at any moment, and must not leave anybody waiting for it
        try:
            watchdog.start()
            line = self._process.stdout.readline()
            while line.startswith(PROGRESS_MARK):
                if progress is not None:
                    progress(json.loads(line)["progress"])
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

    def end(self) -> None:
        """The process's end, now."""
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


def _served(reply: Mapping[str, Any], path: Path, *, apart: bool) -> Served:
    with np.load(path, allow_pickle=False) as arrays:
        times = {name: arrays[name] for name in ("scheduled", "issued", "completed", "samples")}
        log = QueryLog(**times, apart=apart)
    checked = reply["checked"] or {"checked": 0, "wrong": 0, "error": 0.0}
    return Served(
        log,
        Trouble(**reply["trouble"]),
        reply["aborted"],
        checked["checked"],
        checked["wrong"],
        float(checked["error"]),
        counted=None if reply["counted"] is None else tuple(reply["counted"]),
    )
