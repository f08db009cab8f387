"""How a live service ends: nothing accepted is lost, and no process of it stays, whatever ended it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import hanging_backends
import numpy as np
import pytest
from live_services import FREE, backends_of, below, give_golden, require_engine, runs, service

from aaexport.errors import ServiceError
from aaexport.folder import open_folder
from aaexport.serving.at_work import at_work
from aaexport.serving.client import Client

pytestmark = pytest.mark.slow  # each starts a service of its own


@pytest.fixture(scope="module")
def folder(converted_once, tmp_path_factory):
    require_engine()
    path = tmp_path_factory.mktemp("ending") / "tiny"
    shutil.copytree(converted_once, path)
    folder = open_folder(path)
    give_golden(folder)
    return folder


def gone(pids, seconds=30):
    deadline = time.monotonic() + seconds
    while any(map(runs, pids)):
        assert time.monotonic() < deadline, [pid for pid in pids if runs(pid)]
        time.sleep(0.05)


def until(holds, seconds=30):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_drains_and_ends_with_0(folder, number):
    with service(folder.path) as live:
        family = live.family()
        assert live.ends(number) == 0
        gone(family)


def test_a_signal_drains_while_a_new_conversion_is_prepared(folder):
    """The same network with a remark in its file, which makes it another one."""
    with service(folder.path, "--watch") as live:
        new = folder.path / ".new"
        new.write_bytes(folder.onnx_path.read_bytes() + b"\x32\x01x")
        new.replace(folder.onnx_path)
        folder.write_manifest()
        live.waits_for("a new conversion is checked")
        family = live.family()
        assert live.ends() == 0
        assert not any("serves instead of" in line for line in live.said)
        gone(family)
    assert not list((folder.path / "served").glob(".new.*"))


def test_nothing_stays_behind_when_the_command_is_killed(folder):
    with service(folder.path) as live:
        family = live.family()
        live.process.kill()
        live.process.wait()
        gone(family)


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_what_was_sent_before_the_signal_is_answered(folder, protocol):
    """Or refused in words, as what was still under way: a query is lost whose connection is cut, or that fails."""
    images = np.random.default_rng(0).standard_normal((32, 1, 8, 8), dtype=np.float32)
    answered, failed = [], []
    stopping = threading.Event()

    def ask(url):
        with Client(url, retry_for=0) as client:
            while not stopping.is_set():
                sent = time.monotonic()
                try:
                    answered.append(client.infer("tiny", {"input": images}).outputs["logits"].shape)
                except ServiceError as error:
                    failed.append((sent, error))
                    return

    with service(folder.path) as live:
        threads = [threading.Thread(target=ask, args=(live.facts[protocol],)) for _ in range(8)]
        for thread in threads:
            thread.start()
        until(lambda: len(answered) > 64)
        told = time.monotonic()
        live.process.send_signal(signal.SIGTERM)
        time.sleep(1)
        stopping.set()
        for thread in threads:
            thread.join()
        assert live.process.wait(60) == 0
    assert not [error for sent, error in failed if sent < told and not getattr(error, "is_unknown", False)]


def pending(live):
    """Queries that the server has accepted and not begun to answer."""
    with urllib.request.urlopen(live.facts["metrics"], timeout=30) as response:
        lines = response.read().decode().splitlines()
    (line,) = (line for line in lines if line.startswith('nv_inference_pending_request_count{model="tiny"'))
    return float(line.split()[-1])


@pytest.mark.parametrize("protocol", ["rest", "grpc"])
def test_a_query_that_takes_longer_than_half_a_minute_is_answered_and_so_are_those_behind_it(folder, protocol):
    """What the server itself says to have accepted is answered, every query of it."""
    images, answers = np.zeros((1, 1, 8, 8), np.float32), []
    with service(folder.path, "--check-every", "600s", program=(hanging_backends.__file__,)) as live:
        (process,) = backends_of(live, "tiny")

        def ask():
            with Client(live.facts[protocol], retry_for=0, timeout=60) as client:
                answers.append(client.infer("tiny", {"input": images}).outputs["logits"].shape)

        os.kill(process, signal.SIGUSR2)
        threads = [threading.Thread(target=ask) for _ in range(8)]
        threads[0].start()
        scratch = Path(Path(f"/proc/{process}/cmdline").read_text().partition("\0")[0]).parents[2]
        until(lambda: process in at_work(scratch / "at_work"))
        for thread in threads[1:]:
            thread.start()
        until(lambda: pending(live) == 7)
        told = time.monotonic()
        assert live.ends() == 0
        assert time.monotonic() - told > 30
        for thread in threads:
            thread.join()
    assert answers == [(1, 10)] * 8


def test_ctrl_c_while_it_starts_leaves_nothing(folder):
    command = [sys.executable, "-m", "aaexport", "serve", str(folder.path), *FREE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while "starting Triton" not in process.stderr.readline():
            assert process.poll() is None
        time.sleep(0.5)
        family = below(process.pid)
        assert len(family) > 1
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stdout.read() == ""
        assert process.stderr.read().splitlines()[-1].startswith("Error: interrupted")
    gone(family)


@contextmanager
def converting(room, *words):
    """`aaexport serve` by a zoo model's name in an empty folder, and what it said last when it converts it."""
    command = [sys.executable, "-m", "aaexport", "serve", "aa_wrn10_1_digits", *words]
    with subprocess.Popen(
        command, cwd=room, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("when", ["converting it first", "capturing the module"])
def test_an_end_while_another_process_converts_leaves_nothing(tmp_path, number, when):
    """Neither of what converts, nor of what waits to prepare."""
    require_engine()
    with converting(tmp_path, *FREE) as process:
        while when not in process.stderr.readline():
            assert process.poll() is None
        family = below(process.pid)
        assert len(family) >= 2
        process.send_signal(number)
        assert process.wait(60) == (-signal.SIGKILL if number == signal.SIGKILL else 130)
        assert process.stdout.read() == ""
    gone(family)
    assert not list(tmp_path.rglob("model.onnx*"))


def test_what_is_refused_before_it_converts_leaves_nothing(tmp_path):
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        converting(tmp_path, "--http-port", str(taken.getsockname()[1])) as process,
    ):
        family = set()
        while process.poll() is None:
            family |= set(below(process.pid))
        assert process.returncode == 1
        assert process.stderr.read().startswith("Error: --http-port must be free")
    gone(family)
    assert not list(tmp_path.iterdir())
