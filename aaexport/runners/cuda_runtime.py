"""CUDA's runtime library, as it is loaded in this process → the few calls of it that measuring takes.

onnxruntime's Python has none of them: events in a stream, memory of the host that is locked, a write over the cache.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aaexport.errors import RunnerError
from aaexport.runners.base import Array

FILES = ("libcudart.so.13", "libcudart.so.12", "cudart64_13.dll", "cudart64_12.dll")
L2_CACHE_SIZE = 38  # cudaDeviceAttr, in bytes
NON_BLOCKING = 1  # a stream that does not wait for the default one
TO_HOST = 2  # cudaMemcpyKind
WRITTEN_OVER = 2  # times the cache: what is in it then is of the write alone


class CudaRuntime:
    """Of one device, by CUDA's number. RunnerError if the library is not in the process, or refuses."""

    def __init__(self, index: int) -> None:
        self._library = _loaded()
        self._library.cudaGetErrorString.restype = ctypes.c_char_p
        self._index = index

    @contextmanager
    def stream(self) -> Iterator[int]:
        """A stream, as a number; it is gone with the block."""
        self._select()
        stream = ctypes.c_void_p()
        self._ask("make a stream", "cudaStreamCreateWithFlags", ctypes.byref(stream), NON_BLOCKING)
        try:
            yield stream.value or 0
        finally:
            self._library.cudaStreamDestroy(stream)

    @contextmanager
    def stopwatch(self, stream: int) -> Iterator[Callable[[Callable[[], None]], float]]:
        """What takes the milliseconds of some work in `stream`, by the device's own clock."""
        begin, end = ctypes.c_void_p(), ctypes.c_void_p()
        for event in (begin, end):
            self._ask("make an event", "cudaEventCreate", ctypes.byref(event))

        def timed(work: Callable[[], None]) -> float:
            passed = ctypes.c_float()
            self._ask("record an event", "cudaEventRecord", begin, ctypes.c_void_p(stream))
            work()
            self._ask("record an event", "cudaEventRecord", end, ctypes.c_void_p(stream))
            self._ask("wait for an event", "cudaEventSynchronize", end)
            self._ask("time an event", "cudaEventElapsedTime", ctypes.byref(passed), begin, end)
            return passed.value

        try:
            yield timed
        finally:
            for event in (begin, end):
                self._library.cudaEventDestroy(event)

    def free_memory(self) -> int:
        """Bytes of the whole device that nobody holds."""
        self._select()
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._ask("tell its memory", "cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def lock(self, array: Array) -> None:
        """Keeps an array's memory in its place, until `unlock`: the device copies from there by itself."""
        self._select()
        self._ask("lock memory", "cudaHostRegister", _address(array), ctypes.c_size_t(array.nbytes), 0)

    def unlock(self, array: Array) -> None:
        """To be called before the array is gone."""
        self._library.cudaHostUnregister(_address(array))

    def copy_to(self, array: Array, source: int) -> None:
        """Fills an array with what lies on the device at that address."""
        self._select()
        size = ctypes.c_size_t(array.nbytes)
        self._ask("copy to the host", "cudaMemcpy", _address(array), ctypes.c_void_p(source), size, TO_HOST)

    @contextmanager
    def flusher(self) -> Iterator[Callable[[], None]]:
        """What writes over the whole L2 cache, and returns when that is done; its memory is given back at the end."""
        self._select()
        cache, room = ctypes.c_int(), ctypes.c_void_p()
        self._ask("tell its cache", "cudaDeviceGetAttribute", ctypes.byref(cache), L2_CACHE_SIZE, self._index)
        size = ctypes.c_size_t(WRITTEN_OVER * cache.value)
        self._ask("take memory", "cudaMalloc", ctypes.byref(room), size)

        def flush() -> None:
            self._select()
            self._ask("write memory", "cudaMemset", room, 0, size)
            self._ask("wait for the device", "cudaDeviceSynchronize")

        try:
            yield flush
        finally:
            self._library.cudaFree(room)

    def _select(self) -> None:
        """The device of a thread is that of its own."""
        self._ask("take the device", "cudaSetDevice", self._index)

    def _ask(self, what: str, function: str, *arguments: Any) -> None:
        code = getattr(self._library, function)(*arguments)
        if code:
            text = self._library.cudaGetErrorString(code).decode(errors="replace")
            raise RunnerError(f"CUDA cannot {what}: {text} ({function})")


def _address(array: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _loaded() -> ctypes.CDLL:
    """Not loaded anew: another copy of it would have another state."""
    for file in FILES:
        try:
            return ctypes.CDLL(file, mode=getattr(os, "RTLD_NOLOAD", 0) | getattr(os, "RTLD_NOW", 0))
        except OSError:
            continue
    raise RunnerError(f"CUDA's runtime must be in the process, got none of {', '.join(FILES[:2])}")
