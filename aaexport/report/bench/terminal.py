"""BenchReport → what a person reads in ten seconds, as rich renderables; the verdict last, where the eye is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from aaexport.load.measurement import BenchReport
from aaexport.report.bench import losses, wording
from aaexport.report.launches import launches_view
from aaexport.report.layout import Either, Facts, Table, Words

GOOD, WORTH_A_LOOK, BAD = "bold green", "yellow", "bold red"
STYLES = {wording.VALID: GOOD, wording.MIND: "bold yellow", wording.INVALID: BAD, wording.INCOMPLETE: BAD}


def bench_view(report: BenchReport) -> RenderableType:
    """Latency, throughput, comparison, the machine, and whether to believe them."""
    tables = (
        *(_launches(report), _latency(report), _throughput(report)),
        *(_comparisons(report), _losses(report), _trials(report)),
    )
    parts: list[RenderableType] = [Facts(_subject(report)), Words()]
    for table in tables:
        parts += [*table, Words()] if table else []
    found = wording.verdict(report)
    return Group(*parts, Facts(_circumstances(report)), *_remarks(report), Words(found, STYLES[found]))


def _subject(report: BenchReport) -> dict[str, str]:
    return {
        "model": report.model,
        "load": wording.load(report.load, is_remote=report.service is not None),
        "runtime": wording.settings(report),
        "inputs": report.inputs,
        "queries": wording.queries(report),
        **_precision(report),
    }


def _precision(report: BenchReport) -> dict[str, str]:
    """Of a file that is not in float32, what its guard said and what it kept."""
    card = report.card
    if card is None or card.kind == "float32":
        return {}
    unknown = "never judged, as far as is known; `aaexport verify` does"
    told = unknown if card.guard is None else losses.guard(card.guard)
    kept = losses.kept(report)
    return {"kind": card.kind, "guard": told, **({} if kept is None else {"in float32": kept})}


def _latency(report: BenchReport) -> list[RenderableType]:
    """A column for each percentile, its interval below it, or a row for each where a terminal is too narrow for that.

    Nothing of a single offline query, or without answers.
    """
    if report.load.scenario == "offline" or not report.latencies.size:
        return []
    found = report.percentiles
    names = (*map(wording.percentile_name, found), "slowest")
    figures = (*(wording.number(entry.value) for entry in found), wording.number(float(report.latencies.max())))
    columns: dict[str, tuple[Text, ...]] = {"measured": tuple(map(Text, figures))}
    if any(entry.low is not None for entry in found):
        intervals = (*map(wording.interval, found), "")
        columns["95 % interval"] = tuple(Text(interval, "dim") for interval in intervals)
    wide = Table(("latency in ms", *names), ((name, *figures) for name, figures in columns.items()))
    tall = Table(("latency in ms", *columns), zip(map(Text, names), *columns.values(), strict=True))
    withheld, delay, one_process = (
        wording.withheld(report),
        wording.issue_delay(report),
        wording.of_one_process(report),
    )
    return [
        Either(wide, tall),
        *_dim([withheld] if withheld else []),
        *_dim([f"sent late: {delay}"] if delay else []),
        *_dim([one_process] if one_process else []),
    ]


def _launches(report: BenchReport) -> list[RenderableType]:
    """A row for each number of threads, the one to take in green."""
    return [] if report.launches is None else launches_view(report.launches)


def _throughput(report: BenchReport) -> list[RenderableType]:
    """A row for each batch and number of clients."""
    if not report.throughput:
        return []
    return [Table(*wording.throughput_table(report.throughput))]


def _comparisons(report: BenchReport) -> list[RenderableType]:
    if not report.comparisons:
        return []
    rows = [
        [Text(cell, BAD if cell == wording.DIFFERENT else "") for cell in wording.comparison_row(other)]
        for other in report.comparisons
    ]
    return [Table(wording.COMPARISONS, rows), *_dim(wording.ratio_legend(report))]


def _losses(report: BenchReport) -> list[RenderableType]:
    """What each of them lost of float32, where any may have."""
    rows = [[Text(cell, BAD if cell == losses.TOO_MUCH else "") for cell in row] for row in losses.losses(report)]
    return [Table(losses.LOSSES, rows, texts=(0, 1)), *_dim(losses.losses_legend(report))] if rows else []


def _trials(report: BenchReport) -> list[RenderableType]:
    if report.peak is None:
        return []
    rows = [
        [Text(cell, "" if tried.reason is None else "dim") for cell in wording.trial_row(tried)]
        for tried in report.peak.trials
    ]
    return [Table(wording.TRIALS, rows, prose=True)]


def _circumstances(report: BenchReport) -> dict[str, str]:
    """What else was found, where it was, by name."""
    rows = {"cold start": _joined(wording.cold_start(report))}
    if report.peak is not None:
        rows["peak"] = wording.peak(report.peak)
    if report.phases is not None:
        rows["phases"] = _joined(wording.phases(report.phases))
    if report.service is not None:
        rows["service"] = _joined(wording.service_times(report.service))
        rows["client"] = wording.client_overhead(report.service) or "not measured alone"
    if report.check is not None:
        rows["answers"] = wording.answers(report.check)
    if report.regression is not None:
        rows["regression"] = wording.regression(report.regression)
    if (nodes := wording.placement(report)) is not None:
        rows["nodes"] = nodes
    if report.gpu_before is not None:
        gpu = wording.gpu(report.gpu_before, report.gpu_after, report.gpu_load)
        rows["GPU"] = ", ".join([gpu.pop("GPU"), *(f"{name} {figure}" for name, figure in gpu.items())])
    return rows | {"machine": wording.machine(report), "versions": wording.versions(report.tools)}


def _joined(figures: dict[str, str]) -> str:
    return ", ".join(f"{name} {figure}" for name, figure in figures.items())


def _remarks(report: BenchReport) -> Iterator[RenderableType]:
    """A line each, which a terminal wraps and a pipe does not."""
    yield from _dim(f"note: {note}" for note in report.notes)
    yield from (Words(f"warning: {warning}", WORTH_A_LOOK) for warning in report.warnings)
    yield from (Words(f"INVALID: {reason}", BAD) for reason in report.reasons)


def _dim(lines: Iterable[str]) -> list[RenderableType]:
    return [Words(line, "dim") for line in lines]
