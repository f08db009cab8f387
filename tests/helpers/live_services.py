"""`aaexport serve` as its users start it: a process that says on one line where it answers."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

FREE = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
SECONDS = 60


def require_engine():
    """Skips where nothing could serve, and says why."""
    from aaexport.errors import EngineError
    from aaexport.serving.engine import find_engine

    pytest.importorskip("grpc", reason="grpcio is not installed")
    try:
        find_engine()
    except EngineError as error:
        pytest.skip(f"no engine: {error}")


class LiveService:
    """A service that is ready; `said` are its lines on stderr so far."""

    def __init__(self, process, facts, said):
        self.process, self.facts, self.said = process, facts, said

    @property
    def urls(self):
        return [self.facts["rest"], self.facts["grpc"]]

    def waits_for(self, words, seconds=SECONDS):
        """Returns the first line with these words."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for line in list(self.said):
                if words in line:
                    return line
            assert self.process.poll() is None, f"it ended: {self.said}"
            time.sleep(0.05)
        raise AssertionError(f"{words!r} was not said: {self.said}")

    def family(self):
        """Every process that it started, however deep."""
        return below(self.process.pid)

    def ends(self, number=signal.SIGTERM):
        """Its exit code after this signal."""
        self.process.send_signal(number)
        return self.process.wait(SECONDS)


@contextmanager
def service(*words, env=None, program=("-m", "aaexport")):
    """Runs `aaexport serve WORDS` on free ports, until the block ends; `program` where it is to be another."""
    command = [sys.executable, *program, "serve", *map(str, words), *FREE, "--json"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})}
    )
    said = []
    reader = threading.Thread(target=lambda: said.extend(iter(process.stderr.readline, "")), daemon=True)
    reader.start()
    try:
        line = process.stdout.readline()
        assert line, f"it ended with {process.wait(SECONDS)}: {''.join(said)}"
        yield LiveService(process, json.loads(line), said)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(SECONDS)
        process.stdout.close()
        reader.join(SECONDS)
        process.stderr.close()


def backends_of(live, name):
    """The processes of a model."""
    return [pid for pid in sorted(live.family()) if f"/{name}/" in _command(pid) and "backend_stub" in _command(pid)]


def _command(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def runs(pid):
    """Whether there is such a process, and not only what is left of it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def below(pid):
    """The processes that one has started, however deep; those that end meanwhile are left out."""
    found = set()
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return found
    for task in tasks:
        with suppress(OSError):
            for child in map(int, (task / "children").read_text().split()):
                found |= {child} | below(child)
    return found


def give_golden(folder, count=3):
    """Golden vectors as training writes them, by the file itself: what is asked is whether the wire changes them."""
    from aaexport.runners.ort import OrtRunner

    shape = folder.recipe.input.shape
    images = np.random.default_rng(0).standard_normal((count, *shape), dtype=np.float32)
    with OrtRunner(folder.onnx_path) as runner:
        save_file({"input": images, **runner.infer({"input": images})}, folder.golden_path)
    return images
