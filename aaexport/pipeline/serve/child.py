"""`prepare` in a process of its own: an order on stdin, what came of it on stdout, both pickled.

Run as `python -m aaexport.pipeline.serve.child`.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

from aaexport.errors import AaexportError, RunnerError
from aaexport.serving.process import die_with_parent

if TYPE_CHECKING:
    from aaexport.pipeline.serve.order import Order, Prepared

SECOND = 1.0
ENDED = 143  # as a shell tells SIGTERM


class Preparation:
    """`prepare` in a process of its own, without what it loads here; it has begun when this is there.

    To be begun by the thread that outlives it: the process is killed when that is gone.
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        command = [sys.executable, "-m", "aaexport.pipeline.serve.child"]
        # Ctrl-C reaches every process of a terminal; what becomes of this one is its parent's to say.
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        self._out = b""
        self._talk = threading.Thread(target=self._read, args=(pickle.dumps(order),), daemon=True)
        self._talk.start()

    def _read(self, order: bytes) -> None:
        self._out, _ = self._child.communicate(order)

    def is_done(self) -> bool:
        """Whether `result` has it already."""
        return not self._talk.is_alive()

    def result(self) -> Prepared:
        """What came of it, when it has come.

        Raises:
            AaexportError: as `prepare`.
            RunnerError: the process died, as of a lack of memory.
        """
        self._talk.join()
        code = self._child.returncode
        if code != 0:
            raise RunnerError(f"{self._order.folder} must be read and run once, but: its process ended with {code}")
        result: Prepared | AaexportError = pickle.loads(self._out)
        if isinstance(result, AaexportError):
            raise result
        return result

    def stop(self) -> None:
        """Ends it, done or not; what it has begun to write goes, if it has a second for that."""
        self._child.terminate()
        self._talk.join(SECOND)
        self._child.kill()
        self._talk.join()


def prepare_apart(order: Order) -> Prepared:
    """As `prepare`, without what it loads; the process is gone when this returns. Raises as `Preparation.result`."""
    preparation = Preparation(order)
    try:
        return preparation.result()
    finally:
        preparation.stop()


def main() -> None:
    """Does as it is told once."""
    die_with_parent()
    for name in ("SIGINT", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(ENDED))
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no reply
    order = pickle.load(sys.stdin.buffer)
    try:
        from aaexport.pipeline.serve.prepare import prepare

        result: Prepared | AaexportError = prepare(order)
    except AaexportError as error:
        result = error.with_traceback(None)
        result.__cause__ = result.__context__ = None
    with replies, contextlib.suppress(BrokenPipeError):
        replies.write(pickle.dumps(result))


if __name__ == "__main__":
    main()
