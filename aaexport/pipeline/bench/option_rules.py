"""BenchOptions → the first rule that they break: ranges of single values, what goes with what, files to be there."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

from aaexport.capture.source import require_file, require_source
from aaexport.device import MAX_THREADS, parse_device
from aaexport.errors import ArgumentError, DataError, broken_rule, parameter
from aaexport.folder import DTYPES
from aaexport.load.lengths import RuleSet, queries_of
from aaexport.pipeline.bench.options import FEWEST, MOST_LAUNCHES, ONE_SESSION, BenchOptions
from aaexport.pipeline.bench.rival_names import IN_PROCESS, check_rivals, is_other_model, other_file
from aaexport.recipe import MAX_BATCH
from aaexport.runners.ort_settings import SessionSettings
from aaexport.serving.address import check_service

SCENARIOS = ("single-stream", "multi-stream", "offline", "server")
ARRIVALS = ("poisson", "constant", "trace")
LONGEST = 86_400  # seconds: a day
INFINITY = float("inf")
MAX_PROCESSES = 64

Rule = tuple[bool, str, str, object]  # whether it holds, of what, which, and what was given instead


def validate(options: BenchOptions) -> None:
    """ArgumentError for the first that breaks its rule; so it can be said before any work is done."""
    if options.device is not None:
        parse_device(options.device)
    for holds, name, rule, got in (*_ranges(options), *_contradictions(options)):
        if not holds:
            raise ArgumentError(broken_rule(name, rule, got))
    if options.compare is not None:
        check_rivals(options.compare)
        if IN_PROCESS in options.compare and not options.url:
            raise ArgumentError(broken_rule("compare", f"be others without {parameter('url')}", IN_PROCESS))
        if options.dtype in options.compare:
            rule = f"be others than the file that is measured ({parameter('dtype')})"
            raise ArgumentError(broken_rule("compare", rule, options.dtype))
    check_service(options.url, options.served_as, options.timeout, options.ca)
    settings = SessionSettings(**options.session)
    if options.device is not None:
        settings.check(options.device)
    if options.trace is not None:
        if not Path(options.trace).exists():
            raise ArgumentError(broken_rule("trace", "be a file of times", str(options.trace), "it is not there"))
        from aaexport.load.arrivals import trace

        trace(options.trace)
    elif options.rate is not None:  # how many queries that would be, is said before anything is done
        queries_of(options.rate, options.seconds, options.least_queries)


def require_files(options: BenchOptions) -> None:
    """What can be seen of the files it names before any work; `validate` has passed.

    Raises:
        DataError: the baseline is not there.
        GraphError, FolderError: a file or folder to compare with is not there, or was not converted.
        ModuleError: `module` has another form, or its file is not there.
    """
    if options.baseline is not None and not Path(options.baseline).exists():
        raise DataError(f"baseline {options.baseline} cannot be read: {os.strerror(errno.ENOENT)}")
    for name in options.compare or ():
        if is_other_model(name):
            other_file(name)
    if options.module is not None:
        require_file(require_source(options.module))


def _ranges(options: BenchOptions) -> Iterator[Rule]:
    yield options.scenario in SCENARIOS, "scenario", f"be one of {', '.join(SCENARIOS)}", options.scenario
    yield options.rules in get_args(RuleSet), "rules", f"be one of {', '.join(get_args(RuleSet))}", options.rules
    yield options.dtype in DTYPES, "dtype", f"be one of {', '.join(DTYPES)}", options.dtype
    yield options.arrivals in (None, *ARRIVALS), "arrivals", f"be one of {', '.join(ARRIVALS)}", options.arrivals
    yield 0 < options.duration <= LONGEST, "duration", f"be above 0 and at most {LONGEST:,} seconds", options.duration
    yield 0 <= options.warmup <= LONGEST, "warmup", f"be between 0 and {LONGEST:,} seconds", options.warmup
    settles = options.settle is None or 0 <= options.settle <= LONGEST
    yield settles, "settle", f"be between 0 and {LONGEST:,} seconds", options.settle
    known = options.batches is None or options.sweeps_batches or not isinstance(options.batches, str)
    yield known, "batches", "be numbers, or sweep", options.batches
    rule = "be one or more numbers ≥ 1"
    yield options.sizes is None or min(options.sizes, default=0) >= 1, "batches", rule, options.batches
    yield min(options.concurrency, default=1) >= 1, "concurrency", "be numbers ≥ 1", options.concurrency
    rule = f"be between 1 and {MAX_PROCESSES}"
    yield 1 <= options.client_processes <= MAX_PROCESSES, "client_processes", rule, options.client_processes
    yield 1 <= options.workers <= MAX_THREADS, "workers", f"be between 1 and {MAX_THREADS}", options.workers
    yield from thread_rules(options.threads)
    launches = options.launches
    rule = f"be between 1 and {MOST_LAUNCHES}"
    yield launches is None or 1 <= launches <= MOST_LAUNCHES, "launches", rule, launches
    for name in ("samples_per_query", "max_batch"):
        got = getattr(options, name)
        yield got is None or got >= 1, name, "be at least 1", got
        yield got is None or got <= MAX_BATCH, name, f"be at most {MAX_BATCH}", got
    largest = max(options.sizes or (1,))
    yield largest <= MAX_BATCH, "batches", f"be numbers of at most {MAX_BATCH}", largest
    most = max(options.concurrency or (1,))
    yield most <= MAX_THREADS, "concurrency", f"be numbers of at most {MAX_THREADS}", most
    for name, unit in (("rate", "queries a second"), ("latency_bound", "ms")):
        got = getattr(options, name)
        yield got is None or 0 < got < INFINITY, name, f"be above 0 {unit}", got
    yield (
        options.max_delay is None or 0 <= options.max_delay < INFINITY,
        "max_delay",
        "be at least 0 ms",
        options.max_delay,
    )
    allowed = options.max_regression
    yield allowed is None or 0 <= allowed < INFINITY, "max_regression", "be at least 0 %", allowed


def _contradictions(options: BenchOptions) -> Iterator[Rule]:
    yield from _of_launches(options)
    yield from _of_service(options)
    yield from _of_gpu(options)
    schedules = [name for name in ("rate", "trace", "find_peak") if getattr(options, name)]
    if options.is_server:
        rule = f"have exactly one of {parameter('rate')}, {parameter('trace')} and {parameter('find_peak')}"
        yield len(schedules) == 1, "the server scenario", rule, " and ".join(map(parameter, schedules)) or "none"
        bounded = not options.find_peak or options.latency_bound is not None
        yield bounded, "find_peak", f"have a latency bound ({parameter('latency_bound')})", "none"
        fits = options.arrivals is None or (options.arrivals == "trace") == (options.trace is not None)
        yield fits, "arrivals", f"be trace with {parameter('trace')}, and only then", options.arrivals
        yield not options.concurrency, "concurrency", "go with a closed loop", "the server scenario"
        rule = f"go with a closed loop ({parameter('max_batch')} is the server's)"
        yield options.batches is None, "batches", rule, options.batches
    else:
        for name in ("rate", "arrivals", "trace", "latency_bound", "find_peak"):
            got = getattr(options, name)
            yield not got, name, "go with the server scenario", options.scenario
    if not options.shares_batches:
        rule = f"go with server, offline or {parameter('concurrency')}"
        for name in ("max_batch", "max_delay"):
            yield getattr(options, name) is None, name, rule, options.scenario
        yield options.workers == 1, "workers", rule, options.scenario
    if options.find_peak or options.scenario == "offline":
        what = parameter("find_peak") if options.find_peak else "offline"
        yield options.baseline is None, "baseline", "go with a given load", what
    if options.trace is not None:
        yield not options.compare, "compare", f"go with {parameter('rate')}, not with a trace", parameter("trace")
    if options.find_peak:
        rule = f"go with {parameter('rate')}, not with a search"
        yield not options.compare, "compare", rule, parameter("find_peak")
    if options.scenario in ("single-stream", "offline"):
        rule = "go with multi-stream or server"
        yield options.samples_per_query is None, "samples_per_query", rule, options.scenario
    has_baseline = options.max_regression is None or options.baseline is not None
    yield has_baseline, "max_regression", f"go with {parameter('baseline')}", "none"


def _of_service(options: BenchOptions) -> Iterator[Rule]:
    """What a live service decides itself, and what only one has."""
    if not options.url:
        where = f"go with {parameter('url')}"
        yield options.client_processes == 1, "client_processes", where, options.client_processes
        return
    rule = f"be the service's own with {parameter('url')}"
    yield options.max_batch is None or options.scenario == "offline", "max_batch", rule, options.max_batch
    yield options.max_delay is None, "max_delay", rule, options.max_delay
    yield not options.sweeps, "threads", f"be one number with {parameter('url')}", options.threads
    yield options.launches_each == 1, "launches", f"go without {parameter('url')}", options.launches
    rule = f"go with {parameter('rate')} or several clients if there are more than 1"
    shares = (
        options.client_processes == 1 or (options.is_server and options.trace is None) or bool(options.concurrency)
    )
    yield shares, "client_processes", rule, options.client_processes


def _of_gpu(options: BenchOptions) -> Iterator[Rule]:
    """What goes from query to query through the same arrays, or is done between two of them."""
    one_by_one = options.scenario in ONE_SESSION and not options.concurrency
    rule = f"go with {' or '.join(ONE_SESSION)}, without {parameter('concurrency')}"
    for name in ("resident", "pinned"):
        yield one_by_one or not options.session.get(name), name, rule, options.scenario
    yield one_by_one or not options.flush_l2, "flush_l2", rule, options.scenario
    on_cuda = options.device is None or parse_device(options.device)[0] == "cuda"
    yield on_cuda or not options.flush_l2, "device", f"be cuda for {parameter('flush_l2')}", options.device


def _of_launches(options: BenchOptions) -> Iterator[Rule]:
    """They are of one session, with one query at a time."""
    one_session = options.scenario in ONE_SESSION
    rule = f"be one number, but in {' and '.join(ONE_SESSION)}"
    yield one_session or not options.sweeps, "threads", rule, options.threads
    yield (
        one_session or options.launches_each == 1,
        "launches",
        f"go with {' or '.join(ONE_SESSION)}",
        options.scenario,
    )
    enough = not options.sweeps or options.launches_each >= FEWEST
    yield enough, "launches", f"be at least {FEWEST} with several {parameter('threads')}", options.launches
    alone = options.workers == 1 or options.launches_each == 1
    yield alone, "launches", f"go with one of {parameter('workers')}", options.workers
    rule = f"be one number with {parameter('baseline')}, which is of one"
    yield options.baseline is None or not options.sweeps, "threads", rule, options.threads


def thread_rules(threads: object) -> Iterator[Rule]:
    """What is asked of a number of threads, or of several in a sequence."""
    if threads is None:
        return
    several = threads if isinstance(threads, Sequence) else (threads,)
    whole = [one for one in several if isinstance(one, int)]
    are_numbers = bool(whole) and len(set(whole)) == len(several)
    yield are_numbers, "threads", "be a whole number, or different ones in a sequence", threads
    yield min(whole, default=1) >= 1, "threads", "be at least 1", threads
    yield max(whole, default=1) <= MAX_THREADS, "threads", f"be between 1 and {MAX_THREADS}", threads
