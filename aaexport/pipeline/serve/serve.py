"""(model folders, options) → a live service, watched until it is told to end: `aaexport serve`.

prepare each folder → start the engine → golden vectors right over REST and gRPC → ready → watch … → drain
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from aaexport.errors import (
    AaexportError,
    ArgumentError,
    FolderError,
    RunnerError,
    UnprovedError,
    broken_rule,
    first_line,
)
from aaexport.folder import ModelFolder
from aaexport.pipeline.serve.again import Again, is_passing
from aaexport.pipeline.serve.child import Preparation, prepare_apart
from aaexport.pipeline.serve.incoming import Incoming
from aaexport.pipeline.serve.live import Change, Live, require_same_tensors
from aaexport.pipeline.serve.options import ServeOptions
from aaexport.pipeline.serve.order import Order, Prepared
from aaexport.pipeline.serve.site import Site, said_of_requests
from aaexport.pipeline.serve.stopping import Interrupted, Stopping
from aaexport.pipeline.serve.watchdog import Watchdog
from aaexport.report.serve import SCHEMA
from aaexport.serving.apart import Waiting
from aaexport.serving.process import GRACE
from aaexport.serving.served import Served
from aaexport.serving.service import Service
from aaexport.serving.versions import (
    change_lock,
    go_to,
    holding,
    read_served,
    record_path,
    served_folder,
    write_served,
)
from aaexport.writing import identity

TICK = 0.25  # seconds between looks at processes and folders
HURRY = 5.0  # seconds for an engine to end that has not been ready, and so owes nobody an answer
# Of a service that does not come back: nobody who waits for its end, or for a new start, shall take it for stuck.
GIVEN_UP = (
    "it ends with {}, but drains first: what was accepted is still answered, for up to half a minute where clients "
    "keep connections open; a second Ctrl-C or SIGTERM ends it at once"
)
Say = Callable[[str], None]


class Serving:
    """Several folders behind one engine. Use `serving` to make one."""

    def __init__(self, service: Service, options: ServeOptions, say: Say, stopping: Stopping) -> None:
        self.service, self.options, self._say, self.stopping = service, options, say, stopping
        self.live: list[Live] = []
        self.watchdog = Watchdog(service, self.live, options.check_every, say, stopping)

    def begin(self, folders: Sequence[tuple[ModelFolder, Path]], waiting: Waiting | None) -> None:
        """Prepares the folders, the first in what is `waiting`, and starts the engine; returns when all is proved.

        Raises as both.
        """
        with ExitStack() as changing:
            # In one order, so that no two services wait for each other.
            for place in sorted(keep.resolve() for _, keep in folders):
                changing.enter_context(self._lock(place))
            for folder, keep in folders:
                incoming = Incoming(folder, self.options.dtype)
                self._say(f"checking {folder.path}")
                prepared = self._told(prepare_apart(self._order(folder, keep), waiting))
                waiting = None
                self.live.append(Live(folder, keep, self._served(prepared), prepared.version, incoming, None))
            self._say("starting Triton")
            self.service.start([live.served for live in self.live])
            for live in self.live:
                self._record(live)
        self.watchdog.rest()

    def _lock(self, keep: Path) -> TextIO:
        lock = change_lock(keep, wait=False)
        if lock is None:
            self._say(f"{keep}: waiting for another service, which is changing its version")
            lock = change_lock(keep, wait=True)
        assert lock is not None, "it waits"
        return lock

    def keep(self) -> None:
        """Watches until `stopping` is told, whatever it waits for then.

        Raises:
            UnprovedError: the engine is gone, or a model did not come back.
        """
        try:
            with suppress(Interrupted):
                while not self.stopping.wait(TICK):
                    if not self.service.process.alive():
                        how, cause = self.service.process.ended(), self.service.process.complaints()
                        raise UnprovedError(f"Triton must run as long as it serves, but it ended with {how}: {cause}")
                    self.watchdog.look()
                    for live in self.live:
                        self._follow(live)
        except UnprovedError as error:
            if self.service.process.alive():
                self._say(f"{first_line(error)}; {GIVEN_UP.format(error.exit_code)}")
            raise
        finally:
            for live in self.live:
                if live.change is not None:
                    live.change.end()
                    live.change = None

    def facts(self) -> dict[str, Any]:
        """The service in JSON's types: what `--json` prints when it is ready."""
        service = self.service
        return {
            "schema": SCHEMA,
            "event": "ready",
            "aaexport": importlib.metadata.version("aaexport"),
            "pid": os.getpid(),
            "rest": service.rest_url,
            "grpc": service.grpc_url,
            "metrics": f"{service.rest_url.rpartition(':')[0]}:{service.ports.metrics}/metrics",
            "host": service.host,
            "models": [_facts_of(live.served) for live in self.live],
        }

    def _follow(self, live: Live) -> None:
        """Takes a version that `--rollback` chose, and with `watch` a new conversion, once it is prepared."""
        if live.change is not None:
            if live.change.preparation.is_done():
                try:
                    became = self._taken(live, live.change)
                finally:
                    live.change.end()
                    live.change = None
                if became:
                    self._say(f"{live.folder.path}: {became}")  # last: whoever reads it may go back at once
            return
        record = identity(record_path(live.keep))
        if record != live.record:
            self._follow_record(live, record)
        elif self.options.watch and live.incoming.is_due(self._say):
            live.again.pop(None, None)
            if self._begins(live, record):
                live.incoming.begun()
        elif due := [number for number, again in live.again.items() if again.is_due()]:
            self._begins(live, record, due[0])

    def _follow_record(self, live: Live, record: tuple[int, ...] | None) -> None:
        wanted = self._chosen(live)
        live.again = {number: again for number, again in live.again.items() if number is None}
        if wanted is None or wanted == live.served.version or self._begins(live, record, wanted):
            live.record = record

    def _begins(self, live: Live, record: tuple[int, ...] | None, number: int | None = None) -> bool:
        """Whether a version is being prepared from now on, or cannot be, which is said.

        Else somebody else changes what is served just now, or the record is no longer the one that was looked at.
        """
        try:
            lock = change_lock(live.keep, wait=False)
        except FolderError as error:
            return self._cannot_begin(live, number, str(error))
        if lock is None:
            return False
        if identity(record_path(live.keep)) != record:
            lock.close()  # somebody has chosen another version in this moment: that one comes first
            return False
        try:
            live.change = Change(Preparation(self._order(live.folder, live.keep, number)), lock, number)
        except (OSError, RunnerError) as error:  # no process more for now: what serves goes on
            lock.close()
            why = f"no process can be started to check what is to take over ({first_line(error)})"
            return self._cannot_begin(live, number, why)
        if number not in live.again:
            what = "a new conversion" if number is None else f"version {number}, which was chosen,"
            self._say(f"{live.folder.path}: {what} is checked, version {live.served.version} serves meanwhile")
        return True

    def _cannot_begin(self, live: Live, number: int | None, why: str) -> bool:
        """Says it, if it is not what was said of it last; True, as it is tried again later."""
        if number is None:
            live.incoming.ended(is_refused=True)
        if line := self._failed(live, number, f"version {live.served.version} stays: {why}"):
            self._say(f"{live.folder.path}: {line}")
        return True

    def _failed(self, live: Live, number: int | None, line: str) -> str:
        """A line for a try in vain, of which there will be another; nothing where the last one was for the same."""
        again = live.again.setdefault(number, Again())
        if not again.failed(line):
            return ""
        return f"{line}{again.plan}{self._still_chosen(live, number)}"

    def _chosen(self, live: Live) -> int | None:
        """The version that served.json names; None if there is none, or it cannot be read, which is said."""
        try:
            return read_served(live.keep, self.options.dtype).current
        except FolderError as error:
            self._say(f"{live.folder.path}: version {live.served.version} stays: {error}")
            return None

    def _taken(self, live: Live, change: Change) -> str:
        """Another version in the place of this one, if it is right, and what is to be said of it; nothing if said."""
        is_refused = True
        try:
            prepared = self._told(change.preparation.result())
            new = self._served(prepared)
            if new.version == live.served.version:
                is_refused = False
                live.again.clear()
                return f"version {new.version} stays: it is what is to be served"
            require_same_tensors(live.served, new)
            began = time.monotonic()
            with self.stopping.waiting():
                self.service.switch(live.served, new)
            is_refused = False
        except AaexportError as error:
            line = f"refused, version {live.served.version} stays: {error}"
            if change.number is None and not is_passing(error):
                live.again.pop(None, None)
                return line
            return self._failed(live, change.number, line)
        finally:
            if change.number is None:
                live.incoming.ended(is_refused=is_refused)
        before, live.served, live.version, live.reloads = live.served.version, new, prepared.version, 0
        live.again.clear()
        try:
            with self.stopping.waiting():
                self._record(live)
        except FolderError as error:  # what is served is right all the same
            self._say(f"{live.folder.path}: version {new.version} is not recorded: {error}")
        return f"version {new.version} serves instead of {before}, after {time.monotonic() - began:.1f} s beside it"

    def _still_chosen(self, live: Live, number: int | None) -> str:
        """What is to be done about a version that was chosen and cannot be served: the next start would fail."""
        if number is None:
            return ""
        return f"; `{go_to(live.folder.path, live.served.version, self.options.dtype)}` chooses what is served"

    def _order(self, folder: ModelFolder, keep: Path, number: int | None = None) -> Order:
        options = self.options
        return Order(
            folder=folder.path, keep=keep, dtype=options.dtype, device=options.device, threads=options.threads,
            instances=options.instances, max_batch=options.max_batch, number=number,
        )  # fmt: skip

    def _told(self, prepared: Prepared) -> Prepared:
        for note in prepared.notes:
            self._say(note)
        return prepared

    def _served(self, prepared: Prepared) -> Served:
        settings = self.options.settings(self.service.engine.backend, prepared.threads)
        facts = prepared.facts
        if facts.image is not None and importlib.util.find_spec("PIL") is None:
            self._say(f"{facts.image_name} is not served: it needs Pillow; pip install 'aaexport[serve]'")
            settings = replace(settings, images=False)
        return Served(facts, prepared.version.number, settings, self.options.dtype)

    def _record(self, live: Live) -> None:
        """Notes which version is served, and what was seen of the record then."""
        with holding(live.keep):
            served = read_served(live.keep, self.options.dtype)
            version = served.numbered(live.served.version) or live.version
            if served.current != version.number:
                write_served(live.keep, served.with_current(version), self.options.dtype)
        live.record = identity(record_path(live.keep))


@contextmanager
def serving(
    folders: Sequence[ModelFolder],
    options: ServeOptions,
    site: Site,
    say: Say,
    stopping: Stopping | None = None,
    waiting: Waiting | None = None,
) -> Iterator[Serving]:
    """A service that is ready, for a block; it drains when the block ends, and ends at once by KeyboardInterrupt.

    `waiting` is of `waiting_to_prepare`, and has loaded already what takes half a second.

    Raises:
        ArgumentError: two models of one name.
        RunnerError: no room in shared memory.
        EngineError: the engine does not start.
        FolderError, GraphError, ParityError: a folder that cannot be served.
        UnprovedError: it does not answer right, or was killed in the end, as it did not finish in time.
    """
    _require_names(folders)
    for line in said_of_requests(site):
        say(line)
    service = Service(site.engine, site.address, site.ports)
    running = Serving(service, options, say, stopping or Stopping())
    in_time, grace = True, HURRY
    try:
        running.begin([(folder, _keep(folder, service, say)) for folder in folders], waiting)
        grace = GRACE
        yield running
    except KeyboardInterrupt:
        grace = 0.0 if grace == GRACE else grace
        raise
    finally:
        in_time = service.stop(grace)
    if not in_time:
        raise UnprovedError("the service must answer what it accepted before it ends, but it had to be killed")


def _keep(folder: ModelFolder, service: Service, say: Say) -> Path:
    """Where its versions are kept: there, or where it cannot be written in a folder that goes with the service."""
    place = served_folder(folder.path)
    if os.access(place if place.exists() else folder.path, os.W_OK):
        return folder.path
    say(f"{folder.path} cannot be written: nothing is kept there to roll back to")
    keep = service.kept / folder.name
    keep.mkdir(parents=True)
    return keep


def _require_names(folders: Sequence[ModelFolder]) -> None:
    names = [folder.name for folder in folders]
    for name in names:
        if names.count(name) > 1:
            raise ArgumentError(broken_rule("models", "have names of their own", f"{name} twice", "rename a folder"))


def _facts_of(served: Served) -> dict[str, Any]:
    facts = served.facts
    return {
        "name": facts.name,
        "image": facts.image_name if served.image is not None else None,
        "version": served.version,
        "dtype": served.dtype,
        "onnx_sha256": facts.onnx_sha256,
        "max_batch": served.settings.max_batch if facts.batched else facts.fixed_batch,
        "threads": served.settings.threads,
        "golden": sum(query.batch for query in facts.golden),
    }
