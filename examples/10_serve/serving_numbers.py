"""What a live service costs beside its own session, and what is lost when it ends, changes or is struck."""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from safetensors.numpy import save_file

import aaexport
from aaexport.errors import ServiceError
from aaexport.folder import checkout, tool_versions
from aaexport.load.machine import MachineWatch
from aaexport.pipeline.subject.subject import write_random_weights
from aaexport.runners.ort import OrtRunner
from aaexport.runners.ort_settings import SessionSettings
from aaexport.serving.client import Client
from aaexport.serving.rest_codec import model_json
from aaexport.writing import write_json

SCHEMA = "aaexport.serving-example/1"
FREE = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", "--json", "--threads", "1")
CLIENTS = 16
ALLOWED = 1e-4  # of an answer, by the largest expected number: a batch of another size is summed in another order


def main():
    arguments = parsed()
    with tempfile.TemporaryDirectory() as room:
        folder = prepared(arguments.model, Path(room))
        watch = MachineWatch()
        rows = {part: PARTS[part](folder, arguments) for part in arguments.parts}
        machine = watch.environment()
    print(json.dumps(rows, indent=2))
    if arguments.json is not None:
        keep(arguments, SCHEMA, machine, parts=rows)


def keep(arguments, schema, machine, **found):
    """Writes what was found to the file of `--json`, with what it was found on."""
    facts = {"schema": schema, "model": arguments.model, "cpu": machine.cpu, "cores": machine.cores}
    shares = {"steal_share": machine.steal_share, "other_load_share": machine.other_load_share}
    write_json(arguments.json, {**facts, **shares, "tools": tool_versions(), **found})


def parsed():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", default="aa_cnn3_digits", help="a zoo model, or a folder of one that is converted already"
    )
    parser.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS), help=",".join(PARTS))
    parser.add_argument("--pairs", type=int, default=7, help="of blocks in alternation")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a block")
    parser.add_argument("--queries", type=int, default=200, help="of each of 64 clients")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    return parser.parse_args()


def prepared(model, room):
    """A converted folder with golden vectors: a copy, so that a second run begins as the first."""
    folder = checkout(model, room / Path(model).name)
    write_random_weights(folder)
    converted = Path(model) / "model.onnx"
    if converted.is_file():
        shutil.copyfile(converted, folder.onnx_path)
    else:
        aaexport.convert(folder, verify=False)
    if not folder.golden_path.exists():
        give_golden(folder)
    folder.write_manifest()
    return folder


def give_golden(folder):
    """By the file itself: what is measured is the wire."""
    asked = images(folder, 4)
    with session(folder) as runner:
        save_file({"input": asked, **runner.infer({"input": asked})}, folder.golden_path)


def images(folder, count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, *folder.recipe.input.shape), dtype=np.float32)


def session(folder):
    return OrtRunner(folder.onnx_path, SessionSettings(threads=1))


@contextmanager
def service(folder, *words, room=None):
    """`aaexport serve`, ready: the process, what it said, the seconds until then; in `room` by the zoo's name."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "aaexport", "serve", folder.name if room else str(folder.path), *FREE, *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=room)
    said = []
    reader = threading.Thread(target=lambda: said.extend(iter(process.stderr.readline, "")), daemon=True)
    reader.start()
    line = process.stdout.readline()
    try:
        if not line:
            raise SystemExit("".join(said))
        yield process, json.loads(line), said, time.perf_counter() - began
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        process.stdout.close()
        reader.join()
        process.stderr.close()


def ready(folder, arguments):
    seconds, memory = [], []
    for _ in range(3):
        with service(folder) as (process, _, _, took):
            seconds.append(took)
            memory.append(sum(proportional_set(pid) for pid in family(process.pid)) / 2**20)
        (folder.path / "served" / "served.json").unlink(missing_ok=True)
    return {"seconds": seconds, "memory_mib": memory}


def fresh(folder, arguments):
    """Seconds from nothing but what is installed: the zoo's model is copied, converted and verified first."""
    with tempfile.TemporaryDirectory() as room, service(folder, room=room) as (_, _, _, took):
        return {"seconds": took}


def family(pid):
    found = {pid}
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found |= family(int(child))
    return found


def proportional_set(pid):
    """Bytes of its memory, what it shares counted by its share (Pss of proc(5))."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) * 1024


def overhead(folder, arguments):
    """Medians of alternating blocks in ms; a server that answers with zeros tells the client's own part."""
    asked = {"input": images(folder, 1)}
    name = folder.name
    with ExitStack() as stack:
        _, facts, _, _ = stack.enter_context(service(folder))
        runner = stack.enter_context(session(folder))
        clients = {way: stack.enter_context(Client(facts[way])) for way in ("rest", "grpc")}
        model = clients["rest"].model(name)
        for way, kind in (("rest", "http"), ("grpc", "grpc")):
            url = stack.enter_context(null_server(kind, model))
            clients[f"null_{way}"] = stack.enter_context(Client(url))
        ways = {"direct": lambda: runner.infer(asked)}
        ways |= {way: partial(client.infer, name, asked) for way, client in clients.items()}
        medians = {way: [] for way in ways}
        for turn in range(arguments.pairs + 1):
            for way, ask in ways.items():
                median = block(ask, arguments.seconds)
                if turn:  # the first warms up
                    medians[way].append(median)
    return {"median_ms": medians, "added": {way: added(medians, way) for way in ("rest", "grpc")}}


def added(medians, way):
    """What is added to the session's own time, and how much of it is not the client's; by blocks in pairs."""
    direct, wire, null = medians["direct"], medians[way], medians[f"null_{way}"]
    over = [a - b for a, b in zip(wire, direct, strict=True)]
    server = [a - b for a, b in zip(over, null, strict=True)]
    share = statistics.median(over) / statistics.median(direct)
    return {"ms": statistics.median(over), "share": share, "without_the_client_ms": statistics.median(server)}


@contextmanager
def null_server(kind, model):
    command = [sys.executable, "-m", "aaexport.serving.null_server"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdin.write(json.dumps({"kind": kind, "model": model_json(model)}) + "\n")
        process.stdin.flush()
        yield f"{kind}://127.0.0.1:{json.loads(process.stdout.readline())['port']}"
        process.stdin.close()


def block(ask, seconds):
    taken = []
    deadline = time.perf_counter() + seconds
    while not taken or time.perf_counter() < deadline:
        began = time.perf_counter()
        ask()
        taken.append((time.perf_counter() - began) * 1e3)
    return statistics.median(taken)


def throughput(folder, arguments):
    """Answers a second to 16 threads of this process, by the session itself and over gRPC."""
    asked = {"input": images(folder, 1)}
    found = {"session": [], "batching": [], "one_by_one": []}
    for _ in range(3):
        with session(folder) as runner:
            found["session"].append(rate(lambda: runner.infer(asked), arguments.seconds))
        for way, words in (("batching", ()), ("one_by_one", ("--no-batching",))):
            with service(folder, *words) as (_, facts, _, _), Client(facts["grpc"]) as client:
                rate(lambda client=client: client.infer(folder.name, asked), 0.5)
                found[way].append(rate(lambda client=client: client.infer(folder.name, asked), arguments.seconds))
    return found


def rate(ask, seconds):
    counts = [0] * CLIENTS
    deadline = time.perf_counter() + seconds

    def run(number):
        while time.perf_counter() < deadline:
            ask()
            counts[number] += 1

    in_threads(run, CLIENTS)
    return sum(counts) / seconds


def in_threads(run, count):
    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Asking:
    """Clients that ask and compare, each with a connection of its own, until they are told to stop."""

    def __init__(self, folder, urls, *, retry_for, clients=CLIENTS, queries=None):
        self.name, self.urls, self.retry_for, self.queries = folder.name, urls, retry_for, queries
        self.asked = images(folder, 64, seed=1)
        self.expected = [answers(folder, self.asked)]
        self.right, self.wrong, self.failed = 0, 0, []
        self.last_right, self.longest = time.perf_counter(), 0.0
        self._lock, self.stopping = threading.Lock(), threading.Event()
        self.thread = threading.Thread(target=in_threads, args=(self._run, clients), daemon=True)

    def _run(self, number):
        with Client(self.urls[number % len(self.urls)], retry_for=self.retry_for) as client:
            turn = 0
            while not self.stopping.is_set() and turn != self.queries:
                row = (number * 7 + turn) % 64
                sent = time.perf_counter()
                try:
                    answer = client.infer(self.name, {"input": self.asked[row : row + 1]}).outputs["logits"]
                except ServiceError as error:
                    with self._lock:
                        self.failed.append((sent, str(error)))
                    if self.retry_for == 0 and "refused" in str(error) and self.stopping.is_set():
                        return
                    time.sleep(0.01)
                    continue
                finally:
                    turn += 1
                self._judge(row, answer)

    def _judge(self, row, answer):
        largest = [float(np.abs(one).max()) for one in self.expected]
        is_right = any(
            np.abs(one[row] - answer[0]).max() <= ALLOWED * most
            for one, most in zip(self.expected, largest, strict=True)
        )
        now = time.perf_counter()
        with self._lock:
            self.right += is_right
            self.wrong += not is_right
            self.longest = max(self.longest, now - self.last_right)
            self.last_right = now

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.thread.join()


def answers(folder, asked):
    with session(folder) as runner:
        return runner.infer({"input": asked})["logits"]


def many(folder, arguments):
    """64 clients, over each protocol by itself."""
    found = {}
    with service(folder) as (_, facts, _, _):
        for way in ("rest", "grpc"):
            asking = Asking(folder, [facts[way]], retry_for=0, clients=64, queries=arguments.queries)
            began = time.perf_counter()
            asking.thread.start()
            asking.thread.join()
            seconds = time.perf_counter() - began
            found[way] = {
                "asked": 64 * arguments.queries, "right": asking.right, "wrong": asking.wrong,
                "failed": len(asking.failed), "errors": sorted({text for _, text in asking.failed})[:3],
                "seconds": seconds,
            }  # fmt: skip
    return found


def drain(folder, arguments):
    """SIGTERM while 16 clients ask: what had been sent before must be answered."""
    with service(folder) as (process, facts, _, _):
        with Asking(folder, [facts["rest"], facts["grpc"]], retry_for=0) as asking:
            time.sleep(2)
            told = time.perf_counter()
            process.send_signal(signal.SIGTERM)
            code = process.wait()
            ended = time.perf_counter() - told
        lost = [text for sent, text in asking.failed if sent < told]
    return {"right": asking.right, "wrong": asking.wrong, "accepted_and_lost": len(lost), "lost": lost[:3],
            "refused_later": len(asking.failed) - len(lost), "seconds_to_end": ended, "exit_code": code}  # fmt: skip


def change(folder, arguments):
    """A conversion with other weights takes over while 16 clients ask without a second try."""
    with (
        service(folder, "--watch") as (_, facts, said, _),
        Asking(folder, [facts["rest"], facts["grpc"]], retry_for=0) as asking,
    ):
        time.sleep(1)
        other = changed(folder)
        asking.expected.append(answers_of(other, asking.asked))
        put(folder, other)
        seconds = waits_for(said, "serves instead of")
        time.sleep(1)
    return {"right": asking.right, "wrong": asking.wrong, "lost": len(asking.failed), "errors": asking.failed[:3],
            "seconds": seconds, "longest_without_an_answer_s": asking.longest}  # fmt: skip


def changed(folder):
    model = onnx.load(folder.onnx_path)
    for tensor in model.graph.initializer:
        numbers = numpy_helper.to_array(tensor)
        if numbers.dtype == np.float32 and numbers.size > 64:
            tensor.CopyFrom(numpy_helper.from_array(numbers * np.float32(1.01), tensor.name))
    path = folder.path.parent / "other.onnx"
    onnx.save(model, path)
    return path


def answers_of(path, asked):
    with OrtRunner(path, SessionSettings(threads=1)) as runner:
        return runner.infer({"input": asked})["logits"]


def put(folder, path):
    """As a conversion does: golden vectors, the file, and at last the manifest."""
    asked = images(folder, 4)
    save_file({"input": asked, "logits": answers_of(path, asked)}, folder.golden_path)
    shutil.copyfile(path, folder.path / ".new")
    (folder.path / ".new").replace(folder.onnx_path)
    folder.write_manifest()


def kill(folder, arguments):
    """SIGKILL of the backend while 16 clients ask that try again."""
    with (
        service(folder) as (process, facts, said, _),
        Asking(folder, [facts["rest"], facts["grpc"]], retry_for=30) as asking,
    ):
        time.sleep(1)
        os.kill(backend_of(process.pid, folder.name), signal.SIGKILL)
        waits_for(said, "answers right again")
        time.sleep(1)
    return {"right": asking.right, "wrong": asking.wrong, "lost": len(asking.failed), "errors": asking.failed[:3],
            "longest_without_an_answer_s": asking.longest}  # fmt: skip


def backend_of(pid, name):
    for each in family(pid):
        command = Path(f"/proc/{each}/cmdline").read_bytes()
        if b"python_backend_stub" in command and f"/{name}/".encode() in command:
            return each
    raise SystemExit("there is no such backend")


def waits_for(said, words, seconds=120):
    began = time.perf_counter()
    while not any(words in line for line in said):
        if time.perf_counter() - began > seconds:
            raise SystemExit("".join(said))
        time.sleep(0.02)
    return time.perf_counter() - began


PARTS = {
    "ready": ready, "fresh": fresh, "overhead": overhead, "throughput": throughput, "answers": many, "drain": drain,
    "change": change, "kill": kill,
}  # fmt: skip


if __name__ == "__main__":
    main()
