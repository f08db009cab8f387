"""File in float16 or int8 → what it answers itself, here, to images: by that a live service of it is judged.

What such a file has lost of float32 its guard judges, once; within that loss the answers of a stale file would pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from aaexport.device import parse_device
from aaexport.errors import RunnerError, ServiceError
from aaexport.graph.files import GraphSummary
from aaexport.parity import Array, Case, OutputParity, Tolerance, Tolerances, failed
from aaexport.parity.thresholds import ReducedKind
from aaexport.pipeline.verify.options import VerifyOptions
from aaexport.pipeline.verify.rows import Row
from aaexport.pipeline.verify.service_rows import service_row
from aaexport.pipeline.verify.services import Service
from aaexport.runners.base import Runner
from aaexport.serving.judge import OWN, fault_of

MOST = 8  # images at once, of a service that names no bound or a larger one
LARGEST_DRAWN = 4


@dataclass(frozen=True, eq=False)
class OwnReferences:
    """What is known of one file in fewer bits.

    Attributes:
        digest, summary: of the file.
        kind: of its numbers.
        fixed: the only batch that it takes; None for any.
        faults: what its guard finds wrong with it, a line each.
        images: (N, C, H, W), float32, that it is asked about.
        runner: a session of it, which stays when the file is written anew.
        device: where that runs.
    """

    digest: str
    summary: GraphSummary
    kind: ReducedKind
    fixed: int | None
    faults: tuple[str, ...]
    images: Array
    runner: Runner
    device: str

    def asked(
        self, service: Service, number: int, chance: np.random.Generator, options: VerifyOptions
    ) -> tuple[Row, int]:
        """As `References.asked`: images in their order, in another batch each time, and some that are drawn anew."""
        row = service_row(service, self.summary, options)
        row.tolerances = self._allowed
        if row.failure is not None:
            return row, 0
        most = min(service.facts.max_batch or MOST, MOST, len(self.images))
        size = self.fixed or (number - 1) % most + 1
        first = (number - 1) * size
        drawn = self.fixed or int(chance.integers(1, min(most, LARGEST_DRAWN) + 1))
        cases = (
            Case(f"images, batch {size}", self._of(np.arange(first, first + size))),
            Case(f"drawn anew, batch {drawn}", self._of(chance.integers(len(self.images), size=drawn))),
        )
        with row.open() as runner:
            for case in cases:
                row.outputs += self._judged(case, runner)
        return row, size + drawn

    def _of(self, numbers: Array) -> Array:
        """These images, around again from the first."""
        return self.images.take(numbers, axis=0, mode="wrap")

    @property
    def _allowed(self) -> Tolerances:
        share, reason = OWN[self.kind]
        return Tolerances(Tolerance(0.0, share, np.inf, np.inf, reason), {}, {})

    def _judged(self, case: Case, runner: Runner) -> Sequence[OutputParity]:
        """Output by output, the service's answer beside the file's own. ServiceError if there is none."""
        (port,) = self.runner.inputs
        feeds = {port.name: case.batch.astype(port.dtype, copy=False)}
        expected = self.runner.infer(feeds)
        try:
            given = runner.infer(feeds)
        except ServiceError:
            raise  # no answer is no verdict
        except RunnerError as error:
            return failed(case.name, expected, str(error))
        return [self._verdict(case, name, array, given) for name, array in expected.items()]

    def _verdict(self, case: Case, name: str, expected: Array, given: Mapping[str, Array]) -> OutputParity:
        answer = given.get(name)
        if answer is None:
            return OutputParity(case.name, name, f"must be an output, got {sorted(given)}")
        fault = fault_of(answer, expected, self.kind, parse_device(self.device)[0])
        if answer.shape != expected.shape:
            return OutputParity(case.name, name, fault)
        error = np.abs(answer.astype(np.float64) - expected)
        return OutputParity(case.name, name, fault, max_abs_error=float(error.max(initial=0.0)))
