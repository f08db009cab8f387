"""BenchReport → the sentences and figures that every format says, so that none says it differently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from aaexport.errors import first_few
from aaexport.load.gpu import GpuState
from aaexport.load.gpu_watch import GpuLoad
from aaexport.load.machine import Environment
from aaexport.load.measurement import (
    AnswerCheck,
    BenchReport,
    Comparison,
    Load,
    ModelCard,
    ParityRecord,
    Peak,
    Phases,
    Regression,
    ServiceTimes,
    Throughput,
    Trial,
)
from aaexport.load.statistics import Percentile, Ratio
from aaexport.parity.thresholds import REDUCED
from aaexport.report.bench.figures import images_per_second, issue_delays, seconds, unanswered
from aaexport.report.terminal import histogram

NODES_SHOWN = 8
DELAY_MATTERS = 0.01  # of the median latency
VALID, MIND, INVALID = "VALID", "VALID, but mind the warnings", "INVALID"
INCOMPLETE = "INCOMPLETE: interrupted while measuring"
WITHHELD, DIFFERENT = "withheld", "DIFFERENT"
# Headings of tables.
COMPARISONS = ("compared with", "p50, ms", "÷ ours", "first query, s", "answers")
THROUGHPUT = ("batch", "clients", "images/s", "p50, ms", "p99, ms", "first run, ms")
OF_GPU = ("GPU memory, MB", "mJ/image")  # behind them, where a driver tells
TRIALS = ("queries/s tried", "p99, ms", "verdict")
IN_TORCH = ("eager", "compile")
SMALL = 0.01
FAIL = "FAIL"
VERIFY = "verify it with `aaexport verify`"
DECIMALS = ((9.9995, 3), (99.995, 2), (999.95, 1))  # below that number, as many


def verdict(report: BenchReport) -> str:
    """One of the four; an interrupted measurement is no other."""
    if not report.complete:
        return INCOMPLETE
    if report.reasons:
        return INVALID
    return MIND if report.warnings else VALID


def number(value: float | None) -> str:
    """About three digits and no exponent: of milliseconds, seconds, and rates alike."""
    if value is None:
        return WITHHELD
    if value < SMALL:
        return np.format_float_positional(value, precision=3, unique=False, fractional=False, trim="-")
    decimals = next((places for limit, places in DECIMALS if value < limit), 0)
    return f"{value:,.{decimals}f}"


def milliseconds(value: float | None) -> str:
    """With the unit."""
    return WITHHELD if value is None else f"{number(value)} ms"


def interval(found: Percentile) -> str:
    """A percentile's; nothing where it is withheld."""
    if found.low is None or found.high is None:
        return ""
    return f"{number(found.low)}–{number(found.high)}"


def percentile_name(found: Percentile) -> str:
    """`p99.9`."""
    return f"p{found.p:g}"


def withheld(report: BenchReport) -> str | None:
    """Which percentiles the sample is too small for, and how many queries each lacks."""
    missing = [f"{percentile_name(found)} needs {found.missing:,}" for found in report.percentiles if found.missing]
    return f"withheld for want of more queries: {', '.join(missing)}" if missing else None


def of_one_process(report: BenchReport) -> str | None:
    """That the intervals tell nothing of another process, where nobody measured how far that may be."""
    if report.launches is not None or report.load.arrivals is not None or report.service is not None:
        return None
    return "intervals are of this process; --launches 5 shows how far the next may lie"


def load(asked: Load, *, is_remote: bool = False) -> str:
    """The scenario, and what it means; of a live service the client's part alone."""
    parts = [f"{asked.scenario}: {_arrivals(asked)}"]
    if asked.workers > 1:
        parts.append(f"at most {asked.workers} queries under way" if is_remote else f"{asked.workers} sessions")
    if asked.max_batch > 1 and is_remote:
        parts.append(f"at most {asked.max_batch} images a query to the service")
    elif asked.max_batch > 1:
        parts.append(f"batches of up to {asked.max_batch} images, gathered for at most {asked.max_delay:g} ms")
    if asked.latency_bound is not None:
        parts.append(f"p99 must keep {asked.latency_bound:g} ms")
    return ", ".join(parts)


def _arrivals(asked: Load) -> str:
    images = f"{asked.samples_per_query:,} image{'s' if asked.samples_per_query > 1 else ''}"
    if asked.scenario == "offline":
        return f"{images} at once"
    rate = "" if asked.rate is None else f"{asked.rate:,.6g} queries a second"
    schedules = {
        "poisson": f"{rate} at random times (Poisson, seed {asked.seed}), {images} each",
        "constant": f"{rate} at equal distances, {images} each",
        "trace": f"the arrivals of a trace, on average {rate}, {images} each",
    }
    if asked.arrivals is not None:
        return schedules.get(asked.arrivals, f"{asked.arrivals} arrivals, {rate}, {images} each")
    return f"the next query when the last is answered, {images} each"


def settings(report: BenchReport) -> str:
    """What ran and how."""
    if report.service is not None:
        return f"{report.label}, {service_model(report.service)}"
    options = [f"{name} {value}" for name, value in report.settings.items()]
    return ", ".join([report.label, report.provider, threads(report), *options])


def threads(report: BenchReport) -> str:
    """Of one session."""
    if report.threads is None:
        return "default threads"
    return f"{report.threads} thread{'s' if report.threads > 1 else ''}"


def queries(report: BenchReport) -> str:
    """How many, in what time, and how many have no answer."""
    count, blocks, lost = sum(map(len, report.blocks)), len(report.blocks), unanswered(report)
    parts = [
        f"{count:,} in {number(seconds(report))} s",
        *([f"{blocks} blocks"] if blocks > 1 else []),
        f"{number(images_per_second(report))} images/s",
        *([f"{lost:,} without an answer"] if lost else []),
    ]
    return ", ".join(parts)


def issue_delay(report: BenchReport) -> str | None:
    """How late queries were sent; None where that is too little to show in their latencies."""
    delays, latencies = issue_delays(report), report.latencies
    if not (delays.size and latencies.size):
        return None
    late = float(np.quantile(delays, 0.99))
    if late < DELAY_MATTERS * float(np.median(latencies)):
        return None
    return f"p99 {milliseconds(late)}, at most {milliseconds(float(delays.max()))}; latencies include it"


def ratio(found: Ratio | None) -> str:
    """The median with its 95 % interval, or with its range where there are too few pairs for one."""
    if found is None:
        return WITHHELD
    low, high = bounds(found)
    return f"{found.median:.2f} ({low:.2f}–{high:.2f})"


def bounds(found: Ratio) -> tuple[float, float]:
    """The 95 % interval, or the range."""
    return (
        found.lowest if found.low is None else found.low,
        found.highest if found.high is None else found.high,
    )


def ratio_legend(report: BenchReport) -> list[str]:
    """What a ratio is, and why some are missing."""
    ratios = [other.ratio for other in report.comparisons if other.ratio is not None]
    lines = []
    if ratios:
        kind = "95 % interval" if all(found.low is not None for found in ratios) else "range"
        pairs = max(found.pairs for found in ratios)
        ours = report.label if report.service is None else "the service"
        lines.append(f"÷ ours: latency by that of {ours}, median and {kind} over {pairs} pairs of blocks")
    reasons = dict.fromkeys(other.withheld for other in report.comparisons if other.withheld is not None)
    return [*lines, *(f"÷ ours is withheld: {reason}" for reason in reasons)]


def comparison_row(other: Comparison) -> tuple[str, str, str, str, str]:
    """For `COMPARISONS`."""
    answers = {True: "the same", False: DIFFERENT, None: "another model"}[other.same_answers]
    base, _, ways = other.name.partition(":")
    kind = "float16" if base in IN_TORCH and "autocast" in ways else other.name
    if kind in REDUCED and other.same_answers is not False:
        answers = f"as {kind} may" if other.same_answers else "not judged"
    return other.label, number(other.p50), ratio(other.ratio), number(other.cold_start), answers


def throughput_table(entries: Sequence[Throughput]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headings, `THROUGHPUT` and where it is known what a batch takes of a GPU `OF_GPU`; and a row for each."""
    of_gpu = any(entry.memory is not None or entry.energy is not None for entry in entries)
    rows = [(*_throughput_row(entry), *(_taken(entry) if of_gpu else ())) for entry in entries]
    return (*THROUGHPUT, *(OF_GPU if of_gpu else ())), rows


def _throughput_row(entry: Throughput) -> tuple[str, ...]:
    first = "–" if entry.first_run is None else number(entry.first_run)
    times = (number(entry.p50), number(entry.p99), first)
    return str(entry.batch), str(entry.concurrency), number(entry.images_per_second), *times


def _taken(entry: Throughput) -> tuple[str, str]:
    memory = "–" if entry.memory is None else number(entry.memory / 1e6)
    return memory, "–" if entry.energy is None else number(entry.energy * 1e3)


def cold_start(report: BenchReport) -> dict[str, str]:
    """Its parts in seconds, by name."""
    start = report.cold_start
    return {
        "process to first answer": f"{number(start.process)} s",
        **({} if start.build is None else {"building engines, before": f"{number(start.build)} s"}),
        "loading the model" if report.service is None else "connecting": f"{number(start.load)} s",
        "first query": f"{number(start.first_query)} s",
    }


def phases(found: Phases) -> dict[str, str]:
    """Medians, by name, in the order of a query's way."""
    return {
        "to device": milliseconds(found.to_device),
        "submit": milliseconds(found.submit),
        "compute": milliseconds(found.compute),
        **({} if found.gpu is None else {"by the GPU's events": milliseconds(found.gpu)}),
        "to host": milliseconds(found.to_host),
    }


def service_model(found: ServiceTimes) -> str:
    """What it serves, and how it is asked."""
    version = f" version {', '.join(found.versions)}" if found.versions else ""
    most = "" if found.max_batch is None else f", up to {found.max_batch} images a query"
    several = "" if found.client_processes == 1 else f", asked by {found.client_processes} processes"
    return f"{found.model}{version}{most}{several}"


def service_times(found: ServiceTimes) -> dict[str, str]:
    """Means, by name, in the order of a query's way; nothing of what the service does not count."""
    figures = {
        "a query": found.query,
        "client, protocol and network": found.network,
        "queue": found.queue,
        "input": found.compute_input,
        "model": found.compute_infer,
        "output": found.compute_output,
    }
    rows = {name: milliseconds(figure) for name, figure in figures.items() if figure is not None}
    if found.images_per_run is not None:
        rows["images a run"] = number(found.images_per_run)
    return rows


def client_overhead(found: ServiceTimes) -> str | None:
    """What a server that computes nothing takes; None where none was asked."""
    if found.client_p50 is None:
        return None
    figures = f"p50 {milliseconds(found.client_p50)}, p99 {milliseconds(found.client_p99)}"
    return f"{figures} to a server that computes nothing"


def gpu(before: GpuState, after: GpuState | None, load: GpuLoad | None = None) -> dict[str, str]:
    """What it is, and what the measurement did to it: while queries ran, else before and after."""
    named = {"GPU": f"{before.name}, driver {before.driver}, CUDA {before.cuda}"}
    if load is not None:
        return named | _under_load(load, before.max_sm_clock)
    after = before if after is None else after
    figures = {
        "SM clock": _change(before.sm_clock, after.sm_clock, "MHz"),
        "temperature": _change(before.temperature, after.temperature, "°C"),
        "power": _change(before.power, after.power, "W"),
        "throttled": ", ".join(dict.fromkeys((*before.throttled, *after.throttled))),
    }
    if figures["SM clock"] and before.max_sm_clock is not None:
        figures["SM clock"] += f" of {before.max_sm_clock}"
    return named | {name: figure for name, figure in figures.items() if figure}


def _under_load(load: GpuLoad, highest: int | None) -> dict[str, str]:
    """By readings while queries ran."""
    figures = {}
    if load.sm_clock is not None and load.sm_clock_lowest is not None:
        most = "" if highest is None else f" of {highest}"
        figures["SM clock"] = f"{load.sm_clock:.0f} MHz{most}, at least {load.sm_clock_lowest:.0f}"
    if load.temperature is not None:
        figures["temperature"] = f"up to {load.temperature} °C"
    if load.power is not None:
        figures["power"] = f"{load.power:.0f} W"
    if load.throttled:
        figures["throttled"] = ", ".join(f"{name} {share:.0%}" for name, share in load.throttled.items())
    return figures


def _change(before: float | None, after: float | None, unit: str) -> str:
    if before is None or after is None:
        return ""
    return f"{before:.0f} {unit}" if round(before) == round(after) else f"{before:.0f} → {after:.0f} {unit}"


def peak(found: Peak) -> str:
    """The highest rate that kept its bound."""
    kept = f"p99 ≤ {found.latency_bound:g} ms"
    if found.rate is None:
        return f"no rate was valid with {kept}"
    return f"{found.rate:,.6g} queries a second with {kept}"


def trial_row(tried: Trial) -> tuple[str, str, str]:
    """For `TRIALS`."""
    verdict = "valid" if tried.reason is None else tried.reason.partition(";")[0]  # what to do about it is known
    return f"{tried.rate:,.6g}", number(tried.p99), verdict


def regression(found: Regression) -> str:
    """How much slower, and whether that is real or nobody can tell; where there is no interval, none is made up."""
    figures = f"{found.ratio.median:.2f}" if found.ratio.low is None else ratio(found.ratio)
    beside = f"{figures} × the p50 of {found.baseline}, allowed {1 + found.allowed:g}"
    if found.unclear is not None:
        return f"{beside}; no verdict: {found.unclear}"
    return f"{beside}: {'a' if found.is_real else 'no'} real regression"


def answers(check: AnswerCheck) -> str:
    """How many were compared with whose."""
    wrong = f"{check.wrong:,} WRONG" if check.wrong else "none wrong"
    error = f"{check.largest_error:.1e}".replace("nan", "NaN").replace("inf", "infinite")
    return f"{check.checked:,} compared with {check.against}: {wrong}, largest error {error}"


def placement(report: BenchReport) -> str | None:
    """Where the nodes ran; None if that is where every file's do, on the CPU."""
    found = report.placement
    if found is None or (found.provider.startswith("CPU") and not found.on_cpu):
        return None
    nodes = ", ".join(f"{count} on {provider}" for provider, count in found.nodes.items())
    fallen = f"; fell back to the CPU: {first_few(found.on_cpu, NODES_SHOWN)}" if found.on_cpu else ""
    return nodes + fallen


def machine(report: BenchReport) -> str:
    """The CPU, and who else had it."""
    found = report.environment
    shares = {"stolen": found.steal_share, "taken by other processes": found.other_load_share}
    taken = [f"{share:.1%} of the CPU {by}" for by, share in shares.items() if share is not None]
    load_average = [] if found.load_average is None else [f"load average {found.load_average:.2f}"]
    if found.throttled_share is not None:
        taken.append(f"stopped by the quota in {found.throttled_share:.1%} of its periods")
    return ", ".join([found.cpu, cores(found), *taken, *load_average])


def cores(found: Environment) -> str:
    """As many as the process may keep busy, and the quota that says so."""
    quota = "" if found.cpu_quota is None else f" (a quota of {found.cpu_quota:g})"
    return f"{found.cores} core{'s' if found.cores > 1 else ''}{quota}"


def card(found: ModelCard) -> dict[str, str]:
    """What the file is, by name."""
    kind = {} if found.kind == "float32" else {"kind": found.kind}
    return kind | {
        "operators": histogram(found.operators),
        "size": f"{found.bytes / 1e6:,.2f} MB, {found.parameters:,} floating-point numbers",
        "MACs": "not known: a shape is missing" if found.macs is None else f"{found.macs:,} per image",
        "opset": str(found.opset),
        "parity": parity(found.parity),
    }


def parity(found: ParityRecord | None) -> str:
    """What the last verification said, and when."""
    if found is None:
        return f"never verified, as far as is known; {VERIFY}"
    when = "at a date that was not kept" if found.date is None else found.date
    if not found.same_file:
        return f"not known: the verification of {when} is of another file; {VERIFY}"
    error = "" if found.max_abs_error is None else f", largest error {found.max_abs_error:.1e} against float64"
    return f"{'PASS' if found.passed else FAIL}, {when}{error}"


def made(report: BenchReport) -> dict[str, str]:
    """When it was measured and how, by name."""
    return {"date": report.date, "command": report.command or "not known"}


def answers_differ(report: BenchReport) -> str | None:
    """Who answers otherwise than the measured model, although it must not."""
    wrong = [other.label for other in report.comparisons if other.same_answers is False]
    return f"{', '.join(wrong)}: {DIFFERENT} answers" if wrong else None


def left_out(rows: Sequence[str], lacking: str) -> str | None:
    """Which rows a chart does not show, and why; None if it shows all."""
    return f"Left out of the chart, for want of {lacking}: {'; '.join(rows)}" if rows else None


def shape(entry: Throughput) -> str:
    """Batch, and clients if there are more than one."""
    asking = f", {entry.concurrency} clients" if entry.concurrency > 1 else ""
    return f"batch {entry.batch}{asking}"


def versions(tools: Mapping[str, str]) -> str:
    """Names and versions."""
    return ", ".join(f"{tool} {version}" for tool, version in tools.items())
