"""What is asked of a tuning, and which of it is wrong: seen without loading anything that measures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict, get_args

from aaexport.device import parse_device
from aaexport.errors import ArgumentError, broken_rule, parameter
from aaexport.pipeline.bench.option_rules import Rule, thread_rules
from aaexport.pipeline.bench.options import FEWEST, LAUNCHES, MOST_LAUNCHES
from aaexport.recipe import MAX_BATCH, MAX_SEED, check_opset

TunedDtype = Literal["float32", "auto"]


@dataclass(frozen=True)
class TuneOptions:
    """What is asked of a tuning.

    Attributes:
        opset: 18–25; the recipe's by default. From 23 on `fused` is a candidate. Where neither names one it is 20,
            and on CUDA what the measurement decides.
        device: `cpu`, `cuda` or `cuda:N`; by default `cuda` where its provider ran a session.
        batch: images a query; by default the recipe's, or 4 where that is dynamic.
        threads: intra-op threads of the sessions that are timed and deployed. Several numbers are launched in turns,
            and the one that is fast and steady is taken; None tries 1, 2, 4 … up to the cores on the CPU, and leaves
            onnxruntime's default on CUDA.
        duration: seconds of counted queries for each candidate that is not clearly slower than the best.
        seed: of the inputs.
        launches: processes of each number of threads, where several are tried.
        dtype: `auto` to measure the whole network in float32, int8 and on a GPU float16 too, and name the fastest
            that its guard passes; the files are written. `float32` leaves it at the layers.
        max_loss: the share of held-out images that such a file may classify rightly no more, net, beside what its
            guard allows: 0.005 is half a point of accuracy. None leaves that to the guard.
    """

    opset: int | None = None
    device: str | None = None
    batch: int | None = None
    threads: int | Sequence[int] | None = None
    duration: float = 2.0
    seed: int = 0
    launches: int = LAUNCHES
    dtype: TunedDtype = "float32"
    max_loss: float | None = None

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
        for holds, name, rule, got in (*rules, *self._of_precision()):
            if not holds:
                raise ArgumentError(broken_rule(name, rule, got))

    def _of_precision(self) -> Iterator[Rule]:
        known, most = get_args(TunedDtype), self.max_loss
        yield self.dtype in known, "dtype", f"be one of {', '.join(known)}", self.dtype
        yield most is None or self.dtype == "auto", "max_loss", f"go with {parameter('dtype')} auto", most
        yield most is None or 0 <= most < 1, "max_loss", "be at least 0 and below 100 %", most


class TuneOverrides(TypedDict, total=False):
    """The fields of `TuneOptions` as keywords."""

    opset: int | None
    device: str | None
    batch: int | None
    threads: int | Sequence[int] | None
    duration: float
    seed: int
    launches: int
    dtype: TunedDtype
    max_loss: float | None
