"""Work in a process of its own: an order on its stdin, what came of it on its stdout, both pickled.

A service stays small: what loads PyTorch, onnx or onnxruntime for it is gone when it is done.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from aaexport.errors import AaexportError, RunnerError, first_line, out_of_memory
from aaexport.serving.process import die_with_parent, no_room, started

SECOND = 1.0
ENDED = 143  # as a shell tells SIGTERM

Result = TypeVar("Result")
log = logging.getLogger("aaexport")


@dataclass(frozen=True)
class _Unexpected:
    """What no work is to raise, in words, and where it was raised."""

    text: str
    trace: str


def _unexpected(error: Exception) -> _Unexpected:
    wanted = out_of_memory(error)
    defect = f"unexpected {type(error).__name__}: {first_line(error)}; this is a defect, `aaexport -v` shows where"
    text = defect if wanted is None else f"memory must hold what this takes, got {wanted}"
    return _Unexpected(text, traceback.format_exc())


class Waiting:
    """A process that loads what its work takes, and waits for an order; `Apart` gives it one.

    To be begun by the thread that outlives it: the process is killed when that is gone.

    Args:
        module: what is run, by its name: it calls `do_as_told`.

    Raises:
        RunnerError: the system has no room for one more process.
    """

    def __init__(self, module: str) -> None:
        command = [sys.executable, "-P", "-m", module]
        # Ctrl-C reaches every process of a terminal; what becomes of this one is its parent's to say.
        self.child = started(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)

    def __enter__(self) -> Waiting:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends it, if it has not ended; where it was told nothing it has begun nothing."""
        self.child.kill()
        self.child.wait()
        for pipe in (self.child.stdin, self.child.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


class Apart(Generic[Result]):
    """A module that calls `do_as_told` when it is run, and what came of its order; it has begun when this is there.

    To be begun by the thread that outlives it: the process is killed when that is gone.

    Args:
        module: what is run, by its name, or a process of it that waits for its order.
        order: what it is told.
        called: whose work it is, for the error that it died of.

    Raises:
        RunnerError: the system has no room for one more process.
    """

    def __init__(self, module: str | Waiting, order: object, called: str) -> None:
        self._called = called
        waiting = Waiting(module) if isinstance(module, str) else module
        self._child = waiting.child
        self._out = b""
        self._talk = threading.Thread(target=self._read, args=(pickle.dumps(order),), daemon=True)
        try:
            self._talk.start()
        except RuntimeError as error:  # no thread more: nobody would ever tell the process what to do
            waiting.stop()
            raise no_room(error) from error

    def _read(self, order: bytes) -> None:
        self._out, _ = self._child.communicate(order)

    def is_done(self) -> bool:
        """Whether `result` has it already."""
        return not self._talk.is_alive()

    def result(self) -> Result:
        """What came of it, when it has come.

        Raises:
            AaexportError: as the work itself.
            RunnerError: the process died, as of a lack of memory, or failed as it never should.
        """
        self._talk.join()
        code = self._child.returncode
        if code != 0:
            raise RunnerError(f"{self._called}, but: its process ended with {code}")
        result: Result | AaexportError | _Unexpected = pickle.loads(self._out)
        if isinstance(result, _Unexpected):
            log.debug("%s", result.trace)
            raise RunnerError(f"{self._called}, but: {result.text}")
        if isinstance(result, AaexportError):
            raise result
        return result

    def stop(self) -> None:
        """Ends it, done or not; what it has begun to write goes, if it has a second for that."""
        self._child.terminate()
        self._talk.join(SECOND)
        self._child.kill()
        self._talk.join()


def do_as_told(work: Callable[[Any], object], load: Callable[[], None] = lambda: None) -> None:
    """What the module's process does, once: order → `work` → what came of it, or the AaexportError that it raised.

    `load` is done before the order is waited for: what every order takes, such as large libraries.
    """
    die_with_parent()
    for name in ("SIGINT", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(ENDED))
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no reply
    result: object
    try:
        load()
        order = pickle.load(sys.stdin.buffer)
        result = work(order)
    except AaexportError as error:
        result = error.with_traceback(None)
        result.__cause__ = result.__context__ = None
    # The last resort, as of the command line: a defect of ours is one line of the parent's too.
    except Exception as error:  # noqa: BLE001
        result = _unexpected(error)
    with replies, contextlib.suppress(BrokenPipeError):
        replies.write(pickle.dumps(result))
