"""A live service → one that goes on answering right: golden vectors are asked, and what fails is loaded anew."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from aaexport.errors import ServiceError, UnprovedError
from aaexport.pipeline.serve.live import Live
from aaexport.pipeline.serve.stopping import Stopping
from aaexport.serving.service import Service, is_late, is_wrong

RELOADS = 3  # in a row
STEADY = 60.0  # seconds of right answers after which reloads are counted anew
SHARE = 0.05  # of the time in which golden vectors are answered at the most, however large a model is
ENDED = "a process of its backend has ended"
Say = Callable[[str], None]


class Watchdog:
    """Looks at each model that a service has, by each of its names.

    Args:
        service: it.
        live: the folders that are served, also those that are added later.
        every: seconds between golden vectors.
        say: is told what is loaded anew, and why.
        stopping: gives up what is waited for.
    """

    def __init__(self, service: Service, live: Sequence[Live], every: float, say: Say, stopping: Stopping) -> None:
        self._service, self._live, self._every, self._say, self._stopping = service, live, every, say, stopping
        self._ask_at = 0.0

    def rest(self, answered: float = 0.0) -> None:
        """Nothing is asked for a while, after so many seconds in which golden vectors were answered."""
        self._ask_at = time.monotonic() + max(self._every, answered / SHARE)

    def look(self) -> None:
        """Asks all where it is time, or at once where a process has ended or hangs.

        Raises as `ask_all`, and Interrupted.
        """
        hung = self._service.end_hanging()
        gone = dict.fromkeys(self._service.dead_models(), ENDED) | hung
        if gone or time.monotonic() >= self._ask_at:
            self.ask_all(gone)

    def ask_all(self, gone: Mapping[str, str] = MappingProxyType({})) -> None:
        """Asks each model, and loads anew those that fail, and those that miss a process: `gone`, with what it did.

        UnprovedError if that does not help.
        """
        answered = 0.0
        for live in self._live:
            began = time.monotonic()
            name, error = self._fault(live, gone)
            if error is None:
                answered += time.monotonic() - began  # what waits in vain takes nothing from others
                if live.reloads and time.monotonic() - live.failed_at > STEADY:
                    live.reloads = 0
            elif not self._service.process.alive():
                return
            elif not self._is_busy(live, name, error):
                self._revive(live, name, error)
        self.rest(answered)

    def _fault(self, live: Live, gone: Mapping[str, str]) -> tuple[str, ServiceError | None]:
        """The first name that does not answer right, and why; what asks it cannot be judged then."""
        for name in live.served.names:
            if name in gone:
                return name, UnprovedError(gone[name])
        for name in live.served.names:
            try:
                with self._stopping.waiting():
                    self._service.glance(live.served, name)
            except ServiceError as error:
                dead = self._service.dead_models()  # perhaps just now, and of the model that this one asks
                return next(((one, UnprovedError(ENDED)) for one in live.served.names if one in dead), (name, error))
            live.late.pop(name, None)
        return "", None

    def _is_busy(self, live: Live, name: str, error: ServiceError) -> bool:
        """Whether an answer is late because others are being answered, and not because nobody is.

        That is known when the second in a row is late: others were answered since the first, or not.
        """
        if not is_late(error):
            return False
        before = live.late.get(name)
        try:
            with self._stopping.waiting():
                live.late[name] = self._service.progress(name)
        except ServiceError:
            live.late[name] = -1 if before is None else before
        return before is None or live.late[name] > before or self._service.is_at_work(name)

    def _revive(self, live: Live, name: str, error: ServiceError) -> None:
        """Loads the model anew, at most so often in a row. UnprovedError if it does not help."""
        live.late.clear()
        # The image model asks the other: which of the two is at fault is not known.
        asked = live.served.names[: live.served.names.index(name) + 1]
        silent, wrong = ({name} if is_late(error) else set()), (set(asked) if is_wrong(error) else set())
        while live.reloads < RELOADS:
            live.reloads, live.failed_at = live.reloads + 1, time.monotonic()
            self._say(f"{name} is loaded anew ({live.reloads} of {RELOADS}): {error}")
            try:
                with self._stopping.waiting():
                    self._service.reload(live.served, frozenset(silent), frozenset(wrong))
                self._say(f"{name} answers right again after {time.monotonic() - live.failed_at:.1f} s")
                return
            except ServiceError as again:
                error, silent, wrong = again, set(), set()
        raise UnprovedError(f"{name} must answer right after {RELOADS} reloads, but: {error}")
