"""Several client processes → one contender: under load each has its share, all else is asked of the first."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

import numpy as np

from aaexport.load.run import QueryLog, Trouble
from aaexport.pipeline.bench.contender import Contender, Progress, RunInterrupted, Served
from aaexport.pipeline.bench.run_order import RunOrder
from aaexport.pipeline.bench.worker_models import WorkerSpec

SEEDS_APART = 7919


class Crowd(Contender):
    """As Contender, of `count` processes that load the same."""

    def __init__(self, spec: WorkerSpec, count: int) -> None:
        super().__init__(spec)
        self._others = [Contender(spec) for _ in range(count - 1)]

    def __enter__(self) -> Crowd:
        super().__enter__()
        try:
            for other in self._others:
                other.__enter__()
        except BaseException:
            self.end()
            raise
        return self

    def end(self) -> None:
        """The end of all."""
        super().end()
        for other in self._others:
            other.end()

    @property
    def process_ids(self) -> tuple[int, ...]:
        """Of all."""
        return (*super().process_ids, *(process for other in self._others for process in other.process_ids))

    def expect(self, path: Path) -> None:
        """As Contender, of all."""
        super().expect(path)
        for other in self._others:
            other.expect(path)

    def run(self, order: RunOrder, progress: Progress | None = None) -> Served:
        """As Contender. An open loop is split by its rate, a closed one by its clients; others are the first's."""
        shares = split(order, 1 + len(self._others))
        if len(shares) == 1:
            return super().run(order, progress)
        with ThreadPoolExecutor(len(shares)) as pool:
            runs: list[Future[Served]] = [pool.submit(super().run, shares[0], progress)]
            runs += [pool.submit(other.run, share) for other, share in zip(self._others, shares[1:], strict=False)]
            try:
                wait(runs)
            except KeyboardInterrupt:
                for contender in (self, *self._others):
                    contender.abort()
                wait(runs)
                raise RunInterrupted(merged([run.result() for run in runs])) from None
            return merged([run.result() for run in runs])


def split(order: RunOrder, count: int) -> list[RunOrder]:
    """The shares of so many processes, each with a seed of its own; together they are the order.

    Poisson arrivals of a rate are those of several that add up to it; constant ones fall together.
    """
    load = order.load
    if load.scenario == "server" and load.rate is not None and order.trace is None:
        least = -(-order.min_queries // count)
        return [
            replace(
                order,
                min_queries=least,
                load=replace(load, rate=load.rate / count, seed=load.seed + SEEDS_APART * number),
            )
            for number in range(count)
        ]
    if order.clients > 1:
        several = min(count, order.clients)
        clients = [order.clients // several + (number < order.clients % several) for number in range(several)]
        return [
            replace(order, clients=one, load=replace(load, seed=load.seed + SEEDS_APART * number))
            for number, one in enumerate(clients)
        ]
    return [order]


def merged(parts: Sequence[Served]) -> Served:
    """What several processes left, as if one had: queries in the order of their schedule."""
    logs = [part.log for part in parts]
    order = np.argsort(np.concatenate([log.scheduled for log in logs]), kind="stable")
    log = QueryLog(
        np.concatenate([log.scheduled for log in logs])[order],
        np.concatenate([log.issued for log in logs])[order],
        np.concatenate([log.completed for log in logs])[order],
        np.concatenate([log.samples for log in logs])[order],
    )
    trouble = Trouble()
    for part in parts:
        trouble += part.trouble
    counted = [part.counted for part in parts if part.counted is not None]
    return Served(
        log,
        trouble,
        next((part.aborted for part in parts if part.aborted), None),
        sum(part.checked for part in parts),
        sum(part.wrong for part in parts),
        max(part.largest_error for part in parts),
        counted=(min(began for began, _ in counted), max(ended for _, ended in counted)) if counted else None,
    )
