"""(URLs, file) → one observation after another: whether live services still compute the function, sampled.

Each look asks a golden or made-up case, all of them in turn, and a few held-out images that are drawn anew; of a file
in float16 or int8 images alone, for which the service must give what the file gives here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import numpy as np

from aaexport.errors import ArgumentError, ParityError, ServiceError, broken_rule, parameter
from aaexport.folder import ModelFolder
from aaexport.nn.own_settings import own_settings
from aaexport.parity import ParityReport
from aaexport.parity.observation import Event, Observation
from aaexport.pipeline.verify.options import VerifyOptions, check_every
from aaexport.pipeline.verify.own_references import OwnReferences
from aaexport.pipeline.verify.references import References, WatchedFile
from aaexport.pipeline.verify.services import Service, find_services, serves_another_file

AWAY = 10.0  # seconds that a service may be away before it counts as one that does not answer: it loads a model anew
BEHIND = 60.0  # seconds that a service may take for a new file, as its own checks come first

Say = Callable[[str], None]
Tell = Callable[[Observation], None]


@own_settings()
def follow(
    folder: ModelFolder,
    onnx: str | Path | None,
    options: VerifyOptions,
    tell: Tell,
    *,
    every: float,
    looks: int | None = None,
    size: tuple[int, int] | None = None,
    say: Say = lambda step: None,
) -> None:
    """Looks at the services at `options.url` again and again, until one is wrong or does not answer.

    The file may be written anew meanwhile: a service that has the new one within `BEHIND` seconds is judged by that.

    Args:
        folder: the model, which says what is right: by its network, or by the golden vectors of its module.
        onnx: the file that the services are to serve; the folder's, in the dtype that was asked for, by default.
        options: as of `verify`.
        tell: is given what was seen, as it is seen.
        every: seconds between the beginnings of two looks.
        looks: how many at each service; None for no end.
        size: (H, W) of the images, as of `verify`.
        say: is told each step before the first look.

    Raises:
        ArgumentError: `every` is no time, or there is no URL.
        ParityError: a service is wrong; `tell` has been told of it.
        ServiceError: a service does not answer; `tell` has been told of it.
        Others as `verify`.
    """
    options.check()
    if not options.url:
        raise ArgumentError(broken_rule("follow", f"go with {parameter('url')}", "none"))
    check_every(every)
    file = WatchedFile(folder, onnx, options)
    services = tuple(replace(service, retry_for=AWAY) for service in find_services(options, folder.name))
    say("computing what must come out")
    watch = _Watch(file, services, options, size, tell)
    for service in services:
        tell(watch.note("started", service))
    try:
        for number in count(1) if looks is None else range(1, looks + 1):
            due = time.monotonic() + every
            for service in services:
                watch.look(service, number)
            if number != looks:
                time.sleep(max(0.0, due - time.monotonic()))
    except KeyboardInterrupt:
        for service in services:
            tell(watch.note("stopped", service))
        raise


@dataclass
class _Followed:
    """By what a service is judged, and since when there has been something newer that it does not serve."""

    references: References | OwnReferences
    behind_since: float | None = None


class _Watch:
    """What must come out, and who says so."""

    def __init__(
        self,
        file: WatchedFile,
        services: Sequence[Service],
        options: VerifyOptions,
        size: tuple[int, int] | None,
        tell: Tell,
    ) -> None:
        self._file, self._options, self._size, self._tell = file, options, size, tell
        self._chance = np.random.default_rng(options.seed)
        references = file.references(file.digest, size)
        assert references is not None, "they are of the file as it is"
        self._followed = {service.url: _Followed(references) for service in services}

    def note(self, event: Event, service: Service) -> Observation:
        """What is no look: that looking begins or ends, or what has become of the file."""
        return self._seen(service, event)

    def look(self, service: Service, number: int) -> None:
        """One look, told. ParityError or ServiceError where it is not as it should be."""
        began = time.perf_counter()
        start = self._seen(service, "right", look=number)
        try:
            now = replace(service, facts=service.asked_again())
            structure = self._kept_up(now)
            references = self._followed[service.url].references
            start = replace(start, onnx_sha256=references.digest)
            row, images = references.asked(now, number, self._chance, self._options)
        except ServiceError as error:
            seconds = time.perf_counter() - began
            self._tell(replace(start, event="unreachable", seconds=seconds, failures=(str(error),)))
            raise
        report = ParityReport(
            str(self._file.path),
            (row.result(),),
            (*structure, *references.faults),
            seed=self._options.seed,
            strict=self._options.strict,
            onnx_sha256=start.onnx_sha256,
        )
        if not report.passed and self._changed_since(now):
            self.look(service, number)  # the question was to one version, and the answer of another
            return
        self._tell(
            replace(
                start,
                event="right" if report.passed else "wrong",
                cases=tuple(dict.fromkeys(output.case for output in row.outputs)),
                images=images,
                seconds=time.perf_counter() - began,
                max_abs_error=report.max_abs_error,
                max_error_ratio=report.max_error_ratio,
                failures=report.failures,
            )
        )
        if not report.passed:
            raise ParityError(f"parity failed: {report.complaint}", report)

    def _changed_since(self, service: Service) -> bool:
        """Whether the service serves another file than when it was asked last."""
        try:
            return service.asked_again().onnx_sha256 != service.facts.onnx_sha256
        except ServiceError:
            return False

    def _kept_up(self, service: Service) -> tuple[str, ...]:
        """Follows a change of the file that the service has followed; what it tells that is wrong, if anything."""
        followed, wanted = self._followed[service.url], self._file.wanted()
        told = service.facts.onnx_sha256 or wanted  # who does not tell is to serve what is wanted
        held = followed.references.digest
        if told == wanted:
            followed.behind_since = None
            found = followed.references if told == held else self._file.references(told, self._size)
            if found is not None and told != held:
                followed.references = found
                self._tell(self.note("changed", service))
            if found is not None:
                return ()
        elif told == held:
            if followed.behind_since is None:
                followed.behind_since = time.monotonic()
                self._tell(self.note("behind", service))
            if time.monotonic() - followed.behind_since <= BEHIND:
                return ()
        # What was gone back to is wanted, and nobody knows what is right of it if it was not looked at before.
        missed = held if told == wanted else wanted
        return tuple(filter(None, [serves_another_file(service.facts, service.row_name, missed)]))

    def _seen(self, service: Service, event: Event, look: int = 0) -> Observation:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        digest = self._followed[service.url].references.digest
        return Observation(event, now, service.url, service.model, service.version, digest, look)
