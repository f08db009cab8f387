"""What a session has measured by now → BenchReport, with its verdict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from aaexport.cores import usable_cores
from aaexport.folder import Dtype, ModelFolder, tool_versions
from aaexport.graph.files import GraphSummary
from aaexport.load.doubts import warnings_about
from aaexport.load.machine import MachineWatch
from aaexport.load.measurement import BenchReport, Comparison, Loss, ServiceTimes
from aaexport.load.regression import MIN_BLOCKS, compare_with_baseline, without_verdict
from aaexport.load.statistics import percentile
from aaexport.load.validity import note_on_mlperf, why_invalid, why_no_ratio
from aaexport.parity.report import Placement
from aaexport.pipeline.bench.card import FileKind, known_accuracy, model_card
from aaexport.pipeline.bench.contender import OURS
from aaexport.pipeline.bench.options import ALLOWED_REGRESSION, BenchOptions
from aaexport.pipeline.bench.rival_names import IN_PROCESS, is_dtype
from aaexport.pipeline.bench.samples import Samples
from aaexport.pipeline.bench.service import notes_on, with_counted
from aaexport.pipeline.bench.session import BenchSession
from aaexport.pipeline.bench.threads import note_on_default
from aaexport.report.bench.baseline import Baseline
from aaexport.writing import identity


@dataclass(frozen=True)
class Account:
    """A session, and what it is of."""

    path: Path
    digest: str
    found: tuple[int, ...] | None  # the file's identity when its digest was taken
    folder: ModelFolder | None
    options: BenchOptions
    samples: Samples
    session: BenchSession
    summary: GraphSummary
    kind: FileKind

    def report(self, baseline: Baseline | None = None) -> BenchReport:
        """With the verdict, of what is measured by now; incomplete until the session is at its end."""
        measured, options, ours = self.session.measured, self.options, self.session.ours
        report = BenchReport(
            model=self.folder.name if self.folder is not None else self.path.name,
            onnx_sha256=self.digest,
            load=measured.load,
            label=ours.label,
            provider=ours.provider,
            threads=None if options.url else options.threads_each(),
            inputs=self.samples.name,
            blocks=tuple(measured.blocks),
            cold_start=self.session.cold_starts[OURS],
            environment=measured.environment or MachineWatch().environment(),
            tools=tool_versions(),
            settings=ours.settings,
            launches=measured.launches,
            throughput=tuple(measured.throughput),
            comparisons=tuple(map(self._with_accuracy, measured.comparisons)),
            check=measured.check,
            peak=measured.peak,
            placement=Placement.of(ours.placement, ours.provider),
            phases=measured.phases,
            gpu_before=measured.gpu_before,
            gpu_after=measured.gpu_after,
            gpu_load=measured.gpu_load,
            notes=(*self.samples.notes, *self._left_out(), *measured.notes),
            complete=measured.complete,
            card=model_card(self.summary, self.kind, self.digest, self.folder, options.dtype),
            service=self._service(),
            loss=None if measured.loss is None else self._known(measured.loss, options.dtype),
        )
        report = replace(report, reasons=(*measured.reasons, *self._reasons(report)), warnings=_warnings(report))
        remarks = [note_on_mlperf(report.blocks, report.load, options.rules)]
        if options.allow_fallback and report.placement is not None:
            remarks.append(report.placement.fallen_back)
        report = replace(report, notes=(*report.notes, *filter(None, remarks)))
        return report if baseline is None else self._beside(baseline, report)

    def _with_accuracy(self, other: Comparison) -> Comparison:
        if other.loss is not None and is_dtype(other.name):
            return replace(other, loss=self._known(other.loss, other.name))
        if other.loss is not None and other.name == IN_PROCESS:
            return replace(other, loss=self._known(other.loss, self.options.dtype))
        return other

    def _known(self, loss: Loss, dtype: Dtype) -> Loss:
        """The loss with the accuracy that the folder's records have of that file."""
        known = None if self.folder is None else known_accuracy(self.folder, dtype)
        return loss if known is None else replace(loss, accuracy=known[0], accuracy_images=known[1])

    def _service(self) -> ServiceTimes | None:
        """Where the time went, by what the service itself counted meanwhile."""
        session, measured = self.session, self.session.measured
        if session.service is None:
            return None
        facts, counted = session.service.facts, measured.statistics
        latencies = [block.latencies for block in measured.blocks if len(block.latencies)]
        query = float(np.concatenate(latencies).mean()) if latencies else None
        found = ServiceTimes(
            urls=session.service.urls,
            server=f"{facts.server.name} {facts.server.version}",
            model=facts.model.name,
            versions=facts.model.versions,
            max_batch=facts.max_batch,
            client_processes=self.options.client_processes,
            client_p50=None if measured.null is None else percentile(measured.null, 50),
            client_p99=None if measured.null is None else percentile(measured.null, 99),
            query=query,
        )
        return found if counted is None or query is None else with_counted(found, counted)

    def _reasons(self, report: BenchReport) -> tuple[str, ...]:
        measured, options = self.session.measured, self.options
        # One that is gone by now was loaded before: what was measured is of the file that there was.
        is_another = identity(self.path, self.summary.data_files) not in (None, self.found)
        rule = "stay as it is while it is measured, got one that was written to meanwhile; measure it again"
        changed = (f"{self.path.name} must {rule}",) if is_another else ()
        return changed + why_invalid(
            report.blocks,
            report.load,
            None if options.trace is not None else options.duration,
            rules=options.rules,
            trouble=measured.trouble,
            aborted=measured.aborted,
            check=report.check,
            comparisons=report.comparisons,
            placement=report.placement,
            allow_fallback=options.allow_fallback,
            environment=report.environment,
        )

    def _beside(self, baseline: Baseline, report: BenchReport) -> BenchReport:
        """The report with what has become of p50 since the baseline: by launches, where both have enough of them."""
        old = [block.latencies for block in baseline.blocks] or [np.asarray([median]) for median in baseline.medians]
        new = [block.latencies for block in report.blocks]
        launches = () if report.launches is None else report.launches.of(report.threads)
        if min(len(launches), len(baseline.launches)) >= MIN_BLOCKS:
            old, new = [np.asarray([median]) for median in baseline.launches], list(launches)
        allowed = self.options.max_regression
        allowed = ALLOWED_REGRESSION if allowed is None else allowed
        regression = compare_with_baseline(old, new, allowed, str(baseline.path))
        disturbed = why_no_ratio(report.environment)
        if disturbed is not None:
            regression = without_verdict(regression, disturbed)
        return replace(report, regression=regression)

    def _has_no_attention(self) -> bool:
        folder = self.folder
        return folder is not None and folder.module_recipe is None and folder.recipe.attention is None

    def _left_out(self) -> Iterator[str]:
        """What was asked for and could not be compared, or is not what its name makes one expect."""
        fixed, options = self.samples.fixed_batch, self.options
        wishes = (("batches of at most", options.max_batch), ("images a query:", options.samples_per_query))
        for wish, asked in wishes:
            if fixed is not None and self.samples.batched and asked not in (None, fixed):
                yield f"the file fixes the batch at {fixed}: {wish} {asked} were not to be had"
        threads = (options.threads_each() or 0) * options.workers
        if threads > usable_cores():
            yield f"{threads} threads share {usable_cores()} cores: they wait for each other; take fewer"
        if not options.url and (by_default := note_on_default(options)) is not None:
            yield by_default
        if "skew" in self.session.rivals and self._has_no_attention():
            yield "the network has no attention: skew is its plain torch.onnx.export, and nothing else"
        if self.options.workers > 1 and self.options.threads is None:
            each = self.options.threads_each()
            if not self.options.url:
                yield f"{self.options.workers} sessions share the cores, {each} threads each, as none were asked for"
        if (service := self.session.service) is not None:
            yield from notes_on(service, self.digest)


def _warnings(report: BenchReport) -> tuple[str, ...]:
    of_launches = () if report.launches is None else report.launches.warnings
    return of_launches + warnings_about(
        report.blocks,
        report.load,
        report.environment,
        comparisons=report.comparisons,
        phases=report.phases,
        gpu_before=report.gpu_before,
        gpu_after=report.gpu_after,
        gpu_load=report.gpu_load,
        graphs=bool(report.settings.get("cuda_graph")),
        stays=bool(report.settings.get("resident")),
        pinned=bool(report.settings.get("pinned")),
        on_cpu=report.placement is not None and bool(report.placement.on_cpu),
        name=OURS if report.service is None else "the service",
    )
