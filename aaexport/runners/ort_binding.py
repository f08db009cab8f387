"""Arrays of one shape → buffers that stay bound to a session: a run allocates nothing, and copies when told."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import onnxruntime

from aaexport.errors import RunnerError, broken_rule, first_line
from aaexport.runners.base import Array, Arrays, Port, Runner

GRAPH_ID = "gpu_graph_id"  # of a captured CUDA graph; a run with -1 neither captures nor replays one
NO_GRAPH = -1
NOT_WAITING = "disable_synchronize_execution_providers"
Clock = Callable[[], int]


def run_options(graph: int | None, waits: bool = True) -> onnxruntime.RunOptions:
    """Of one run: with which CUDA graph, where there are graphs, and whether it returns when the device is done."""
    options = onnxruntime.RunOptions()
    if graph is not None:
        options.add_run_config_entry(GRAPH_ID, str(graph))
    if not waits:
        options.add_run_config_entry(NOT_WAITING, "1")
    return options


class BoundRun:
    """A session's inputs and outputs in buffers of their own, where the session wants them: on its device.

    To be used by one thread at a time, and always the same where there are CUDA graphs: each thread records its own.

    Args:
        session: of onnxruntime.
        feeds: all its inputs, in the shapes that all later ones have.
        outputs: what the session answers to them, for the outputs' shapes and types.
        index: of the CUDA device.
        graph: the number of its CUDA graph, unlike any other's of the session; None without CUDA graphs.
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, feeds: Arrays, outputs: Arrays, index: int, graph: int | None
    ) -> None:
        self._session = session
        self._waiting, self._not_waiting = run_options(graph), run_options(graph, waits=False)
        # An input elsewhere than its node wants it would be copied when it is bound, and never again.
        self._inputs = _buffers(session.get_inputs(), session.get_input_memory_infos(), feeds, index)
        self._outputs = _buffers(session.get_outputs(), session.get_output_memory_infos(), outputs, index)
        self._shapes = {name: (array.shape, array.dtype) for name, array in feeds.items()}
        self._binding = session.io_binding()
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)
        self.copy_in(feeds)

    def copy_in(self, feeds: Arrays) -> None:
        """Replaces the inputs in place; returns when they are there. RunnerError unless they are as was bound."""
        for name, value in self._inputs.items():
            array = feeds.get(name)
            given = None if array is None else (array.shape, array.dtype)
            if array is None or given != self._shapes[name]:
                # onnxruntime compares the number of bytes at most, and would compute something from the wrong ones.
                raise RunnerError(
                    broken_rule(name, f"be fed as it was bound, {_told(self._shapes[name])}", _told(given))
                )
            value.update_inplace(array)

    def run(self) -> None:
        """Computes the outputs from the inputs as they are; returns when the device is done."""
        self._run(self._waiting)

    def submit(self) -> None:
        """The same, but returns as soon as all the work is handed to the device, where onnxruntime lets it."""
        self._run(self._not_waiting)

    def wait(self) -> None:
        """Returns when what was submitted is done."""
        self._binding.synchronize_outputs()

    def copy_out(self) -> dict[str, Array]:
        """The outputs, as copies on the host."""
        # On the host it is a view of the buffer, which the next run would change.
        return {
            name: value.numpy().copy() if on_host(value) else value.numpy() for name, value in self._outputs.items()
        }

    def infer(self, feeds: Arrays) -> dict[str, Array]:
        """A whole query: inputs in, run, outputs out."""
        self.copy_in(feeds)
        self.run()
        return self.copy_out()

    def _run(self, options: onnxruntime.RunOptions) -> None:
        try:
            self._session.run_with_iobinding(self._binding, options)
        # onnxruntime's exceptions share no base but Exception.
        except Exception as error:
            raise RunnerError(f"onnxruntime cannot run the model: {first_line(error)}") from error


class Bindable(Runner, Protocol):
    """A runner whose inputs and outputs can lie in buffers of their own."""

    def bound(self, feeds: Arrays) -> BoundRun:
        """Such buffers, for feeds of these shapes."""


class BoundRunner:
    """A runner whose queries go through bound buffers, one set for every shape that comes.

    A shape's first query allocates them, and records its CUDA graph where there is to be one: warm every shape.
    """

    def __init__(self, runner: Bindable) -> None:
        self._runner = runner
        self._bound: dict[tuple[tuple[int, ...], ...], BoundRun] = {}

    @property
    def label(self) -> str:
        """For people."""
        return self._runner.label

    @property
    def inputs(self) -> tuple[Port, ...]:
        """What `infer` must be fed."""
        return self._runner.inputs

    def infer(self, feeds: Arrays) -> dict[str, Array]:
        """A whole query, from host arrays to host arrays."""
        shapes = tuple(feeds[port.name].shape for port in self.inputs if port.name in feeds)
        if shapes not in self._bound:
            self._bound[shapes] = self._runner.bound(feeds)
        return self._bound[shapes].infer(feeds)

    def __enter__(self) -> BoundRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bound.clear()
        self._runner.__exit__(kind, error, trace)


@dataclass(frozen=True, eq=False)
class PhaseTimes:
    """What the parts of queries took, in milliseconds; `measure_phases` says what each includes."""

    to_device: Array
    submit: Array
    compute: Array
    to_host: Array

    def medians(self) -> dict[str, float]:
        """Of each part, by name: what `aaexport.load.measurement.Phases` is made of."""
        return {name: float(np.median(values)) for name, values in asdict(self).items()}


def measure_phases(bound: BoundRun, feeds: Arrays, count: int, clock: Clock = time.perf_counter_ns) -> PhaseTimes:
    """Times the parts of `count` queries one by one, by the host's clock, so each includes its call's overhead.

    - to_device: copying the inputs from ordinary host memory; the copy has ended when the call returns.
    - compute: the run, from the call until the device is done; so it contains what the host takes to submit. A whole
      query takes to_device + compute + to_host.
    - submit: a run of its own that does not wait. Where it is nearly as long as compute the device waits for the
      host; or onnxruntime waited all the same, which it may for nodes on the CPU and for a CUDA graph.
    - to_host: copying the outputs into new host arrays.

    One query goes before the first that counts.
    """
    bound.infer(feeds)
    times: dict[str, list[int]] = {"to_device": [], "submit": [], "compute": [], "to_host": []}
    for _ in range(count):
        began = clock()
        bound.copy_in(feeds)
        copied = clock()
        bound.run()
        done = clock()
        bound.copy_out()
        answered = clock()
        bound.submit()
        submitted = clock()
        bound.wait()
        times["to_device"].append(copied - began)
        times["compute"].append(done - copied)
        times["to_host"].append(answered - done)
        times["submit"].append(submitted - answered)
    return PhaseTimes(**{name: np.asarray(values, np.float64) / 1e6 for name, values in times.items()})


def on_host(value: onnxruntime.OrtValue) -> bool:
    """Whether a buffer lies in the host's memory."""
    return str(value.device_name()) == "cpu"


def _buffers(
    ports: list[Any], places: list[Any], arrays: Mapping[str, Array], index: int
) -> dict[str, onnxruntime.OrtValue]:
    """An empty buffer like each array, on the device where the session reads or writes it."""
    buffers = {}
    for port, place in zip(ports, places, strict=True):
        array = arrays[port.name]
        device = ("cpu", 0) if place.name in ("Cpu", "CudaPinned") else ("cuda", index)
        buffers[port.name] = onnxruntime.OrtValue.ortvalue_from_shape_and_type(array.shape, array.dtype.type, *device)
    return buffers


def _told(array: tuple[tuple[int, ...], np.dtype[Any]] | None) -> str:
    return "nothing" if array is None else f"{array[1]} of shape {array[0]}"
