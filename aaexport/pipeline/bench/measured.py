"""What a session of measuring has found by now: filled bit by bit, so that an interrupt leaves what there was."""

from __future__ import annotations

from dataclasses import dataclass, field

from aaexport.load.gpu import GpuState
from aaexport.load.launches import Launches
from aaexport.load.machine import Environment
from aaexport.load.measurement import AnswerCheck, Comparison, Load, Peak, Phases, Throughput
from aaexport.load.run import QueryLog, Trouble
from aaexport.load.statistics import Milliseconds
from aaexport.serving.protocol import ModelStatistics


@dataclass
class Measured:
    """As the fields of `BenchReport`; `complete` once the session is at its end."""

    load: Load
    blocks: list[QueryLog] = field(default_factory=list)
    launches: Launches | None = None
    throughput: list[Throughput] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    check: AnswerCheck | None = None
    peak: Peak | None = None
    phases: Phases | None = None
    gpu_before: GpuState | None = None
    gpu_after: GpuState | None = None
    environment: Environment | None = None
    statistics: ModelStatistics | None = None  # of a live service, of the queries in `blocks`
    null: Milliseconds | None = None  # latencies of a server that computes nothing
    trouble: Trouble = field(default_factory=Trouble)
    aborted: str | None = None
    notes: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    complete: bool = False
