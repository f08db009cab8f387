"""What was asked of threads, and what tuning.json stores → how many a session gets, and what is said of that."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from aaexport.cores import default_threads, usable_cores
from aaexport.device import parse_device
from aaexport.folder import ModelFolder
from aaexport.load.launches import Launches, called
from aaexport.load.machine import MachineWatch
from aaexport.pipeline.bench.launches import Tick, launch_in_turns
from aaexport.pipeline.bench.options import BenchOptions
from aaexport.pipeline.bench.samples import Samples
from aaexport.pipeline.bench.worker_models import WorkerSpec
from aaexport.report.tuned import tuned_threads


@dataclass(frozen=True)
class Settled:
    """One number of threads in `options`, the launches that it was chosen by, and notes on why it is that one."""

    options: BenchOptions
    launches: Launches | None = None
    notes: tuple[str, ...] = ()


def as_tuned(options: BenchOptions, folder: ModelFolder | None, samples: Samples) -> Settled:
    """The number that the folder's tuning.json stores, where none was asked for and it holds here; it is said.

    FolderError if there is a tuning.json that `tune` did not write so.
    """
    if options.threads is not None or folder is None or not folder.tuning_path.exists():
        return Settled(options)
    tuned = tuned_threads(folder.tuning_path)
    if tuned is None:
        return Settled(options)
    target = parse_device(options.device or "cpu")[0]
    reason = tuned.why_not(target, _batch(options, samples), MachineWatch().environment())
    if reason is None and options.workers > 1:
        reason = f"{options.workers} sessions share the cores"
    if reason is not None:
        return Settled(options, notes=(f"the threads of tuning.json are left aside: {reason}",))
    return Settled(replace(options, threads=tuned.threads), notes=(f"{tuned}; --threads N takes others",))


def swept(options: BenchOptions, spec: WorkerSpec, samples: Samples, tick: Tick) -> Settled:
    """The number of several that is fast and steady; the first of them if that is withheld."""
    launches = launched(options, spec, samples, tick)
    if launches.named is None:
        first = options.thread_settings[0]
        note = f"no number of threads is named, so the other figures are of {called(first)}: {launches.withheld}"
        return Settled(replace(options, threads=first), launches, (note,))
    threads = launches.named.threads
    note = f"the other figures are of {called(threads)}; `aaexport tune` stores what it measures so"
    return Settled(replace(options, threads=threads), launches, (note,))


def launched(options: BenchOptions, spec: WorkerSpec, samples: Samples, tick: Tick) -> Launches:
    """Several launches of each setting, as the options have them."""
    return launch_in_turns(
        spec,
        options.thread_settings,
        options.launches_each,
        batch=_batch(options, samples),
        warmup=options.warmup,
        duration=options.seconds,
        tick=tick,
    )


def note_on_default(options: BenchOptions) -> str | None:
    """That a binding or a quota decides, where nobody asked for threads and the runtime would count the machine."""
    threads = default_threads()
    if options.threads is not None or options.workers > 1 or threads is None:
        return None
    share = f"{usable_cores()} of {os.cpu_count()} cores are this process's by its binding or quota"
    return f"{share}: {called(threads)}, as none were asked for"


def _batch(options: BenchOptions, samples: Samples) -> int:
    return options.load(samples.fixed_batch, batched=samples.batched).samples_per_query
