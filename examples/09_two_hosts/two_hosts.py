"""Runs a Ray Serve deployment on two hosts, and takes one away under load: every query must be answered, and right.

    aaexport deploy aa_cnn3_digits --to ray --out deployed
    sudo python two_hosts.py deployed [--queries 5000] [--loss kill|cut]

The hosts are two network namespaces of this machine, joined by a bridge, so that nothing but the network connects
them. It needs Linux, root, iproute2, and `ray[serve]` in the Python that runs it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from aaexport.serving.client import Client

BRIDGE, NETWORK = "aabridge", "10.77.3"
HOSTS = {"aahost1": f"{NETWORK}.1", "aahost2": f"{NETWORK}.2"}  # the second is lost
OWN_ADDRESS = f"{NETWORK}.254"
CLIENTS = 16
TIMEOUT = 5.0  # seconds for one attempt: a host that is cut off answers nothing, not even that it is
RETRY_FOR = 20.0
SMALL = ("--num-cpus=2", "--object-store-memory=100000000", "--disable-usage-stats", "--include-dashboard=false")


@dataclass
class Outcome:
    """What became of the queries."""

    answered: int = 0
    wrong: int = 0
    lost: int = 0
    retried: int = 0
    slowest: float = 0.0  # seconds
    median: float = 0.0


def run(*words: str, check: bool = True) -> str:
    """Runs a command and gives what it printed."""
    return subprocess.run(words, check=check, capture_output=True, text=True).stdout


@contextmanager
def two_hosts() -> Iterator[None]:
    """The namespaces and the bridge; all of it, and every process inside, is gone at the end."""
    try:
        run("ip", "link", "add", BRIDGE, "type", "bridge")
        run("ip", "address", "add", f"{OWN_ADDRESS}/24", "dev", BRIDGE)
        run("ip", "link", "set", BRIDGE, "up")
        for name, address in HOSTS.items():
            run("ip", "netns", "add", name)
            run("ip", "link", "add", f"{name}-v", "type", "veth", "peer", "name", "eth0", "netns", name)
            run("ip", "link", "set", f"{name}-v", "master", BRIDGE, "up")
            run("ip", "-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                run("ip", "-n", name, "link", "set", device, "up")
        yield
    finally:
        for name in HOSTS:
            kill_all(name)
            run("ip", "link", "del", f"{name}-v", check=False)
            run("ip", "netns", "del", name, check=False)
        run("ip", "link", "del", BRIDGE, check=False)


def kill_all(host: str) -> None:
    """Every process of a host, at once and without a word: as when its power goes."""
    for process in run("ip", "netns", "pids", host, check=False).split():
        with suppress(ProcessLookupError):
            os.kill(int(process), signal.SIGKILL)


def on(host: str, folder: Path, *words: str, room: Path) -> None:
    """Runs a command on a host, in the deployment's folder; SystemExit with what it said if it fails."""
    paths = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    own = {"PYTHONPATH": paths, "RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_DOCKER_CPU_WARNING": "1",
           "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}  # fmt: skip
    said = room / f"{host}.log"
    with said.open("a") as log:
        done = subprocess.run(
            ["ip", "netns", "exec", host, *words],
            cwd=folder,
            env=os.environ | own,
            stdout=log,
            stderr=log,
            check=False,
        )
    if done.returncode:
        raise SystemExit(f"{host}: {' '.join(words)} failed:\n{said.read_text()[-4000:]}")


def start(folder: Path, room: Path) -> None:
    """Ray on both hosts, and the application on them."""
    first, second = HOSTS
    head = f"{HOSTS[first]}:6379"
    on(first, folder, "ray", "start", "--head", f"--node-ip-address={HOSTS[first]}", "--port=6379",
       f"--temp-dir={room / 'ray'}", *SMALL, room=room)  # fmt: skip
    on(second, folder, "ray", "start", f"--address={head}", f"--node-ip-address={HOSTS[second]}", *SMALL[:-1],
       room=room)  # fmt: skip
    on(first, folder, sys.executable, "application.py", room=room)


def questions(folder: Path, count: int) -> tuple[str, str, str, np.ndarray, np.ndarray]:
    """The model's name, input and output; random images, and what onnxruntime answers here."""
    about = json.loads((folder / "model.json").read_text())
    session = onnxruntime.InferenceSession(str(folder / "model" / about["onnx"]))
    asked, told = about["inputs"][0]["name"], about["outputs"][0]["name"]
    images = np.random.default_rng(0).standard_normal((count, *about["inputs"][0]["shape"][1:]), dtype=np.float32)
    answers = [session.run([told], {asked: images[at : at + 250]})[0] for at in range(0, count, 250)]
    return about["name"], asked, told, images, np.concatenate(answers)


def load(folder: Path, count: int, lose: str) -> Outcome:
    """So many queries of retrying clients; the second host goes when a third of them was sent."""
    name, asked, told, images, answers = questions(folder, count)
    urls = [f"http://{address}:8000" for address in HOSTS.values()]
    outcome, lock, took = Outcome(), threading.Lock(), []
    numbers = iter(range(count))

    def work(client: Client) -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            if number == count // 3:
                LOSSES[lose]()
            began = time.perf_counter()
            try:
                found = client.infer(name, {asked: images[number : number + 1]}).outputs[told]
            except Exception as error:  # noqa: BLE001  whatever it is, the query is lost
                print(f"query {number}: {error}", file=sys.stderr)
                with lock:
                    outcome.lost += 1
                continue
            seconds = time.perf_counter() - began
            with lock:
                took.append(seconds)
                outcome.answered += 1
                outcome.wrong += not np.abs(found[0] - answers[number]).max() < 1e-4

    with Client(urls, timeout=TIMEOUT, retry_for=RETRY_FOR) as client:
        client.infer(name, {asked: images[:1]})
        with ThreadPoolExecutor(CLIENTS) as pool:
            for future in [pool.submit(work, client) for _ in range(CLIENTS)]:
                future.result()
        outcome.retried = client.retried
    outcome.slowest, outcome.median = max(took), float(np.median(took))
    return outcome


def cut() -> None:
    """The second host's link goes down; its processes live on, and nobody hears of them."""
    run("ip", "link", "set", f"{list(HOSTS)[1]}-v", "down")


LOSSES = {"none": lambda: None, "kill": lambda: kill_all(list(HOSTS)[1]), "cut": cut}


def main(arguments: Sequence[str] | None = None) -> Outcome:
    """Prints what became of the queries."""
    parser = argparse.ArgumentParser(description="A Ray Serve deployment on two hosts, one of which is lost.")
    parser.add_argument("folder", type=Path, help="what `aaexport deploy --to ray` wrote")
    parser.add_argument("--queries", type=int, default=5000)
    parser.add_argument("--loss", choices=sorted(LOSSES), default="kill", help="how the second host is lost")
    given = parser.parse_args(arguments)
    if not (given.folder / "application.py").is_file():
        parser.error(f"folder must be what `aaexport deploy --to ray` wrote, got {given.folder}")
    # Sockets lie in Ray's folder, and their names must be short.
    with tempfile.TemporaryDirectory(prefix="aa", dir="/tmp") as room, two_hosts():
        start(given.folder.resolve(), Path(room))
        outcome = load(given.folder.resolve(), given.queries, given.loss)
    print(
        f"{given.loss}: {outcome.answered} of {given.queries} answered, {outcome.wrong} wrong, {outcome.lost} lost; "
        f"{outcome.retried} attempts more than queries; median {outcome.median * 1000:.0f} ms, "
        f"slowest {outcome.slowest * 1000:.0f} ms"
    )
    return outcome


if __name__ == "__main__":
    outcome = main()
    sys.exit(0 if not outcome.wrong and not outcome.lost else 1)
