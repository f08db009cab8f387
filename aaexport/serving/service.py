"""Models' facts → a running Triton that has answered their golden vectors right, over REST and over gRPC."""

from __future__ import annotations

import contextlib
import io
import math
import os
import secrets
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from aaexport import pixels
from aaexport.errors import EngineError, FolderError, ServiceError, UnprovedError, first_line
from aaexport.runners.base import Array
from aaexport.serving.address import RefusedError
from aaexport.serving.at_work import FOLDER, at_work
from aaexport.serving.bounds import HEAD, largest_query
from aaexport.serving.client import Client
from aaexport.serving.engine import Engine, Ports, command_line
from aaexport.serving.facts import ImageInput
from aaexport.serving.golden import Query, parts
from aaexport.serving.hanging import Hanging
from aaexport.serving.judge import why_wrong
from aaexport.serving.ports import require_shared_memory
from aaexport.serving.process import GRACE, EngineProcess
from aaexport.serving.repository import (
    MOST_IMAGE_BYTES,
    MOST_IMAGE_PIXELS,
    repository_files,
    require_distinct,
    write_files,
)
from aaexport.serving.scratch import new_scratch
from aaexport.serving.served import Served

START_SECONDS = 300.0  # a server loads its models before it answers at all
PROOF_SECONDS = 30.0  # for one golden vector
LOAD_SECONDS = 300.0
BUSY = (429, 503, "RESOURCE_EXHAUSTED", "UNAVAILABLE")
KILL_SECONDS = 2.0  # until a process that was killed is gone
PROBABILITY_OFF = 1e-4  # softmax of logits that are right
TRIAL = ".trial"  # behind a model's name: of a version that nobody may ask yet
Say = Callable[[str], None]


class Service:
    """A Triton server with models.

    Args:
        engine: what runs.
        host: the address that it listens on.
        ports: where.

    Attributes:
        kept: a folder that is gone with the service, for what cannot be kept with the models.

    Raises:
        FolderError: there is no room for temporary files.
        ServiceError: grpcio is not installed.
    """

    def __init__(self, engine: Engine, host: str, ports: Ports) -> None:
        self.engine, self.host, self.ports = engine, host, ports
        self._secret = secrets.token_hex(16)
        self._shared_memory = f"aaexport-{os.getpid()}-{secrets.token_hex(4)}-"
        self._process: EngineProcess | None = None
        self._instances: dict[str, int] = {}
        self._running: dict[str, int] = {}
        self._pids: tuple[int, ...] = ()
        self._ghosts = 0
        self._turns: Counter[str] = Counter()
        self._hanging = Hanging()
        inside = _reachable(host)
        self.rest_url, self.grpc_url = f"http://{inside}:{ports.http}", f"grpc://{inside}:{ports.grpc}"
        self._rest = Client(self.rest_url, timeout=PROOF_SECONDS, retry_for=0)
        self._grpc = Client(self.grpc_url, timeout=PROOF_SECONDS, retry_for=0)
        self._control = Client(
            self.grpc_url,
            timeout=LOAD_SECONDS,
            retry_for=0,
            headers={"triton-grpc-protocol-authorization": self._secret},
        )
        # Last, so that nothing that fails before leaves it behind.
        self._scratch = new_scratch(self._shared_memory)
        self.repository, self.kept = self._scratch.path / "models", self._scratch.path / "served"
        self._at_work = self._scratch.path / "at_work"

    def start(self, models: Sequence[Served]) -> None:
        """Starts the server with these models, and returns when it has answered all their golden vectors right.

        Raises:
            ArgumentError: two would have one name.
            RunnerError: there is no room in shared memory.
            EngineError: the server does not start, or cannot load a model.
            UnprovedError: an answer is wrong.
        """
        require_distinct([model.facts for model in models])
        self._instances = {name: count for model in models for name, count in model.instances.items()}
        require_shared_memory(sum(model.shared_bytes for model in models))
        for model in models:
            self._write(model.available(model.version))
        backends = self.engine.prepared(self._scratch.path)
        most = max(map(_request_bytes, models))
        command = command_line(self.engine, self.repository, backends, self.host, self.ports, self._secret, most)
        command[-1:] = [command[-1], f"--backend-config=python,shm-region-prefix-name={self._shared_memory}"]
        command += [f"--load-model={name}" for model in models for name in model.names]
        self._at_work.mkdir()
        environment = {**self.engine.environment(os.environ), FOLDER: str(self._at_work)}
        self._process = EngineProcess(
            command, environment, self._scratch.path, self._shared_memory, self._scratch.lock
        )
        self._wait_until_live()
        for model in models:
            self.prove(model)
        self._all_is_right()

    @property
    def process(self) -> EngineProcess:
        """The server's."""
        assert self._process is not None, "it was started"
        return self._process

    def _wait_until_live(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not (self._rest.live() and self._grpc.live()):
            if not self.process.alive():
                how, cause = self.process.ended(), self.process.complaints()
                raise EngineError(f"Triton must load its models, but it ended with {how}: {cause}")
            if time.monotonic() > deadline:
                raise EngineError(f"Triton must answer within {START_SECONDS:.0f} s of its start, got no answer")
            time.sleep(0.02)

    def prove(self, model: Served, *, images: bool = True) -> None:
        """Asks all that is known the answers to, over REST and gRPC; with images also the model that takes them.

        Raises:
            UnprovedError: an answer is wrong, or the server refuses to give one.
            ServiceError: there is none in time, or no connection.
        """
        for client in (self._rest, self._grpc):
            self._prove_tensors(client, model)
            if images and model.image is not None:
                self._prove_image(client, model)

    def glance(self, model: Served, name: str) -> None:
        """As `prove`, of one of its names, by the next image alone, over REST and gRPC in turns.

        Large models compute for others too.
        """
        turn = self._turns[name]
        self._turns[name] += 1
        client = (self._rest, self._grpc)[turn % 2]
        if name == model.facts.name:
            asked = list(parts(model.facts.golden, None if model.facts.fixed_batch else 1))
            self._prove_query(client, model, asked[turn // 2 % len(asked)])
        else:
            self._prove_image(client, model)

    def _prove_tensors(self, client: Client, model: Served) -> None:
        fixed, open_sizes = model.facts.fixed_batch, model.facts.has_open_sizes
        for query in model.questions:
            began = time.monotonic()
            self._prove_query(client, model, query)
            # Golden vectors tell nothing of larger images: attention takes the fourth power of their side.
            took = math.inf if open_sizes else time.monotonic() - began
            self._hanging.seen(model.facts.name, took, query.batch, fixed or model.settings.max_batch)

    def _prove_query(self, client: Client, model: Served, query: Query) -> None:
        name = model.facts.name
        answers = _answer(client, name, query.inputs, str(model.version))
        wrong = why_wrong(query, answers, model.dtype, _where(model.settings.device))
        if wrong is not None:
            raise UnprovedError(f"{name} must answer its golden vectors, got {wrong}")

    def _prove_image(self, client: Client, model: Served) -> None:
        """Asks with an image what the classes are, and with its numbers what the scores are."""
        facts, image, version = model.facts, model.image, str(model.version)
        assert image is not None
        content = _picture(image)
        fed = pixels.network_input(content, image.shape, image.mean, image.std, image.crop_share, MOST_IMAGE_PIXELS)
        scores = _answer(client, facts.name, {facts.inputs[0].name: fed}, version)[image.scores][0]
        told = _answer(client, facts.image_name, {"image": np.frombuffer(content, np.uint8)}, version)
        shares = np.exp(scores.astype(np.float64) - scores.max())
        shares /= shares.sum()
        labels = [bytes(row).rstrip(b"\0").decode(errors="replace") for row in told["label"]]
        expected = [image.labels[number] for number in told["class"].tolist()]
        off = np.abs(told["probability"] - shares[told["class"]]).max()
        falling = np.sort(shares)[::-1][: image.top]
        if labels != expected or not max(off, np.abs(falling - told["probability"]).max()) <= PROBABILITY_OFF:
            rule = f"tell the classes of what {facts.name} answers"
            raise UnprovedError(f"{facts.image_name} must {rule}, got {labels}")

    def reload(
        self, model: Served, silent: frozenset[str] = frozenset(), wrong: frozenset[str] = frozenset()
    ) -> None:
        """Unloads what does not answer right, and loads and proves it again; what asks it stays, if it is well.

        The processes of what does not answer at all are ended: whoever waits for them is refused, and asks again.
        `silent` are names that are known to be so, `wrong` those that are known to have answered wrongly: asked
        again, they may be answered right by another process. Raises as `prove`, and UnprovedError if it cannot be
        loaded.
        """
        dead = self.dead_models()
        questions = dict(zip(model.names, (self._prove_tensors, self._prove_image), strict=False))
        for name, ask in questions.items():
            fault = None if name in dead | silent | wrong else self._fault(name, ask, model)
            is_silent = name in silent or (fault is not None and is_late(fault))
            if is_silent:
                self._end_backend(name)
            if is_silent or name in dead | wrong or fault is not None:
                self._ghosts += is_silent or name in dead
                self._control.unload(name)
                self._load(name)
        for name, ask in questions.items():
            if (fault := self._fault(name, ask, model)) is not None:
                raise fault
        self._all_is_right()

    def _fault(self, name: str, ask: Callable[[Client, Served], None], model: Served) -> ServiceError | None:
        """Why it does not answer right; None where it does, and where it is late as it answers others."""
        before = self._answered(name)
        try:
            for client in (self._rest, self._grpc):
                ask(client, model)
        except ServiceError as error:
            return None if is_late(error) and self._answered(name) > before else error
        return None

    def _answered(self, name: str) -> int:
        """As `progress`; 0 where nobody tells."""
        try:
            return self.progress(name)
        except ServiceError:
            return 0

    def _end_backend(self, name: str) -> None:
        """Ends the processes of a model that do not answer; a server's own backend has none."""
        for pid, command in self.process.backends().items():
            if self._place(name) in command:
                _end(pid)

    def end_hanging(self) -> dict[str, str]:
        """Ends the processes that hang → why, by the names of their models; others of them may answer all the time.

        Whoever waits for them is refused, and asks again.
        """
        stopped = self.process.stopped(self._pids)
        hung = self._hanging.found(self._began(), stopped, time.monotonic())
        if not hung:
            return {}
        backends = self.process.backends()
        ended = {pid: why for pid, why in hung.items() if pid in backends}
        for pid in ended:
            _end(pid)
        deadline = time.monotonic() + KILL_SECONDS
        while any(map(self.process.runs, ended)) and time.monotonic() < deadline:
            time.sleep(0.01)
        return {
            name: f"a process of its backend {why}"
            for pid, why in ended.items()
            for name in self._instances
            if self._place(name) in backends[pid]
        }

    def _began(self) -> dict[int, float]:
        """When the run of each process began that is in one; one that was killed in a run is in none."""
        return {pid: began for pid, began in at_work(self._at_work).items() if EngineProcess.runs(pid)}

    def is_at_work(self, name: str) -> bool:
        """Whether a process of a slow model is in a run that may take so long: who asks waits, and is answered."""
        now = time.monotonic()
        young = [pid for pid, began in self._began().items() if self._hanging.may_last(now - began)]
        backends = self.process.backends() if young else {}
        return any(self._place(name) in backends.get(pid, "") for pid in young)

    def dead_models(self) -> frozenset[str]:
        """Models of which fewer processes run than when all was right; others of it may still answer.

        Counted, and not told by their numbers: those of a version that was taken away end when they have answered.
        As long as none has ended nothing is counted: that takes milliseconds, and this is asked all the time.
        """
        if self._pids and all(map(self.process.runs, self._pids)):
            return frozenset()
        running = self._processes()
        dead = frozenset(name for name, count in self._running.items() if running[name] < count)
        if dead:
            self._pids = ()  # counted again until all is right
        return dead

    def _all_is_right(self) -> None:
        """Notes how many processes each model has, without those that are about to end."""
        running = self._processes()
        self._running = {name: min(running[name], count) for name, count in self._instances.items()}

    def _processes(self) -> Counter[str]:
        """How many run, by model."""
        backends = self.process.backends()
        self._pids, commands = tuple(backends), backends.values()
        places = {name: self._place(name) for name in self._instances}
        return Counter(name for name, place in places.items() for command in commands if place in command)

    def _place(self, name: str) -> str:
        """What the command lines of a model's processes have in them."""
        return f"{self.repository}/{name}/"

    def switch(self, old: Served, new: Served) -> None:
        """Another version takes over without a lost query: proved under a name of its own, then beside the old one
        (where it answers whoever names no version), and only then alone.

        Raises:
            UnprovedError, ServiceError: it does not answer right; the old one is then served as before.
            FolderError: the repository cannot be written; as before.
        """
        numbers = tuple(sorted((old.version, new.version)))
        self._try_out(new)
        try:
            self._write(new.available(*numbers), images=False)
            self._control.load(new.facts.name)
            self.prove(new, images=False)
            self._write(new.available(new.version))
            self._load(*reversed(new.names))  # what asks the model first: it then asks the new version
            self.prove(new)
        except (ServiceError, FolderError):
            self._write(old.available(old.version))
            self._load(*old.names)
            self._forget(new)
            raise
        self._forget(old)
        self._all_is_right()

    def _try_out(self, new: Served) -> None:
        """Asks it the golden vectors while nobody else can know it. Raises as `switch`."""
        name = f"{new.facts.name}{TRIAL}"
        trial = replace(new, facts=replace(new.facts, name=name)).available(new.version)
        try:
            self._write(trial, images=False)
            self._load(name)
            self.prove(trial, images=False)
        except (ServiceError, FolderError):
            self._dismiss(name)
            raise
        self._dismiss(name)  # not where the service is told to end: all goes with it then, and nothing is waited for

    def _dismiss(self, name: str) -> None:
        with contextlib.suppress(ServiceError):
            self._control.unload(name)
        shutil.rmtree(self.repository / name, ignore_errors=True)

    def _load(self, *names: str) -> None:
        for name in names:
            try:
                self._control.load(name)
            except ServiceError as error:
                raise UnprovedError(f"{name} must be loaded, but: {first_line(error)}") from error

    def _write(self, model: Served, *, images: bool = True) -> None:
        settings = model.settings if images else replace(model.settings, images=False)
        write_files(repository_files(model.facts, settings, model.version), self.repository, link=True)

    def _forget(self, model: Served) -> None:
        for name in model.names:
            shutil.rmtree(self.repository / name / str(model.version), ignore_errors=True)

    def progress(self, name: str) -> int:
        """How many queries of a model were answered or refused so far: whether a late answer is of a busy server."""
        found = self._grpc.statistics(name)
        return 0 if found is None else found.requests + found.failed

    def stop(self, grace: float = GRACE) -> bool:
        """Ends the server when it has answered what it accepted. False if it had to be killed after `grace` s."""
        for client in (self._rest, self._grpc, self._control):
            client.close()
        try:
            began = (lambda: self._began().values()) if self.engine.backend == "python" else None
            return self._process is None or self._process.stop(grace, self._ghosts, began)
        finally:
            self._scratch.remove()


def _end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def is_late(error: ServiceError) -> bool:
    """Whether no answer has come, and not a wrong one or a refusal."""
    return error.retryable and not isinstance(error, RefusedError | UnprovedError)


def is_wrong(error: ServiceError) -> bool:
    """Whether a process is at fault for certain, be it one of several, and no lack of memory that may be over."""
    passing = isinstance(error, RefusedError) and (error.is_unknown or error.status in BUSY)
    return not (is_late(error) or passing)


def _answer(client: Client, name: str, inputs: Mapping[str, Array], version: str) -> Mapping[str, Array]:
    return client.infer(name, inputs, version=version).outputs


def _where(device: str) -> str:
    return "cpu" if device == "cpu" else "cuda"


def _reachable(host: str) -> str:
    """Where this machine reaches a service that listens on `host`."""
    if host == "0.0.0.0":
        return "127.0.0.1"
    return f"[{'::1' if host == '::' else host}]" if ":" in host else host


def _picture(image: ImageInput) -> bytes:
    """A PNG file of made-up pixels, larger than the network's images."""
    from PIL import Image

    channels, height, width = image.shape
    rng = np.random.default_rng(0)
    planes = rng.integers(0, 256, (height + height // 2, width + width // 3, channels), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(planes[:, :, 0] if channels == 1 else planes).save(stream, "PNG")
    return stream.getvalue()


def _request_bytes(model: Served) -> int:
    """Of the largest request that it has to take."""
    tensors = largest_query((tensor.shape for tensor in model.facts.inputs), model.settings.max_batch)
    return tensors if model.image is None else max(tensors, HEAD + MOST_IMAGE_BYTES)
