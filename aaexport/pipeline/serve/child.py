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
from typing import TYPE_CHECKING

from aaexport.errors import AaexportError, RunnerError
from aaexport.serving.process import die_with_parent

if TYPE_CHECKING:
    from aaexport.pipeline.serve.order import Order, Prepared


def prepare_apart(order: Order) -> Prepared:
    """As `prepare`, without what it loads; the process is gone when this returns.

    Raises:
        AaexportError: as `prepare`.
        RunnerError: the process died, as of a lack of memory.
    """
    command = [sys.executable, "-m", "aaexport.pipeline.serve.child"]
    # Ctrl-C reaches every process of a terminal; what becomes of this one is its parent's to say.
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    try:
        out, _ = child.communicate(pickle.dumps(order))
    except BaseException:
        child.kill()
        child.wait()
        raise
    if child.returncode != 0:
        raise RunnerError(f"{order.folder} must be read and run once, but: its process ended with {child.returncode}")
    result: Prepared | AaexportError = pickle.loads(out)
    if isinstance(result, AaexportError):
        raise result
    return result


def main() -> None:
    """Does as it is told once."""
    die_with_parent()
    for name in ("SIGINT", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
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
