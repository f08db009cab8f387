"""(live services, file) → their rows of the parity matrix."""

from __future__ import annotations

from collections.abc import Sequence

from aaexport.device import parse_device
from aaexport.graph.files import GraphSummary
from aaexport.pipeline.verify.options import VerifyOptions
from aaexport.pipeline.verify.rows import Row
from aaexport.pipeline.verify.services import Service, another_model
from aaexport.runners.base import Runner

SIZES_MACS = 4e11  # of all the batch sizes that are tried together: about ten seconds of PyTorch on two cores
UNBOUNDED = 8  # the largest batch that is tried of a service that names no bound


def with_rows_of(
    services: Sequence[Service], rows: tuple[Row, ...], summary: GraphSummary, options: VerifyOptions
) -> tuple[Row, ...]:
    """The rows, and behind them those of the services, which are excused as the file is that they serve."""
    of_file = rows[-1]
    more = []
    for service in services:
        row = service_row(service, summary, options)
        row.arrivals, row.written_out = of_file.arrivals, of_file.written_out
        row.sizes = sizes_to_try(service, summary)
        more.append(row)
    return (*rows, *more)


def service_row(service: Service, summary: GraphSummary, options: VerifyOptions) -> Row:
    """The row of a service; a failed one if it tells of other tensors than the file has."""
    kind, _ = parse_device(options.device)

    def opened() -> Runner:
        return service.open()

    row = Row(service.row_name, "service", options.judged.on(kind), opened)
    row.failure = another_model(service.facts, summary)
    if not service.takes_nan:
        row.takes = lambda case: case.kind != "poisoned"
    return row


def sizes_to_try(service: Service, summary: GraphSummary) -> tuple[int, ...]:
    """Every batch from 1 to the most that the service takes at once, as far as there is time for them all."""
    if service.facts.fixed_batch is not None or not _has_open_batch(summary):
        return ()
    most = service.facts.max_batch or UNBOUNDED
    affordable = most * (most + 1) // 2 if not summary.macs else int(SIZES_MACS / summary.macs)
    sizes = list(range(1, most + 1))
    while sum(sizes) > affordable and len(sizes) > 2:
        sizes = [*sizes[:-1:2], most]
    return tuple(sizes)


def _has_open_batch(summary: GraphSummary) -> bool:
    return not isinstance(summary.inputs[0].shape[0], int)
