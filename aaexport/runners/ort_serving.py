"""A session, and queries of any shape → bound buffers and CUDA graphs, for each shape or each of a few sizes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from types import TracebackType
from typing import Protocol

import numpy as np

from aaexport.errors import RunnerError
from aaexport.runners.base import Array, Arrays, Port, Runner
from aaexport.runners.ort_binding import BoundRun
from aaexport.runners.ort_phases import Between, PhaseTimes
from aaexport.runners.ort_settings import SessionSettings

PATIENCE = 300.0  # seconds: an engine may be built, or algorithms searched, while a graph is recorded
Shapes = tuple[tuple[int, ...], ...]


class CaptureGate:
    """Lets many serve at a time, or one record a CUDA graph.

    onnxruntime records in a mode in which CUDA refuses what other threads of the process ask of it meanwhile, their
    copies among it: their queries would be lost.

    RunnerError, where it is entered, if who is inside has not left within so many seconds.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._changed = threading.Condition()
        self._serving = 0
        self._waiting = 0  # to record: whoever comes later waits for them

    @contextmanager
    def serving(self) -> Iterator[None]:
        """A query."""
        with self._changed:
            self._await(lambda: not self._waiting, "a CUDA graph must be recorded")
            self._serving += 1
        try:
            yield
        finally:
            with self._changed:
                self._serving -= 1
                if not self._serving:
                    self._changed.notify_all()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """What nobody else may be beside."""
        with self._changed:
            self._waiting += 1
            try:
                self._await(lambda: not self._serving, "a query must return for a CUDA graph to be recorded")
            except RunnerError:
                self._waiting -= 1
                self._changed.notify_all()
                raise
            self._serving += 1
        try:
            yield
        finally:
            with self._changed:
                self._waiting -= 1
                self._serving -= 1
                self._changed.notify_all()

    def _await(self, free: Callable[[], bool], what: str) -> None:
        if not self._changed.wait_for(free, self._patience):
            raise RunnerError(f"{what} within {self._patience:g} s, and did not")


class Bindable(Runner, Protocol):
    """A runner whose inputs and outputs can lie in buffers of their own."""

    @property
    def device(self) -> str:
        """`cpu`, `cuda` or `cuda:N`."""

    @property
    def pads(self) -> bool:
        """Whether a batch may be filled up."""

    def bound(self, feeds: Arrays) -> BoundRun:
        """Such buffers, for feeds of these shapes."""

    def phases_of(self, bound: BoundRun, feeds: Arrays, count: int, between: Between = ...) -> PhaseTimes:
        """Where the time of queries through them goes."""


class BoundRunner:
    """A runner whose queries go through bound buffers, one set for every shape that comes.

    A shape's first query allocates them, and records its CUDA graph where there is to be one: warm every shape. With
    `graph_sizes` a batch is filled up to the next of them, so that no others are recorded.

    To be used by one thread, the same as long as it lives: a CUDA graph belongs to the thread that recorded it.
    """

    def __init__(self, runner: Bindable, settings: SessionSettings, gate: CaptureGate | None = None) -> None:
        self._runner = runner
        self._gate = (gate or CaptureGate()) if settings.cuda_graph else None
        self._sizes = tuple(sorted(settings.graph_sizes or ())) if runner.pads else ()
        self._bound: dict[Shapes, BoundRun] = {}
        self._there: dict[Shapes, Arrays] = {}  # what lies in the buffers for each shape, as it was given
        self.stays = settings.resident

    @property
    def query(self) -> Callable[[Arrays], Mapping[str, Array]]:
        """What a query that is timed does: all of `infer`, or only what is between input and output on the device."""
        return self._where_it_lies if self.stays else self.infer

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
        feeds, count = self._filled(feeds)
        shapes, bound = self._of_shape(feeds)
        self._there.pop(shapes, None)
        with self._turn():
            answers = bound.infer(feeds)
        return _first(answers, count)

    def _where_it_lies(self, given: Arrays) -> Mapping[str, Array]:
        """Copies an input only if it is another than before, and the answer when somebody looks at it."""
        feeds, count = self._filled(given)
        shapes, bound = self._of_shape(feeds)
        with self._turn():
            if self._there.get(shapes) is not given:
                self._there.pop(shapes, None)  # a copy that fails leaves neither
                bound.copy_in(feeds)
                self._there[shapes] = given
            bound.run()
        return _Left(bound, count, self._turn)

    def phases(self, feeds: Arrays, count: int, between: Between = lambda: None) -> PhaseTimes | None:
        """Where the time of a query goes, through the very buffers and graphs that serve; None on the CPU."""
        if self._runner.device == "cpu":
            return None
        feeds, _ = self._filled(feeds)
        shapes, bound = self._of_shape(feeds)
        self._there.pop(shapes, None)
        return self._runner.phases_of(bound, feeds, count, between)

    def _turn(self) -> AbstractContextManager[None]:
        """Of a query: not while somebody records."""
        return nullcontext() if self._gate is None else self._gate.serving()

    def _filled(self, feeds: Arrays) -> tuple[Arrays, int | None]:
        """The feeds in a size that is computed, and how many of the answers are wanted then; None for all."""
        count, size = self._size(feeds)
        if size == count:
            return feeds, None
        return {name: _filled_up(array, size) for name, array in feeds.items()}, count

    def _size(self, feeds: Arrays) -> tuple[int, int]:
        """How many images there are, and how many are computed."""
        first = next((feeds[port.name] for port in self.inputs if port.name in feeds), None)
        if not self._sizes or first is None or first.ndim == 0:
            return 0, 0
        return len(first), next((size for size in self._sizes if size >= len(first)), len(first))

    def _of_shape(self, feeds: Arrays) -> tuple[Shapes, BoundRun]:
        shapes = tuple(feeds[port.name].shape for port in self.inputs if port.name in feeds)
        found = self._bound.get(shapes)
        if found is None:
            if self._gate is None:
                found = self._runner.bound(feeds)
            else:
                with self._gate.recording():
                    found = self._runner.bound(feeds)
            self._bound[shapes] = found
        return shapes, found

    def __enter__(self) -> BoundRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ExitStack() as stack:  # one that cannot be released keeps none of the others
            stack.callback(self._runner.__exit__, kind, error, trace)
            for bound in self._bound.values():
                stack.callback(bound.release)
        self._bound.clear()


class _Left(Mapping[str, Array]):
    """Answers that stay on the device until somebody looks at them: those of the last run there, at that moment.

    Once looked at they are a copy, and what is run later does not change them.
    """

    def __init__(self, bound: BoundRun, count: int | None, turn: Callable[[], AbstractContextManager[None]]) -> None:
        self._bound, self._count, self._turn = bound, count, turn
        self._copied: dict[str, Array] | None = None

    def copied(self) -> dict[str, Array]:
        """Them, on the host."""
        if self._copied is None:
            with self._turn():
                self._copied = _first(self._bound.copy_out(), self._count)
        return self._copied

    def __getitem__(self, name: str) -> Array:
        return self.copied()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.copied())

    def __len__(self) -> int:
        return len(self.copied())


def _first(answers: dict[str, Array], count: int | None) -> dict[str, Array]:
    """Without those to what a batch was filled up with."""
    return answers if count is None else {name: output[:count] for name, output in answers.items()}


def _filled_up(array: Array, size: int) -> Array:
    """With its last entry again and again, until there are so many."""
    return np.concatenate([array, np.repeat(array[-1:], size - len(array), axis=0)])
