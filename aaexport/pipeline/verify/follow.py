"""(URLs, file) → one observation after another: whether live services still compute the function, sampled.

Each look asks a golden or made-up case, all of them in turn, and a few held-out images that are drawn anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Literal

import numpy as np

from aaexport.errors import ArgumentError, ParityError, ServiceError, broken_rule, parameter
from aaexport.folder import ModelFolder
from aaexport.graph.files import GraphSummary, converted_size, file_digest, summarize
from aaexport.graph.metadata import read_metadata
from aaexport.nn.own_settings import own_settings
from aaexport.parity import ParityReport
from aaexport.parity.observation import Event, Observation
from aaexport.pipeline.subject.subject import Subject, as_subject
from aaexport.pipeline.verify.matrix import Matrix
from aaexport.pipeline.verify.options import VerifyOptions
from aaexport.pipeline.verify.rows import Row
from aaexport.pipeline.verify.services import Service, find_services, serves_another_file, with_rows_of
from aaexport.pipeline.verify.verify import observed_as_converted

LARGEST_SAMPLE = 4  # images that are drawn anew for a look
LONGEST = 86_400.0

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

    Args:
        folder: the model, which says what is right: by its network, or by the golden vectors of its module.
        onnx: the file that the services are to serve; the folder's model.onnx by default.
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
    path = folder.onnx_path if onnx is None else Path(onnx)
    summary = summarize(path)
    digest = file_digest(path, summary.data_files)
    services = find_services(options, folder.name)
    subject = as_subject(folder, None, size or converted_size(path))
    subject = observed_as_converted(subject, read_metadata(summary.metadata))
    say("computing what must come out")
    watch = _Watch(path, summary, digest, subject, options)
    for service in services:
        tell(watch.note("started", service))
    try:
        for number in count(1) if looks is None else range(1, looks + 1):
            due = time.monotonic() + every
            for service in services:
                watch.look(service, number, tell)
            if number != looks:
                time.sleep(max(0.0, due - time.monotonic()))
    except KeyboardInterrupt:
        for service in services:
            tell(watch.note("stopped", service))
        raise


def check_every(every: float) -> None:
    """ArgumentError unless it is a time between two looks."""
    if not 0 < every <= LONGEST:
        raise ArgumentError(broken_rule("every", f"be above 0 and at most {LONGEST:,.0f} seconds", every))


class _Watch:
    """What must come out, and who says so."""

    def __init__(
        self, path: Path, summary: GraphSummary, digest: str, subject: Subject, options: VerifyOptions
    ) -> None:
        self._summary, self._digest, self._options, self._path = summary, digest, options, path
        matrix = Matrix(subject, summary, replace(options, runtimes=["unoptimized"]))
        self._fixed, self._inputs, self._judge = matrix.fixed, matrix.inputs, matrix.judge
        self._truths = self._judge.truths_of(matrix.cases)
        self._chance = np.random.default_rng(options.seed)
        self._rows = matrix.rows(path, None, "file")

    def note(self, event: Literal["started", "stopped"], service: Service) -> Observation:
        """That looking begins, or ends."""
        return self._seen(service, event)

    def look(self, service: Service, number: int, tell: Tell) -> None:
        """One look, told. ParityError or ServiceError where it is not as it should be."""
        began = time.perf_counter()
        start = self._seen(service, "right", look=number)
        try:
            row, images, structure = self._asked(service, number)
        except ServiceError as error:
            seconds = time.perf_counter() - began
            tell(replace(start, event="unreachable", seconds=seconds, failures=(str(error),)))
            raise
        report = ParityReport(
            str(self._path),
            (row.result(),),
            structure,
            seed=self._options.seed,
            strict=self._options.strict,
            onnx_sha256=self._digest,
        )
        seen = replace(
            start,
            event="right" if report.passed else "wrong",
            cases=tuple(dict.fromkeys(output.case for output in row.outputs)),
            images=images,
            seconds=time.perf_counter() - began,
            max_abs_error=report.max_abs_error,
            max_error_ratio=report.max_error_ratio,
            failures=report.failures,
        )
        tell(seen)
        if not report.passed:
            raise ParityError(f"parity failed: {report.complaint}", report)

    def _asked(self, service: Service, number: int) -> tuple[Row, int, tuple[str, ...]]:
        """The row with what came of the sample, how many images it had, and what the service tells that is wrong."""
        now = replace(service, facts=service.asked_again())
        *_, row = with_rows_of([now], self._rows, self._summary, self._options)
        structure = tuple(filter(None, [serves_another_file(now.facts, now.row_name, self._digest)]))
        if row.failure is not None:
            return row, 0, structure
        truths = [truth for truth in self._truths if row.takes(truth.case)]
        truth = truths[(number - 1) % len(truths)]
        images = len(truth.case.batch)
        with row.open() as runner:
            self._judge.judge_known(row, runner, truth)
            drawn = self._inputs.drawn(self._fixed or self._size(now), self._chance)
            if drawn is not None:
                batches = [(drawn, np.zeros(len(drawn), np.int64))]
                for _ in self._judge.judge_more(row, runner, batches, f"drawn anew, batch {len(drawn)}"):
                    images += len(drawn)
        return row, images, structure

    def _size(self, service: Service) -> int:
        most = min(service.facts.max_batch or LARGEST_SAMPLE, LARGEST_SAMPLE)
        return int(self._chance.integers(1, most + 1))

    def _seen(self, service: Service, event: Event, look: int = 0) -> Observation:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return Observation(event, now, service.url, service.model, service.version, self._digest, look)
