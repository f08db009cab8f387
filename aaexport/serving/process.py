"""A tritonserver as a process that is ended with this one, whatever becomes of this one: by a guard beside it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aaexport.errors import RunnerError, first_line

PR_SET_PDEATHSIG = 1
WAITING = re.compile(r"Found (\d+) live models and 0 in-flight")  # in Triton's log, every second
GRACE = 75.0  # seconds from SIGTERM on, and what a supervisor is told to wait for
LINGER = 30.0  # seconds for which connections are served that clients keep, before it ends with them
LONG = 1.0  # seconds of a run that the end waits for
CALM = 1.5  # seconds for which there has been none: one may follow another
SHARED_MEMORY = Path("/dev/shm")
# Reads until this process says that all is done, or is gone, however it went; then it ends the group and cleans up.
GUARD = """
read -r word; [ "$word" = done ] && exit 0
kill -s TERM -- "-$1" 2>/dev/null
n=0; while kill -s 0 -- "-$1" 2>/dev/null && [ $n -lt 100 ]; do sleep 0.1; n=$((n+1)); done
kill -s KILL -- "-$1" 2>/dev/null
rm -rf -- "$2" /dev/shm/"$3"*
"""


def die_with_parent() -> None:
    """The process that calls this is killed when its parent is gone, on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def started(command: Sequence[str], **how: Any) -> subprocess.Popen[bytes]:
    """A new process, as `subprocess.Popen` makes it. RunnerError where the system has no room for one more."""
    try:
        return subprocess.Popen(command, **how)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.ENOMEM):
            raise
        raise no_room(error) from error


def no_room(error: Exception) -> RunnerError:
    """What is told of a system that starts no process, or no thread, more."""
    got = f"{getattr(error, 'strerror', None) or first_line(error)}; end others, or raise the limit (ulimit -u)"
    return RunnerError(f"the system must have room for one more process, got: {got}")


def _state(pid: int) -> str:
    """The system's letter for what a process does: T of one that is stopped, Z of what is left of one; "" of none."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0].decode()
    except OSError:
        return ""


class EngineProcess:
    """A server with all the processes that it starts, which are one group.

    Args:
        command, environment: how it is started.
        scratch: a folder that is removed with it; its log is there.
        shared_memory: what the names of its regions of shared memory begin with.
        lock: a descriptor that the guard keeps open too: what is locked by it stays so until it has cleaned up.

    Raises:
        RunnerError: the system has no room for one more process.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        scratch: Path,
        shared_memory: str,
        lock: int | None = None,
    ) -> None:
        self.scratch, self._shared_memory = scratch, shared_memory
        self.log_path = scratch / "engine.log"
        with self.log_path.open("wb") as log:
            self._server = started(
                command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=scratch,
                start_new_session=True,
            )  # fmt: skip
        words = ["/bin/sh", "-c", GUARD, "aaexport-guard", str(self.pid), str(scratch), shared_memory]
        try:
            self._guard = started(
                words, stdin=subprocess.PIPE, start_new_session=True, pass_fds=() if lock is None else (lock,),
                env={"PATH": os.environ.get("PATH", os.defpath)},  # nobody's secrets
            )  # fmt: skip
        except BaseException:  # Ctrl-C too: without its guard nothing would end the server
            os.killpg(self.pid, signal.SIGKILL)
            self._server.wait()
            raise

    @property
    def pid(self) -> int:
        """Of the server, which is its group's too."""
        return self._server.pid

    def alive(self) -> bool:
        """Whether the server runs."""
        return self._server.poll() is None

    def ended(self) -> str:
        """How it ended, in words."""
        code = self._server.wait()
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def backends(self) -> dict[int, str]:
        """The processes that it started for its backends, and their command lines; none if the system tells none."""
        found: dict[int, str] = {}
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{self.pid}/task").iterdir():
                with contextlib.suppress(OSError):
                    for child in (task / "children").read_text().split():
                        found[int(child)] = Path(f"/proc/{child}/cmdline").read_bytes().decode(errors="replace")
        return {pid: command for pid, command in found.items() if command}  # the dead have none: nobody reaps them

    @staticmethod
    def runs(pid: int) -> bool:
        """Whether there is such a process, and not only what is left of it; it takes far less than `backends`."""
        return _state(pid) not in ("", "Z")

    def stopped(self, pids: Iterable[int]) -> frozenset[int]:
        """Those that are stopped while the server itself is not."""
        found = frozenset(pid for pid in pids if _state(pid) == "T")
        return found if found and _state(self.pid) != "T" else frozenset()

    def complaints(self, most: int = 3) -> str:
        """The last errors of its log, on a line."""
        lines = self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()
        errors = [line.partition("] ")[2] or line for line in lines if line[:1] in "EF" or "rror" in line]
        return "; ".join(dict.fromkeys(line.strip() for line in (errors or lines)[-most:]))

    def stop(self, grace: float = GRACE, ghosts: int = 0, began: Callable[[], Iterable[float]] | None = None) -> bool:
        """Ends it: it answers what it has accepted, and nothing new. False if it had to be killed after `grace` s.

        Triton never gets rid of a model whose backend has died: of those there are `ghosts`, and when it waits for
        nothing else it is done. It waits for connections to close too: `began` tells when each run began that it is
        in, and after `LINGER` s it is done when there is no long one left; None where nobody knows.
        """
        told = calm = time.monotonic()
        try:
            self._server.terminate()
            while self.alive() and not (ghosts and self._waits_for() <= ghosts):
                now = time.monotonic()
                if now - told > grace:
                    return False
                if began is not None:
                    calm = now if any(now - at > LONG for at in began()) else calm
                    if now - told > LINGER and now - calm > CALM:
                        return True
                time.sleep(0.05)
            return True
        finally:
            self._clean_up()

    def _waits_for(self) -> float:
        """How many models it said last that it waits for; infinite before it says so."""
        said = WAITING.findall(self.log_path.read_text(encoding="utf-8", errors="replace"))
        return float(said[-1]) if said else float("inf")

    def _clean_up(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._server.wait()
        with contextlib.suppress(OSError):
            for region in SHARED_MEMORY.glob(f"{self._shared_memory}*"):
                region.unlink(missing_ok=True)
        shutil.rmtree(self.scratch, ignore_errors=True)
        with contextlib.suppress(BrokenPipeError, ValueError):
            assert self._guard.stdin is not None
            self._guard.stdin.write(b"done\n")
            self._guard.stdin.close()
        self._guard.wait()
