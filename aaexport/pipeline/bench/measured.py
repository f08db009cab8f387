"""What a session of measuring has found by now: filled bit by bit, so that an interrupt leaves what there was."""

from __future__ import annotations

from dataclasses import dataclass, field

from aaexport.device import parse_device
from aaexport.load.gpu import GpuState, read_gpu, why_unreadable
from aaexport.load.gpu_watch import GpuLoad
from aaexport.load.launches import Launches
from aaexport.load.machine import Environment
from aaexport.load.measurement import AnswerCheck, Comparison, Load, Loss, Peak, Phases, Throughput
from aaexport.load.run import QueryLog, Trouble
from aaexport.load.statistics import Milliseconds
from aaexport.pipeline.bench.contender import Served
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
    loss: Loss | None = None
    peak: Peak | None = None
    phases: Phases | None = None
    gpu_before: GpuState | None = None
    gpu_after: GpuState | None = None
    gpu_load: GpuLoad | None = None
    environment: Environment | None = None
    statistics: ModelStatistics | None = None  # of a live service, of the queries in `blocks`
    null: Milliseconds | None = None  # latencies of a server that computes nothing
    trouble: Trouble = field(default_factory=Trouble)
    aborted: str | None = None
    notes: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    complete: bool = False

    def add(self, served: Served) -> None:
        """A block of ours, and what its answers were worth."""
        self.blocks.append(served.log)
        if served.statistics is not None:
            self.statistics = (self.statistics or ModelStatistics()) + served.statistics
        self.add_trouble(served)

    def add_trouble(self, served: Served) -> None:
        """What went wrong in a block that is not kept itself."""
        self.trouble = self.trouble + served.trouble
        self.aborted = self.aborted or served.aborted
        if self.check is not None:
            self.check = AnswerCheck(
                self.check.against,
                self.check.checked + served.checked,
                self.check.wrong + served.wrong,
                max(self.check.largest_error, served.largest_error),
            )

    def gpu(self, device: str) -> GpuState | None:
        """The state of the GPU now, if it is measured on one; a note if it cannot be read."""
        kind, index = parse_device(device)
        if kind == "cpu":
            return None
        state = read_gpu(index)
        reason = None if state is not None else f"the GPU's clocks and heat were not read: {why_unreadable(index)}"
        if reason and reason not in self.notes:
            self.notes.append(reason)
        return state
