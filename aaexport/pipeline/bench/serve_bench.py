"""(model.onnx, options) → BenchReport: latency and throughput through onnxruntime, beside other ways to run it.

Every contender has a process of its own and they take turns in warm blocks, because two models that alternate
run by run in one process slow each other down: one's threads spin on while the other runs, and each empties the
other's caches. Ratios are taken pair by pair between blocks of one round.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from aaexport.capture.source import require_source
from aaexport.cores import usable_cores
from aaexport.errors import ArgumentError, DataError, FolderError, broken_rule, parameter
from aaexport.folder import ModelFolder, find_model, tool_versions
from aaexport.graph.files import GraphSummary, file_digest, summarize
from aaexport.load.doubts import warnings_about
from aaexport.load.machine import MachineWatch
from aaexport.load.measurement import BenchReport, ServiceTimes
from aaexport.load.regression import MIN_BLOCKS, compare_with_baseline, without_verdict
from aaexport.load.statistics import percentile
from aaexport.load.validity import note_on_mlperf, why_invalid, why_no_ratio
from aaexport.nn.own_settings import own_settings
from aaexport.outcome import verb
from aaexport.overrides import overridden
from aaexport.parity.report import Placement
from aaexport.pipeline.bench.card import model_card
from aaexport.pipeline.bench.contender import OURS, Contender, blaming
from aaexport.pipeline.bench.crowd import Crowd
from aaexport.pipeline.bench.options import ALLOWED_REGRESSION, ONE_SESSION, BenchOptions, BenchOverrides
from aaexport.pipeline.bench.rival_names import IN_PROCESS, is_other_model
from aaexport.pipeline.bench.rivals import other_spec, rival_spec
from aaexport.pipeline.bench.samples import Samples, gather_samples
from aaexport.pipeline.bench.service import LiveService, live_service, notes_on, null_service, with_counted
from aaexport.pipeline.bench.session import BenchSession
from aaexport.pipeline.bench.threads import Settled, as_tuned, launched, note_on_default, swept
from aaexport.pipeline.bench.worker_models import WorkerSpec
from aaexport.report.bench.as_json import bench_json, bench_text
from aaexport.report.bench.baseline import Baseline, read_baseline, why_not_comparable
from aaexport.runners.ort import best_device
from aaexport.runners.ort_settings import SessionSettings
from aaexport.writing import atomic_path, blaming_changes, identity

Tick = Callable[[str, float], None]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while measuring; `report` is what was measured until then, marked as incomplete."""

    def __init__(self, report: BenchReport) -> None:
        super().__init__()
        self.report = report


@verb
@own_settings()
def serve_bench(
    model: str | Path | ModelFolder,
    options: BenchOptions | None = None,
    *,
    tick: Tick = lambda step, share: None,
    **overrides: Unpack[BenchOverrides],
) -> BenchReport:
    """Measures a model folder's model.onnx, or any ONNX file.

    A folder's report is kept in it as bench.json, unless it was interrupted. Where that cannot be written, a note of
    the report says so.

    Args:
        model: a model folder with a model.onnx, or the path of an ONNX file.
        options: what to measure, and how.
        tick: is told what is measured and the share that is done.
        overrides: fields of `BenchOptions` that are to be other than in `options`, or than their defaults.

    Raises:
        ArgumentError: an option breaks its rule, or contradicts another.
        FolderError: the folder has no model.onnx.
        GraphError, RunnerError: the file cannot be loaded, or torch.compile finds no compiler.
        ExportError: torch cannot export the network as `skew`.
        ProviderError: the device does not work here.
        DataError: the baseline, or the trace, cannot be read, or the baseline is of something else.
        MeasurementError: a contender died or hung.
        Interrupted: Ctrl-C came while it measured.
    """
    options = overridden(options or BenchOptions(), overrides, serve_bench)
    options.validate()
    baseline = None if options.baseline is None else read_baseline(options.baseline)
    path, folder = _find(model)
    _require_its_module(options, folder)
    _require_comparable_models(options, folder)
    device = options.device or best_device()
    options = replace(options, device=device)
    SessionSettings(**options.session).check(device)  # a contradiction is said before any process is started
    summary = summarize(path)
    digest, found = file_digest(path, summary.data_files), identity(path, summary.data_files)
    samples = gather_samples(summary, folder, options.seed, options.dims)
    with ExitStack() as stack:
        stack.enter_context(blaming_changes(path, "measured", summary.data_files))
        room = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aaexport-")))
        samples.save(room / "samples.npz")
        service = stack.enter_context(live_service(options, path.stem if folder is None else folder.name))
        settled = Settled(options) if options.url else as_tuned(options, folder, samples)
        if options.sweeps:
            settled = swept(options, _spec(path, room, samples, options), samples, tick)
        options = settled.options
        spec = _spec(path, room, samples, options)
        # Before anything slow: it may be the device that does not work.
        ours = stack.enter_context(_of_ours(spec, service, options))
        specs = _rival_specs(options, folder, spec, summary, room, tick)
        rivals = {}
        for name, one in specs.items():
            with blaming(name):
                rivals[name] = stack.enter_context(Contender(one))
        null = None if service is None else stack.enter_context(_null(service, spec, options))
        session = BenchSession(ours, rivals, options, samples, room, tick, service, null)
        session.measured.launches, session.measured.notes = settled.launches, [*settled.notes]
        session.start()
        bench = _Bench(path, digest, found, folder, options, samples, session, summary)
        if baseline is not None:
            _require_comparable(baseline, bench.report())
        if options.launches_each > 1 and settled.launches is None:
            session.measured.launches = launched(options, spec, samples, tick)
        try:
            session.check_answers(_truth_spec(folder, options, spec, summary, room))
            session.measure()
        except KeyboardInterrupt:
            if not session.has_measured:
                raise
            raise Interrupted(bench.report()) from None
        report = bench.report(baseline)
    if options.url:  # what the folder keeps is of its file
        return report
    if folder is not None and path == folder.onnx_path and not _would_replace_its_baseline(report, options, folder):
        return _kept(report, folder)
    return report


def _of_ours(spec: WorkerSpec, service: LiveService | None, options: BenchOptions) -> Contender:
    """What the report is of: the file, or the live service in its place, asked by as many processes as are wanted."""
    if service is None:
        return Contender(spec)
    asking = service.spec(spec, options)
    return Contender(asking) if options.client_processes == 1 else Crowd(asking, options.client_processes)


@contextmanager
def _null(service: LiveService, spec: WorkerSpec, options: BenchOptions) -> Iterator[Contender]:
    """A client of a server that computes nothing; both are gone with the block."""
    with null_service(service, spec, options) as (asking, server):
        several = options.client_processes
        asks = Contender(asking) if several == 1 else Crowd(asking, several)
        with asks as client:
            client.beside = (server,)
            yield client


def _kept(report: BenchReport, folder: ModelFolder) -> BenchReport:
    """The report, written into the folder; with a note of it where that cannot be written: it was measured."""
    try:
        with atomic_path(folder.bench_path) as temporary:
            temporary.write_text(bench_text(bench_json(report, raw=True)), encoding="utf-8")
        folder.write_manifest()
    except FolderError as error:
        return replace(report, notes=(*report.notes, f"the measurement is not kept: {error}"))
    return report


def _require_its_module(options: BenchOptions, folder: ModelFolder | None) -> None:
    """ArgumentError if a module is named that the folder was not made of."""
    if options.module is None:
        return
    require_source(options.module)
    if folder is None or folder.module_recipe is None:
        raise ArgumentError(broken_rule("module", "be given for a folder that was made of one", options.module))


def _require_comparable_models(options: BenchOptions, folder: ModelFolder | None) -> None:
    """ArgumentError if what was asked for by name needs weights that are not there."""
    missing = [name for name in options.compare or () if not is_other_model(name) and name != IN_PROCESS]
    if missing and not runs_in_torch(folder, options):
        rule, remedy = "have PyTorch weights beside the file", "leave it out"
        if folder is not None and folder.module_recipe is not None:
            rule, remedy = "have the module that the folder was made of", "give it with --module FILE.py:NAME"
        raise ArgumentError(broken_rule(f"{parameter('compare')} {','.join(missing)}", rule, "none", remedy))


def _would_replace_its_baseline(report: BenchReport, options: BenchOptions, folder: ModelFolder) -> bool:
    """Whether the record is the baseline, and what comes now is slower, may be or is invalid: it would pass next."""
    if options.baseline is None or Path(options.baseline).resolve() != folder.bench_path.resolve():
        return False
    regression = report.regression
    return not report.valid or regression is None or regression.is_real or regression.unclear is not None


def _find(model: str | Path | ModelFolder) -> tuple[Path, ModelFolder | None]:
    if not isinstance(model, ModelFolder):
        if Path(model).suffix == ".onnx" or Path(model).is_file():
            return Path(model), None
        model = find_model(model)
    if not model.onnx_path.is_file():
        remedy = f"write it with `aaexport convert {model.path}`"
        raise FolderError(f"{model.path} has no model.onnx yet; {remedy}")
    return model.onnx_path, model


def _spec(path: Path, room: Path, samples: Samples, options: BenchOptions) -> WorkerSpec:
    assert options.device is not None
    return WorkerSpec(
        "onnxruntime",
        str(path),
        str(room / "samples.npz"),
        options.device,
        options.threads_each(),
        sessions=options.workers,
        batched=samples.batched,
        session=_plain(options.session),
    )


def _plain(session: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON can carry it to the worker."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in session.items()}


def _rival_specs(
    options: BenchOptions, folder: ModelFolder | None, ours: WorkerSpec, summary: GraphSummary, room: Path, tick: Tick
) -> dict[str, WorkerSpec]:
    """Of those that can be measured beside a file: the network itself needs its weights."""
    specs = {}
    for name in rivals_of(options, folder):
        tick(f"preparing {name}", 0.0)
        if name == IN_PROCESS:
            specs[name] = replace(ours, sessions=1)
        elif is_other_model(name):
            specs[name] = other_spec(name, ours)
        elif runs_in_torch(folder, options):
            assert folder is not None
            specs[name] = rival_spec(name, folder, ours, summary, room, options.module)
    return specs


def rivals_of(options: BenchOptions, folder: ModelFolder | None) -> Sequence[str]:
    """What was asked for, or by default eager PyTorch, where there is such and the load suits it."""
    if options.compare is not None:
        return options.compare
    if options.url:
        return (IN_PROCESS,) if options.scenario in ONE_SESSION else ()
    return () if options.is_server or not runs_in_torch(folder, options) else ("eager",)


def runs_in_torch(folder: ModelFolder | None, options: BenchOptions) -> bool:
    """Whether PyTorch can run the network: it has weights, and its code is ours or may be imported."""
    if folder is None or not folder.weights_path.is_file():
        return False
    return folder.module_recipe is None or options.module is not None


def _truth_spec(
    folder: ModelFolder | None, options: BenchOptions, ours: WorkerSpec, summary: GraphSummary, room: Path
) -> WorkerSpec | None:
    """What answers are compared with: PyTorch's, where there is one; on the CPU, in float32 and nothing less."""
    if folder is not None and folder.module_recipe is not None and options.module is None:
        is_whole = folder.golden_path.is_file()
        golden = replace(ours, runtime="golden", model=str(folder.path), device="cpu", sessions=1)
        return golden if is_whole and not options.dims else None
    if folder is None or not runs_in_torch(folder, options):
        # Of a live service the file itself is what it must answer as.
        return replace(ours, device="cpu", sessions=1, session={}) if options.url else None
    return replace(rival_spec("eager", folder, ours, summary, room, options.module), device="cpu", sessions=1)


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
        name=OURS if report.service is None else "the service",
    )


def _require_comparable(baseline: Baseline, report: BenchReport) -> None:
    """DataError, before the time is spent: what was measured of something else says nothing of a regression."""
    reason = why_not_comparable(baseline, report)
    if reason is not None:
        raise DataError(reason)


@dataclass(frozen=True)
class _Bench:
    """A session and what it measures."""

    path: Path
    digest: str
    found: tuple[int, ...] | None  # the file's identity when its digest was taken
    folder: ModelFolder | None
    options: BenchOptions
    samples: Samples
    session: BenchSession
    summary: GraphSummary

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
            comparisons=tuple(measured.comparisons),
            check=measured.check,
            peak=measured.peak,
            placement=Placement.of(ours.placement, ours.provider),
            phases=measured.phases,
            gpu_before=measured.gpu_before,
            gpu_after=measured.gpu_after,
            notes=(*self.samples.notes, *self._left_out(), *measured.notes),
            complete=measured.complete,
            card=model_card(self.summary, self.digest, self.folder),
            service=self._service(),
        )
        report = replace(report, reasons=(*measured.reasons, *self._reasons(report)), warnings=_warnings(report))
        remarks = [note_on_mlperf(report.blocks, report.load, options.rules)]
        if options.allow_fallback and report.placement is not None:
            remarks.append(report.placement.fallen_back)
        report = replace(report, notes=(*report.notes, *filter(None, remarks)))
        return report if baseline is None else self._beside(baseline, report)

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
