"""How a live service ends: nothing accepted is lost, and no process of it stays, whatever ended it."""

import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from live_services import FREE, below, give_golden, require_engine, runs, service

from aaexport.errors import ServiceError
from aaexport.folder import open_folder
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
        time.sleep(1)
        told = time.monotonic()
        live.process.send_signal(signal.SIGTERM)
        time.sleep(1)
        stopping.set()
        for thread in threads:
            thread.join()
        assert live.process.wait(60) == 0
    assert len(answered) > 8
    assert not [error for sent, error in failed if sent < told]


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
