"""A bound run → where the time of a query goes: by the host's clock part by part, and by the device's own events."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np

from aaexport.errors import RunnerError
from aaexport.runners.base import Array, Arrays
from aaexport.runners.cuda_runtime import CudaRuntime
from aaexport.runners.ort_binding import BoundRun

Clock = Callable[[], int]
Between = Callable[[], None]  # what is done between two runs


@dataclass(frozen=True, eq=False)
class PhaseTimes:
    """What the parts of queries took, in milliseconds; `measure_phases` says what each includes.

    `gpu` is what the device took for runs, by its own events; None where it was not measured, and `untimed` says why.
    """

    to_device: Array
    submit: Array
    compute: Array
    to_host: Array
    gpu: Array | None = None
    untimed: str | None = None

    def medians(self) -> dict[str, float | None]:
        """Of each part, by name: what `aaexport.load.measurement.Phases` is made of."""
        parts = {name: values for name, values in asdict(self).items() if name != "untimed"}
        return {name: None if values is None else float(np.median(values)) for name, values in parts.items()}


def measure_phases(
    bound: BoundRun,
    feeds: Arrays,
    count: int,
    clock: Clock = time.perf_counter_ns,
    between: Between = lambda: None,
) -> PhaseTimes:
    """Times the parts of `count` queries one by one, by the host's clock, so each includes its call's overhead.

    - to_device: copying the inputs from ordinary host memory; the copy has ended when the call returns.
    - compute: the run, from the call until the device is done; so it contains what the host takes to submit. A whole
      query takes to_device + compute + to_host.
    - submit: a run of its own that does not wait. Where it is nearly as long as compute the device waits for the
      host; or onnxruntime waited all the same, which it may for nodes on the CPU and for a CUDA graph.
    - to_host: copying the outputs into new host arrays.

    One query goes before the first that counts; `between` is called before each run, and is in no part.
    """
    bound.infer(feeds)
    times: dict[str, list[int]] = {"to_device": [], "submit": [], "compute": [], "to_host": []}
    for _ in range(count):
        between()
        began = clock()
        bound.copy_in(feeds)
        copied = clock()
        bound.run()
        done = clock()
        bound.copy_out()
        answered = clock()
        between()
        submitting = clock()
        bound.submit()
        submitted = clock()
        bound.wait()
        times["to_device"].append(copied - began)
        times["compute"].append(done - copied)
        times["to_host"].append(answered - done)
        times["submit"].append(submitted - submitting)
    found = {name: np.asarray(values, np.float64) / 1e6 for name, values in times.items()}
    return PhaseTimes(found["to_device"], found["submit"], found["compute"], found["to_host"])


def with_gpu_time(
    times: PhaseTimes,
    open_bound: Callable[[int], BoundRun],
    index: int,
    count: int,
    between: Between = lambda: None,
) -> PhaseTimes:
    """The times with what the device took for `count` runs, between an event before each and one after it.

    `between` is called before each run, and is in none.

    They must lie in the stream in which the session works, so `open_bound` opens another session, in the one that it
    is given. Where the host is slower than the device, the device's waiting for its next kernel is among its time.
    """
    try:
        runtime = CudaRuntime(index)
        with runtime.stream() as stream, runtime.stopwatch(stream) as timed:
            taken = _taken(open_bound(stream), timed, count, between)  # the session is gone before its stream
    except RunnerError as error:  # a second session may find no memory; what was measured is not lost with it
        return replace(times, untimed=str(error))
    return replace(times, gpu=np.asarray(taken, np.float64))


def _taken(
    bound: BoundRun, timed: Callable[[Callable[[], None]], float], count: int, between: Between
) -> list[float]:
    milliseconds = []
    try:
        bound.run()
        for _ in range(count):
            between()
            milliseconds.append(timed(bound.submit))
        bound.wait()
    finally:
        bound.release()
    return milliseconds
