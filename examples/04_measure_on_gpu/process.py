"""Orders → what a process of `child.py` finds, row by row: one process for many orders, a new one after a failure.

Python, PyTorch and CUDA take seconds to start, and there are over a hundred orders. One that fails or hangs has its
row, and takes the process with it.
"""

import contextlib
import json
import re
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

CHILD = (sys.executable, str(Path(__file__).parent / "child.py"))
FOUND, DONE = "FOUND ", "DONE"
END_SECONDS = 10.0  # for what Python does at its end
KERNEL = re.compile(r"SdpaKernel=(\w+)")


class Child:
    """A process that takes orders, in that environment; the first starts it, and it ends with the `with` block."""

    def __init__(self, environment, command=CHILD):
        self.environment, self.command, self.process = environment, command, None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.end()

    def end(self):
        """Without an order to come a child ends by itself; the next one begins in a new process."""
        if self.process is not None:
            self.process.stdin.close()
            self._end(END_SECONDS)

    def findings(self, order, seconds):
        """What it finds for the order, as it is found; at the end its kernels, and why it failed."""
        if self.process is None:
            self.process = self._started()
        late = threading.Event()
        watchdog = threading.Timer(seconds, self._kill, (self.process, late))
        watchdog.start()
        said, chosen, done, code, patience = [], Counter(), False, None, 0.0
        try:
            self._send(order)
            for line in self.process.stdout:
                chosen.update(KERNEL.findall(line))
                done = line.rstrip("\n") == DONE
                if done:
                    break
                if line.startswith(FOUND):
                    yield json.loads(line.removeprefix(FOUND))
                elif line.strip():
                    said.append(line.strip())
            else:  # it closed its output, and is about to end
                patience = END_SECONDS
        finally:
            watchdog.cancel()
            if not done or late.is_set():
                code = self._end(patience)
        if chosen:
            yield {"attention": dict(chosen)}
        if not done:
            reason = said[-1][:400] if said else f"the process ended with {code} and said nothing"
            yield {"failed": f"it had {seconds:.0f} s" if late.is_set() else reason}

    def _started(self):
        return subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", env=self.environment,
        )  # fmt: skip

    def _send(self, order):
        with contextlib.suppress(BrokenPipeError):  # one that has ended tells in its output why
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()

    @staticmethod
    def _kill(process, late):
        late.set()
        process.kill()

    def _end(self, patience):
        """Its exit code, negative for a signal; it is killed if it does not end within so many seconds."""
        process, self.process = self.process, None
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
        process.kill()
        code = process.wait()
        process.stdout.close()
        with contextlib.suppress(BrokenPipeError):  # an order that it never read
            process.stdin.close()
        return code
