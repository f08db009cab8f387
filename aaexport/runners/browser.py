"""A headless Chromium with one page, driven over the DevTools protocol's pipe: no port is opened, no library needed.

The protocol is JSON texts that end with a zero byte, read by Chromium from its descriptor 3 and written to 4.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from aaexport.errors import ProviderError, RunnerError

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
START_TIMEOUT, TIMEOUT = 60.0, 120.0  # seconds, of one answer
END_TIMEOUT = 5.0
FEW_LINES = 3  # of what a browser says that does not start, which are told whole
PIECE = 2**16  # bytes of a read
QUIET = (
    "--no-first-run", "--no-default-browser-check", "--disable-background-networking", "--disable-component-update",
    "--disable-default-apps", "--disable-extensions", "--disable-sync", "--mute-audio", "--hide-scrollbars",
    "--disable-dev-shm-usage",
)  # fmt: skip
WITHOUT_GPU = ("--disable-gpu",)
# A GPU that is computed on the CPU, so that WebGPU is there without one.
WITH_WEBGPU = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan")
# Becomes Chromium, with the two ends of the pipes where it looks for them.
BECOME = (
    "import os, sys\n"
    "os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4)\n"
    "os.execv(sys.argv[3], sys.argv[3:])\n"
)
FIRST_FREE = 10  # descriptors above those that are set


def find_browser() -> str | None:
    """The Chromium or Chrome on the PATH; None without one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def require_browser() -> str:
    """The same; ProviderError, which says what to do, without one."""
    found = find_browser()
    if found is None:
        raise ProviderError(
            f"a browser must be on the PATH, {' or '.join(NAMES)}, got none; install one: apt-get install chromium"
        )
    return found


class Browser:
    """A page of a new headless Chromium, with a profile of its own that goes with it.

    Attributes:
        events: what Chromium told without being asked, oldest first.

    Raises:
        ProviderError: there is no Chromium, or it does not start.
    """

    def __init__(self, options: Sequence[str] = WITHOUT_GPU) -> None:
        executable = require_browser()
        self._profile = tempfile.TemporaryDirectory(prefix="aaexport-browser-", ignore_cleanup_errors=True)
        sandbox = ("--no-sandbox",) if hasattr(os, "geteuid") and os.geteuid() == 0 else ()  # root may have none
        own = ("--headless=new", "--remote-debugging-pipe", f"--user-data-dir={self._profile.name}")
        self._log = Path(self._profile.name) / "stderr.txt"
        self._left, self._number, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._send = self._receive = -1
        try:
            self._start([executable, *own, *sandbox, *QUIET, *options, "about:blank"])
            self._attach()
        except (RunnerError, OSError) as error:
            self.close()
            raise ProviderError(f"{executable} does not start: {error}") from error
        except BaseException:
            self.close()
            raise

    def _start(self, command: Sequence[str]) -> None:
        """A group of processes, which is ended as one."""
        theirs_in, self._send = _pipe()
        with _closed_afterwards(theirs_in):
            self._receive, theirs_out = _pipe()
            with _closed_afterwards(theirs_out), self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", BECOME, str(theirs_in), str(theirs_out), *command],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(theirs_in, theirs_out),
                    start_new_session=True,
                )  # fmt: skip

    def _attach(self) -> None:
        """To the page that it begins with."""
        until = time.monotonic() + START_TIMEOUT
        pages: list[dict[str, Any]] = []
        while not pages and time.monotonic() < until:
            targets = self.call("Target.getTargets", timeout=START_TIMEOUT)["targetInfos"]
            pages = [target for target in targets if target["type"] == "page"]
        if not pages:
            raise RunnerError("it opens no page")
        to = {"targetId": pages[0]["targetId"], "flatten": True}
        self._session = self.call("Target.attachToTarget", to)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Inspector", "Network"):
            self.call(f"{domain}.enable")

    def call(
        self, method: str, parameters: dict[str, Any] | None = None, *, timeout: float = TIMEOUT
    ) -> dict[str, Any]:
        """Asks for a method of the protocol. RunnerError if it fails, or gives no answer in so many seconds."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters or {}}
        if self._session:
            message["sessionId"] = self._session
        self._write(json.dumps(message).encode() + b"\0")
        until = time.monotonic() + timeout
        while True:
            told = self._read(until, method)
            if told.get("id") == self._number:
                break
            if "id" not in told:
                self._note(told)
        if "error" in told:
            raise RunnerError(f"the browser refuses {method}: {told['error'].get('message')}")
        result: dict[str, Any] = told["result"]
        return result

    def evaluate(self, expression: str, *, timeout: float = TIMEOUT) -> Any:
        """The value of a JavaScript expression in the page, a promise's once it is there.

        RunnerError with its first line if it throws.
        """
        asked = {"expression": expression, "awaitPromise": True, "returnByValue": True, "userGesture": True}
        told = self.call("Runtime.evaluate", asked, timeout=timeout)
        if "exceptionDetails" in told:
            details = told["exceptionDetails"]
            thrown = details.get("exception", {})
            text = thrown.get("description") or str(thrown.get("value", details.get("text")))
            raise RunnerError(text.splitlines()[0].removeprefix("Error: ") if text else "it throws nothing")
        return told["result"].get("value")

    def open(self, url: str) -> None:
        """Loads a page; what it does afterwards, `evaluate` can wait for. RunnerError if it cannot be loaded."""
        told = self.call("Page.navigate", {"url": url})
        if told.get("errorText"):
            raise RunnerError(f"the browser cannot open {url}: {told['errorText']}")
        self.evaluate(
            "new Promise(done => document.readyState === 'complete' ? done() : addEventListener('load', done))"
        )

    def _note(self, told: dict[str, Any]) -> None:
        if told.get("method") == "Inspector.targetCrashed":
            raise RunnerError("the browser's page crashed; it may have had too little memory")
        self.events.append(told)

    def _write(self, message: bytes) -> None:
        try:
            while message:
                message = message[os.write(self._send, message) :]
        except OSError as error:
            raise RunnerError(self._why_gone()) from error

    def _read(self, until: float, method: str) -> dict[str, Any]:
        pieces = [self._left]
        while b"\0" not in pieces[-1]:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self._receive], [], [], left)[0]:
                self._left = b"".join(pieces)
                raise RunnerError(f"the browser gave no answer to {method} in time")
            piece = os.read(self._receive, PIECE)
            if not piece:
                raise RunnerError(self._why_gone())
            pieces.append(piece)
        message, _, self._left = b"".join(pieces).partition(b"\0")
        told: dict[str, Any] = json.loads(message)
        return told

    def _why_gone(self) -> str:
        said = _last_words(self._log.read_text(encoding="utf-8", errors="replace"))
        return f"the browser ended{f', and said: {said}' if said else ''}"

    def close(self) -> None:
        """Ends it, and all that belongs to it, as far as it has been started. A second time does nothing."""
        for end in (self._send, self._receive):
            if end >= 0:
                os.close(end)
        self._send = self._receive = -1
        process, self._process = self._process, None
        if process is not None:
            # Without its pipe it ends by itself; what has not is made to.
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_TIMEOUT)
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._profile.cleanup()

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _last_words(log: str) -> str:
    """What ended it, in one line: its last fatal one, else all of the few that there are, else the last one."""
    lines = [" ".join(line.split()) for line in log.splitlines() if line.strip()]
    fatal = [line for line in lines if ":FATAL:" in line]
    return (fatal or [" ".join(lines) if len(lines) <= FEW_LINES else lines[-1]])[-1]


@contextmanager
def _closed_afterwards(end: int) -> Iterator[None]:
    """Theirs, of which they have a copy when the block ends."""
    try:
        yield
    finally:
        os.close(end)


def _pipe() -> tuple[int, int]:
    """The ends to read and to write, on descriptors that are free in Chromium."""
    ends = os.pipe()
    moved = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, FIRST_FREE) for end in ends)
    for end in ends:
        os.close(end)
    return moved[0], moved[1]
