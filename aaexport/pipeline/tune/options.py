"""What is asked of a tuning, and which of it is wrong: seen without loading anything that measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from aaexport.device import parse_device
from aaexport.errors import ArgumentError, broken_rule
from aaexport.pipeline.bench.option_rules import thread_rules
from aaexport.pipeline.bench.options import FEWEST, LAUNCHES, MOST_LAUNCHES
from aaexport.recipe import MAX_BATCH, MAX_SEED, check_opset


@dataclass(frozen=True)
class TuneOptions:
    """What is asked of a tuning.

    Attributes:
        opset: 18–25; the recipe's by default. From 23 on `fused` is a candidate.
        device: `cpu`, `cuda` or `cuda:N`; by default `cuda` where its provider ran a session.
        batch: images a query; by default the recipe's, or 4 where that is dynamic.
        threads: intra-op threads of the sessions that are timed and deployed. Several numbers are launched in turns,
            and the one that is fast and steady is taken; None tries 1, 2, 4 … up to the cores on the CPU, and leaves
            onnxruntime's default on CUDA.
        duration: seconds of counted queries for each candidate that is not clearly slower than the best.
        seed: of the inputs.
        launches: processes of each number of threads, where several are tried.
    """

    opset: int | None = None
    device: str | None = None
    batch: int | None = None
    threads: int | Sequence[int] | None = None
    duration: float = 2.0
    seed: int = 0
    launches: int = LAUNCHES

    def check(self) -> None:
        """ArgumentError for the first that breaks its rule; so it can be said before any work is done."""
        if self.opset is not None:
            check_opset(self.opset)
        if self.device is not None:
            parse_device(self.device)
        batch, launches = self.batch, self.launches
        rules = (
            (batch is None or 1 <= batch <= MAX_BATCH, "batch", f"be between 1 and {MAX_BATCH}", batch),
            *thread_rules(self.threads),
            (FEWEST <= launches <= MOST_LAUNCHES, "launches", f"be between {FEWEST} and {MOST_LAUNCHES}", launches),
            (0 < self.duration < float("inf"), "duration", "be above 0 seconds", self.duration),
            (0 <= self.seed <= MAX_SEED, "seed", f"be between 0 and {MAX_SEED}", self.seed),
        )
        for holds, name, rule, got in rules:
            if not holds:
                raise ArgumentError(broken_rule(name, rule, got))


class TuneOverrides(TypedDict, total=False):
    """The fields of `TuneOptions` as keywords."""

    opset: int | None
    device: str | None
    batch: int | None
    threads: int | Sequence[int] | None
    duration: float
    seed: int
    launches: int
