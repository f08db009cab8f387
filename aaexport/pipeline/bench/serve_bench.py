"""(model.onnx, options) → BenchReport: latency and throughput through onnxruntime, beside other ways to run it.

Every contender has a process of its own and they take turns in warm blocks, because two models that alternate
run by run in one process slow each other down: one's threads spin on while the other runs, and each empties the
other's caches. Ratios are taken pair by pair between blocks of one round.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Unpack

from aaexport.capture.source import require_source
from aaexport.device import parse_device
from aaexport.errors import AaexportError, ArgumentError, DataError, FolderError, broken_rule
from aaexport.folder import Dtype, ModelFolder
from aaexport.graph.files import file_digest, summarize
from aaexport.load.gpu_watch import GpuWatch, gpu_reader
from aaexport.load.measurement import BenchReport
from aaexport.nn.own_settings import own_settings
from aaexport.outcome import verb
from aaexport.overrides import overridden
from aaexport.pipeline.bench.account import Account
from aaexport.pipeline.bench.card import file_kind
from aaexport.pipeline.bench.contender import Contender, blaming
from aaexport.pipeline.bench.crowd import Crowd
from aaexport.pipeline.bench.device_memory import DeviceMemory
from aaexport.pipeline.bench.engines import with_engines
from aaexport.pipeline.bench.graph_sizes import fills_up, with_sizes
from aaexport.pipeline.bench.option_rules import validate
from aaexport.pipeline.bench.options import BenchOptions, BenchOverrides
from aaexport.pipeline.bench.samples import Samples, gather_samples
from aaexport.pipeline.bench.service import LiveService, live_service, null_service
from aaexport.pipeline.bench.session import BATCHES, BenchSession, left_out
from aaexport.pipeline.bench.specs import (
    find_file,
    our_spec,
    require_comparable_models,
    require_for_tensorrt,
    rival_specs,
    terms_of,
    truth_spec,
)
from aaexport.pipeline.bench.threads import Settled, as_tuned, launched, swept
from aaexport.pipeline.bench.worker_models import WorkerSpec
from aaexport.report.bench.as_json import bench_json, bench_text
from aaexport.report.bench.baseline import Baseline, read_baseline, why_not_comparable
from aaexport.runners.ort import device_by_default
from aaexport.writing import blaming_changes, identity, write_text

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
    """Measures a model folder's model.onnx, its file in float16 or int8, or any ONNX file.

    A folder's report is kept in it as bench.json, bench.fp16.json or bench.int8.json, unless it was interrupted.
    Where that cannot be written, a note of the report says so.

    Args:
        model: a model folder with a model.onnx, or the path of an ONNX file.
        options: what to measure, and how.
        tick: is told what is measured and the share that is done.
        overrides: fields of `BenchOptions` that are to be other than in `options`, or than their defaults.

    Raises:
        ArgumentError: an option breaks its rule, contradicts another, or the file.
        FolderError: the folder has no such file.
        GraphError, RunnerError: the file cannot be loaded, or torch.compile finds no compiler.
        ExportError: torch cannot export the network as `skew`.
        ProviderError: the device does not work here.
        DataError: the baseline, or the trace, cannot be read, or the baseline is of something else.
        MeasurementError: a contender died or hung.
        Interrupted: Ctrl-C came while it measured.
    """
    options = overridden(options or BenchOptions(), overrides, serve_bench)
    report, path, folder = measured(model, options, tick)
    if options.url:  # what the folder keeps is of its file
        return report
    is_of_folder = folder is not None and path == folder.onnx_of(options.dtype)
    if folder is not None and is_of_folder and not _would_replace_its_baseline(report, options, folder):
        return _kept(report, folder, options.dtype)
    return report


def measured(
    model: str | Path | ModelFolder, options: BenchOptions, tick: Tick
) -> tuple[BenchReport, Path, ModelFolder | None]:
    """As `serve_bench`, which keeps the report; with the file that was measured, and its folder."""
    validate(options)
    baseline = None if options.baseline is None else read_baseline(options.baseline)
    path, folder = find_file(model, options.dtype)
    _require_its_module(options, folder)
    require_comparable_models(options, folder)
    require_for_tensorrt(path, folder, options)
    device, decided = (options.device, None) if options.device else device_by_default()
    options = replace(options, device=device)
    validate(options)  # once more, of the device that it is: a contradiction is said before any process is started
    summary = summarize(path)
    digest, found = file_digest(path, summary.data_files), identity(path, summary.data_files)
    kind = file_kind(path)
    samples = gather_samples(summary, folder, options.seed, options.dims)
    options = with_sizes(options, samples, BATCHES, fills=fills_up(summary))
    terms = terms_of(path, folder, options, samples)
    with ExitStack() as stack:
        stack.enter_context(blaming_changes(path, "measured", summary.data_files))
        room = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aaexport-")))
        samples.save(room / "samples.npz")
        service = stack.enter_context(live_service(options, path.stem if folder is None else folder.name))
        engines = partial(with_engines, tick=tick)
        plain = our_spec(path, room, samples, options)
        spec = engines(plain)
        settled = _settled(options, folder, samples, spec, tick)
        options = settled.options
        plain, spec = (replace(each, threads=options.threads_each()) for each in (plain, spec))
        watch = stack.enter_context(_gpu_watch(device))
        memory = None if options.url else DeviceMemory(watch.memory, spec, room)
        # Before anything slow: it may be the device that does not work.
        ours = stack.enter_context(_of_ours(spec, service, options))
        specs = rival_specs(options, folder, plain, summary, room, tick)
        rivals, missing = _rivals(specs, options, stack, engines)
        null = None if service is None else stack.enter_context(_null(service, spec, options))
        session = BenchSession(ours, rivals, options, samples, room, tick, service, null, terms, watch, memory)
        of_device = [] if decided is None or options.url else [f"measured {decided}"]
        session.measured.launches, session.measured.notes = settled.launches, [*settled.notes, *missing, *of_device]
        session.start()
        bench = Account(path, digest, found, folder, options, samples, session, summary, kind)
        if baseline is not None:
            _require_comparable(baseline, bench.report())
        if options.launches_each > 1 and settled.launches is None:
            session.measured.launches = launched(options, spec, samples, tick)
        try:
            own = replace(spec, device="cpu", sessions=1, session={}, flush=False) if options.url else None
            session.check_answers(truth_spec(folder, options, spec, summary, room), own)
            session.measure()
        except KeyboardInterrupt:
            if not session.has_measured:
                raise
            raise Interrupted(bench.report()) from None
        return bench.report(baseline), path, folder


def _settled(
    options: BenchOptions, folder: ModelFolder | None, samples: Samples, spec: WorkerSpec, tick: Tick
) -> Settled:
    """How many threads: as was asked, as tuning.json has it, or of several the one that is fast and steady."""
    if options.sweeps:
        return swept(options, spec, samples, tick)
    return Settled(options) if options.url else as_tuned(options, folder, samples)


@contextmanager
def _gpu_watch(device: str) -> Iterator[GpuWatch]:
    """Of the GPU that is measured on; one that reads nothing on the CPU."""
    kind, index = parse_device(device)
    if kind == "cpu":
        yield GpuWatch(None)
        return
    with gpu_reader(index) as read, GpuWatch(read) as watch:
        yield watch


def _of_ours(spec: WorkerSpec, service: LiveService | None, options: BenchOptions) -> Contender:
    """What the report is of: the file, or the live service in its place, asked by as many processes as are wanted."""
    if service is None:
        return Contender(spec)
    asking = service.spec(spec, options)
    return Contender(asking) if options.client_processes == 1 else Crowd(asking, options.client_processes)


def _rivals(
    specs: Mapping[str, WorkerSpec],
    options: BenchOptions,
    stack: ExitStack,
    engines: Callable[[WorkerSpec], WorkerSpec],
) -> tuple[dict[str, Contender], list[str]]:
    """Those that start; and a note on each that does not, which must have been asked for by nobody."""
    rivals, missing = {}, []
    for name, spec in specs.items():
        try:
            with blaming(name):
                rivals[name] = stack.enter_context(Contender(engines(spec)))
        except AaexportError as error:
            if options.compare is not None:
                raise
            missing.append(left_out(error))
    return rivals, missing


@contextmanager
def _null(service: LiveService, spec: WorkerSpec, options: BenchOptions) -> Iterator[Contender]:
    """A client of a server that computes nothing; both are gone with the block."""
    with null_service(service, spec, options) as (asking, server):
        several = options.client_processes
        asks = Contender(asking) if several == 1 else Crowd(asking, several)
        with asks as client:
            client.beside = (server,)
            yield client


def _kept(report: BenchReport, folder: ModelFolder, dtype: Dtype) -> BenchReport:
    """The report, written into the folder; with a note of it where that cannot be written: it was measured."""
    try:
        write_text(folder.bench_of(dtype), bench_text(bench_json(report, raw=True)))
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


def _would_replace_its_baseline(report: BenchReport, options: BenchOptions, folder: ModelFolder) -> bool:
    """Whether the record is the baseline, and what comes now is slower, may be or is invalid: it would pass next."""
    if options.baseline is None or Path(options.baseline).resolve() != folder.bench_of(options.dtype).resolve():
        return False
    regression = report.regression
    return not report.valid or regression is None or regression.is_real or regression.unclear is not None


def _require_comparable(baseline: Baseline, report: BenchReport) -> None:
    """DataError, before the time is spent: what was measured of something else says nothing of a regression."""
    reason = why_not_comparable(baseline, report)
    if reason is not None:
        raise DataError(reason)
