"""What a measurement found: raw latencies with everything needed to judge them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aaexport.load.machine import Environment
from aaexport.load.statistics import Milliseconds, Ratio, percentile

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Throughput:
    """Images a second at one batch size, queries one after the other, and a query's p50 in ms (None if withheld)."""

    batch: int
    images_per_second: float
    p50: float | None


@dataclass(frozen=True)
class Comparison:
    """Another way to run the same network, measured in the same run.

    Attributes:
        name: `eager`, `compile` or `skew`.
        label: the same for people, with device and precision.
        p50: in milliseconds; None if withheld.
        cold_start: seconds of the first query after loading, which compiles where there is something to compile.
        ratio: its latency divided by that of model.onnx, pair by pair between blocks of one round.
        withheld: why `ratio` is None: something else than the two models decided it.
        blocks: raw latencies, block by block.
    """

    name: str
    label: str
    p50: float | None
    cold_start: float
    ratio: Ratio | None
    withheld: str | None
    blocks: tuple[Milliseconds, ...]


@dataclass(frozen=True)
class BenchReport:
    """One measurement. Latencies are in milliseconds; a percentile is None where the sample is too small for it.

    Attributes:
        model: the folder's or file's name.
        onnx_sha256: of the file that was measured.
        scenario: `single-stream`.
        label, provider: the runtime and the execution provider that really ran.
        threads: intra-op threads; None is each runtime's default.
        batch: images a query of the latency part.
        inputs: what was fed, and why if it is not held-out images.
        blocks: raw latencies, block by block.
        cold_start: seconds of the first query after loading.
        throughput: by batch size.
        comparisons: what was measured beside it; empty without PyTorch weights beside the file.
        environment: the machine, and how much of it was stolen.
        tools: versions.
        warnings: what to think of before believing the numbers, each with its remedy.
        reasons: why the measurement is invalid; empty if it is valid.
    """

    model: str
    onnx_sha256: str
    scenario: str
    label: str
    provider: str
    threads: int | None
    batch: int
    inputs: str
    blocks: tuple[Milliseconds, ...]
    cold_start: float
    throughput: tuple[Throughput, ...]
    comparisons: tuple[Comparison, ...]
    environment: Environment
    tools: dict[str, str]
    warnings: tuple[str, ...]
    reasons: tuple[str, ...]

    @property
    def valid(self) -> bool:
        """Whether the numbers may be quoted."""
        return not self.reasons

    @property
    def latencies(self) -> Milliseconds:
        """All counted latencies."""
        return np.concatenate(self.blocks)

    def percentile(self, p: float) -> float | None:
        """The p-th percentile over all blocks, in milliseconds."""
        return percentile(self.latencies, p)
