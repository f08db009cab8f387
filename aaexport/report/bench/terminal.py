"""BenchReport → what a person reads in ten seconds, as rich renderables; the verdict last, where the eye is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from aaexport.load.measurement import BenchReport
from aaexport.report.bench import wording
from aaexport.report.printable import printable

GOOD, WORTH_A_LOOK, BAD = "bold green", "yellow", "bold red"
STYLES = {wording.VALID: GOOD, wording.MIND: "bold yellow", wording.INVALID: BAD, wording.INCOMPLETE: BAD}


def bench_view(report: BenchReport) -> RenderableType:
    """Latency, throughput, comparison, the machine, and whether to believe them; at most 110 columns wide."""
    tables = (_latency(report), _throughput(report), _comparisons(report), _trials(report))
    parts: list[RenderableType] = [_facts(_subject(report)), Text()]
    for table in tables:
        parts += [*table, Text()] if table else []
    found = wording.verdict(report)
    return Group(*parts, _facts(_circumstances(report)), *_remarks(report), Text(found, style=STYLES[found]))


def _subject(report: BenchReport) -> dict[str, str]:
    return {
        "model": report.model,
        "load": wording.load(report.load),
        "runtime": wording.settings(report),
        "inputs": report.inputs,
        "queries": wording.queries(report),
    }


def _latency(report: BenchReport) -> list[RenderableType]:
    """A column for each percentile, its interval below it; nothing of a single offline query, or without answers."""
    if report.load.scenario == "offline" or not report.latencies.size:
        return []
    found = report.percentiles
    table = _table("latency in ms", *map(wording.percentile_name, found), "slowest")
    figures = (*(wording.number(entry.value) for entry in found), wording.number(float(report.latencies.max())))
    table.add_row("measured", *figures)
    if any(entry.low is not None for entry in found):
        table.add_row("95 % interval", *map(wording.interval, found), style="dim")
    withheld, delay = wording.withheld(report), wording.issue_delay(report)
    return [table, *_dim([withheld] if withheld else []), *_dim([f"sent late: {delay}"] if delay else [])]


def _throughput(report: BenchReport) -> list[RenderableType]:
    """A row for each batch and number of clients."""
    if not report.throughput:
        return []
    table = _table(*wording.THROUGHPUT)
    for entry in report.throughput:
        table.add_row(*wording.throughput_row(entry))
    return [table]


def _comparisons(report: BenchReport) -> list[RenderableType]:
    if not report.comparisons:
        return []
    table = _table(*wording.COMPARISONS)
    for other in report.comparisons:
        *cells, answers = wording.comparison_row(other)
        table.add_row(*map(_text, cells), _text(answers, BAD if answers == wording.DIFFERENT else ""))
    return [table, *_dim(wording.ratio_legend(report))]


def _trials(report: BenchReport) -> list[RenderableType]:
    if report.peak is None:
        return []
    table = _table(*wording.TRIALS)
    *figures, verdict = table.columns
    for figure in figures:
        figure.no_wrap = True  # or a long verdict leaves them no room
    verdict.justify, verdict.no_wrap = "left", False
    for tried in report.peak.trials:
        table.add_row(*map(_text, wording.trial_row(tried)), style="" if tried.reason is None else "dim")
    return [table]


def _circumstances(report: BenchReport) -> dict[str, str]:
    """What else was found, where it was, by name."""
    rows = {"cold start": ", ".join(f"{name} {figure}" for name, figure in wording.cold_start(report).items())}
    if report.peak is not None:
        rows["peak"] = wording.peak(report.peak)
    if report.phases is not None:
        rows["phases"] = ", ".join(f"{name} {figure}" for name, figure in wording.phases(report.phases).items())
    if report.check is not None:
        rows["answers"] = wording.answers(report.check)
    if report.regression is not None:
        rows["regression"] = wording.regression(report.regression)
    if (nodes := wording.placement(report)) is not None:
        rows["nodes"] = nodes
    if report.gpu_before is not None:
        gpu = wording.gpu(report.gpu_before, report.gpu_after)
        rows["GPU"] = ", ".join([gpu.pop("GPU"), *(f"{name} {figure}" for name, figure in gpu.items())])
    return rows | {"machine": wording.machine(report), "versions": wording.versions(report.tools)}


def _remarks(report: BenchReport) -> Iterator[RenderableType]:
    """A line each, which a terminal wraps and a pipe does not."""
    yield from _dim(f"note: {note}" for note in report.notes)
    yield from (_text(f"warning: {warning}", WORTH_A_LOOK) for warning in report.warnings)
    yield from (_text(f"INVALID: {reason}", BAD) for reason in report.reasons)


def _table(*headers: str) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 2, 0, 0))
    for place, header in enumerate(headers):
        table.add_column(_text(header), justify="right" if place else "left", overflow="fold", no_wrap=place > 0)
    return table


def _facts(rows: dict[str, str]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, _text(value))
    return table


def _dim(lines: Iterable[str]) -> list[RenderableType]:
    return [_text(line, "dim") for line in lines]


def _text(words: str, style: str = "") -> Text:
    return Text(printable(words), style=style)
