"""Arrays of one shape → buffers that stay bound to a session: a run allocates nothing, and copies when told."""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime

from aaexport.errors import RunnerError, broken_rule
from aaexport.runners.base import Array, Arrays
from aaexport.runners.cuda_runtime import CudaRuntime
from aaexport.runners.ort_words import cause

GRAPH_ID = "gpu_graph_id"  # of a captured CUDA graph; a run with -1 neither captures nor replays one
NO_GRAPH = -1
NOT_WAITING = "disable_synchronize_execution_providers"
Described = tuple[tuple[int, ...], np.dtype[Any]]  # an array's shape and type


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
        locks: whether arrays are copied to the device and from it by way of memory that is locked in its place.

    Raises:
        RunnerError: the device has no room for them, or refuses.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        feeds: Arrays,
        outputs: Arrays,
        index: int,
        graph: int | None,
        *,
        locks: bool = False,
    ) -> None:
        self._session, self._graph = session, graph
        self._waiting, self._not_waiting = run_options(graph), run_options(graph, waits=False)
        # An input elsewhere than its node wants it would be copied when it is bound, and never again.
        self._inputs = _buffers(session.get_inputs(), session.get_input_memory_infos(), feeds, index)
        self._outputs = _buffers(session.get_outputs(), session.get_output_memory_infos(), outputs, index)
        self._shapes = _described(feeds)
        self._in: LockedBuffers | None = None
        self._out: LockedBuffers | None = None
        if locks:
            self._in, self._out = self._lock(index, outputs)
        self._binding = session.io_binding()
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)
        self.copy_in(feeds)

    def copy_in(self, feeds: Arrays) -> None:
        """Replaces the inputs in place; returns when they are there.

        RunnerError unless they are as was bound, or if the device refuses.
        """
        for name, value in self._inputs.items():
            array = feeds.get(name)
            given = None if array is None else (array.shape, array.dtype)
            if array is None or given != self._shapes[name]:
                # onnxruntime compares the number of bytes at most, and would compute something from the wrong ones.
                raise RunnerError(
                    broken_rule(name, f"be fed as it was bound, {_told(self._shapes[name])}", _told(given))
                )
            if self._in is not None and not on_host(value):
                array = self._in.filled(name, array)
            try:
                value.update_inplace(array)
            except RuntimeError as error:
                raise RunnerError(f"onnxruntime cannot copy {name} to the device: {cause(error)}") from error

    def run(self) -> None:
        """Computes the outputs from the inputs as they are; returns when the device is done."""
        self._run(self._waiting)

    def submit(self) -> None:
        """The same, but returns as soon as all the work is handed to the device, where onnxruntime lets it."""
        self._run(self._not_waiting)

    def wait(self) -> None:
        """Returns when what was submitted is done. RunnerError if it failed."""
        try:
            self._binding.synchronize_outputs()
        except RuntimeError as error:
            raise RunnerError(f"onnxruntime cannot run the model: {cause(error)}") from error

    def copy_out(self) -> dict[str, Array]:
        """The outputs, as copies on the host. RunnerError if the device refuses."""
        # On the host it is a view of the buffer, which the next run would change.
        try:
            return {name: self._copied(name, value) for name, value in self._outputs.items()}
        except RuntimeError as error:
            raise RunnerError(f"onnxruntime cannot copy outputs from the device: {cause(error)}") from error

    def infer(self, feeds: Arrays) -> dict[str, Array]:
        """A whole query: inputs in, run, outputs out."""
        self.copy_in(feeds)
        self.run()
        return self.copy_out()

    def release(self) -> None:
        """Gives back what its CUDA graph holds, where this onnxruntime can; it must not be run again.

        RunnerError if onnxruntime refuses; memory that was locked is let go all the same.
        """
        for locked in filter(None, (self._in, self._out)):
            locked.release()
        release = getattr(self._session, "release_captured_graph", None)  # since 1.31
        if self._graph is not None and release is not None:
            try:
                release(self._graph)
            except Exception as error:
                raise RunnerError(f"onnxruntime cannot give a CUDA graph back: {cause(error)}") from error

    def _lock(self, index: int, outputs: Arrays) -> tuple[LockedBuffers, LockedBuffers]:
        """Of what lies on the device; the rest is not copied by it."""
        shapes = _described(outputs)
        to = LockedBuffers(index, {n: self._shapes[n] for n, value in self._inputs.items() if not on_host(value)})
        try:
            wanted = {n: shapes[n] for n, value in self._outputs.items() if not on_host(value)}
            return to, LockedBuffers(index, wanted)
        except BaseException:
            to.release()
            raise

    def _copied(self, name: str, value: onnxruntime.OrtValue) -> Array:
        if on_host(value):
            return np.array(value.numpy())
        return value.numpy() if self._out is None else self._out.copied(name, value.data_ptr())

    def _run(self, options: onnxruntime.RunOptions) -> None:
        try:
            self._session.run_with_iobinding(self._binding, options)
        # onnxruntime's exceptions share no base but Exception.
        except Exception as error:
            raise RunnerError(f"onnxruntime cannot run the model: {cause(error)}") from error


class LockedBuffers:
    """Memory of the host that is locked in its place, an array for each name: a device copies from and to it itself.

    Arrays that come and go are copied by way of them, as a server does. They have whole pages, which nobody else
    locks: CUDA refuses to lock a page twice.

    RunnerError if the device refuses.
    """

    def __init__(self, index: int, wanted: Mapping[str, Described]) -> None:
        self._runtime = CudaRuntime(index)
        self._pages: list[Array] = []
        self._arrays: dict[str, Array] = {}
        try:
            for name, (shape, dtype) in wanted.items():
                self._arrays[name] = self._locked(shape, dtype)
        except BaseException:
            self.release()
            raise

    def filled(self, name: str, array: Array) -> Array:
        """The one of that name, with what is in an array."""
        np.copyto(self._arrays[name], array)
        return self._arrays[name]

    def copied(self, name: str, source: int) -> Array:
        """What lies on the device at that address, by way of the one of that name."""
        self._runtime.copy_to(self._arrays[name], source)
        return self._arrays[name].copy()

    def release(self) -> None:
        """Lets go of all of them."""
        self._arrays.clear()
        while self._pages:
            self._runtime.unlock(self._pages.pop())

    def _locked(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        size = math.prod(shape) * dtype.itemsize
        whole = -(-max(size, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
        pages = np.frombuffer(mmap.mmap(-1, whole), np.uint8)
        self._runtime.lock(pages)
        self._pages.append(pages)
        return pages[:size].view(dtype).reshape(shape)


def on_host(value: onnxruntime.OrtValue) -> bool:
    """Whether a buffer lies in the host's memory."""
    return str(value.device_name()) == "cpu"


def _buffers(
    ports: list[Any], places: list[Any], arrays: Mapping[str, Array], index: int
) -> dict[str, onnxruntime.OrtValue]:
    """An empty buffer like each array, on the device where the session reads or writes it.

    RunnerError if the device has no room for it.
    """
    buffers = {}
    for port, place in zip(ports, places, strict=True):
        array = arrays[port.name]
        device = ("cpu", 0) if place.name in ("Cpu", "CudaPinned") else ("cuda", index)
        kind = array.dtype.type
        try:
            buffers[port.name] = onnxruntime.OrtValue.ortvalue_from_shape_and_type(array.shape, kind, *device)
        except RuntimeError as error:
            raise RunnerError(f"onnxruntime cannot keep room for {port.name}: {cause(error)}") from error
    return buffers


def _described(arrays: Arrays) -> dict[str, Described]:
    return {name: (array.shape, array.dtype) for name, array in arrays.items()}


def _told(array: Described | None) -> str:
    return "nothing" if array is None else f"{array[1]} of shape {array[0]}"
