"""BenchReport → one page for whoever was not there: what was measured, whether to believe it, and every figure."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from aaexport.load.measurement import BenchReport
from aaexport.load.statistics import Percentile
from aaexport.report.bench import charts, losses, wording
from aaexport.report.bench.figures import Series, images_per_second, series
from aaexport.report.launches import COLUMNS, launches_legend, launches_rows
from aaexport.report.page.markup import Html, element
from aaexport.report.page.page import card, facts, figure, folded, halves, notes, page, table

ROWS_OVER_TIME = 10
NOT_QUOTED, MINDED = "not to be quoted", "mind the warnings"
HOLLOW = "A hollow bar is p50 ÷ ours alone, not to be quoted: the ratio is withheld."
LAYER = losses.LAYERS[:1]
LAYER_KEY = ((charts.WEIGHTS, "its weight"), (charts.COMPUTED, "what it computes"))
TOO_FEW = "Not drawn: fewer than two rows have a p50."
SIGNS = {wording.VALID: ("good", "✓"), wording.MIND: ("mind", "!")}
GLOSSARY = {
    "latency": "counted from the moment a query was due, so that waiting behind a slow one is not hidden",
    "p50, p99": "half of the queries, and 99 of 100, were answered within this time",
    "95 % interval": "if the measurement were repeated in this process, 95 of 100 such intervals would hold the true "
    "figure; what another process would have is seen with --launches",
    "withheld": "too few queries were measured to say this figure honestly",
    "SQNR": "how far the error of the answers lies below the answers, in dB: 20 dB are a tenth, 40 dB a hundredth",
    "÷ ours": "how many times the latency of the measured model: above 1 is slower",
    "first run": "the first query of its shape, kept apart from the steady state",
}


def bench_html(report: BenchReport) -> str:
    """The page as text, to be written in UTF-8; its size does not follow the number of queries."""
    found = series(report)
    whole = [] if found is None else [_latency(report, found), _over_time(found)]
    parts = (
        *(_losses(report), _launches(report), _throughput(report), _peak(report)),
        *(_model(report), _guard(report), _checks(report), _machine(report)),
    )
    cards = element("div", *parts, class_="cards")
    title = f"{report.model}: {wording.verdict(report)}"
    return page(title, _heading(report), _verdict(report), _first_look(report), *whole, cards, _footer(report))


def _heading(report: BenchReport) -> Html:
    circumstances = f"{wording.settings(report)}; {report.environment.cpu}; {report.inputs}"
    return element(
        "header",
        element("p", f"Latency report, {report.date}", class_="kicker"),
        element("h1", report.model),
        element("p", wording.load(report.load, is_remote=report.service is not None)),
        element("p", circumstances, class_="dim"),
    )


def _verdict(report: BenchReport) -> Html:
    verdict = wording.verdict(report)
    kind, sign = SIGNS.get(verdict, ("bad", "✕"))
    remarks = [*report.reasons, *report.warnings, *(f"Note: {note}" for note in report.notes)]
    points = element("ul", *(element("li", remark) for remark in remarks)) if remarks else None
    return element("div", element("strong", f"{sign} {verdict}"), points, class_=f"verdict {kind}")


def _first_look(report: BenchReport) -> Html:
    """The figures that a reader came for, and beside them the comparison."""
    parts = [part for part in (_tiles(report), _comparison(report)) if part is not None]
    return element("div", *parts, class_="first" if len(parts) > 1 else None)


def _tiles(report: BenchReport) -> Html:
    doubt = "" if report.valid else " doubtful"
    return element("dl", *(_tile(report, *tile) for tile in _highlights(report)), class_=f"tiles{doubt}")


def _tile(report: BenchReport, name: str, value: str, behind: str) -> Html:
    """A figure that is not to be quoted as it stands says so, and looks so."""
    kind, doubt = ("doubt", NOT_QUOTED) if not report.valid else ("mind", MINDED) if report.warnings else (None, None)
    said = None if doubt is None else element("dd", doubt, class_="doubt")
    size = "missing" if value == wording.WITHHELD else None
    figure = element("dd", value, class_=size)
    return element("div", element("dt", name), figure, element("dd", behind, class_="dim"), said, class_=kind)


def _highlights(report: BenchReport) -> Iterator[tuple[str, str, str]]:
    """The few figures that a reader came for: name, figure, what stands behind it."""
    if report.load.scenario != "offline":
        for found in report.percentiles:
            if found.p in (50.0, 99.0):
                yield f"{wording.percentile_name(found)} latency", wording.milliseconds(found.value), _behind(found)
    yield "throughput", wording.number(images_per_second(report)), "images a second under this load"
    if report.peak is not None:
        rate = "none" if report.peak.rate is None else wording.number(report.peak.rate)
        yield "highest valid rate", rate, f"queries a second, p99 ≤ {report.peak.latency_bound:g} ms"
    for other in report.comparisons[:1]:
        if other.ratio is not None:
            yield other.label, f"{other.ratio.median:.2f} ×", "the latency of this model"
        elif other.withheld is not None:
            yield other.label, wording.WITHHELD, other.withheld.partition(";")[0]  # the remedy is in the card


def _behind(found: Percentile) -> str:
    if found.low is None:
        return f"needs {found.missing:,} more queries"
    return f"95 %: {wording.interval(found)} ms"


def _latency(report: BenchReport, found: Series) -> Html:
    percentiles, delay = report.percentiles, wording.issue_delay(report)
    rows = [(wording.percentile_name(p), wording.number(p.value), wording.interval(p) or "–") for p in percentiles]
    slowest = ("slowest", wording.number(float(found.latencies.max())), "–")
    figures = table("Percentiles of latency", ("", "latency, ms", "95 % interval"), [*rows, slowest])
    drawn = figure(charts.distribution(found, percentiles), f"Queries: {wording.queries(report)}.")
    small = notes([wording.withheld(report), f"Queries were sent late: {delay}" if delay else None])
    return card("How latencies are distributed", halves(drawn, element("div", figures, small)))


def _over_time(found: Series) -> Html:
    dots = "Each dot is a query"
    if len(found.latencies) > 3 * charts.BUCKETS:
        dots = "Of every short span of time the fastest, the slowest and a median query"
    rows = []
    for begin, end, inside in found.windows(ROWS_OVER_TIME):
        figures = (float(np.median(inside)), float(inside.max()))
        rows.append((f"{begin:.3g}–{end:.3g}", f"{inside.size:,}", *map(wording.number, figures)))
    values = table("Latency over time", ("due at, s", "queries", "median, ms", "slowest, ms"), rows)
    drawn = figure(charts.over_time(found), f"{dots}; the line is the median of the moment.")
    return card("Latency over time", drawn, folded("As a table", values))


def _comparison(report: BenchReport) -> Html | None:
    if not report.comparisons:
        return None
    drawn = charts.comparison(report)
    columns, rows = wording.COMPARISONS, map(wording.comparison_row, report.comparisons)
    values = table("Measured in the same run", columns, rows, words=columns[:1], wrong=wording.DIFFERENT)
    hollow = any(other.ratio is None and other.p50 is not None for other in report.comparisons)
    caption = ["A longer bar is slower; this model is 1.", *([HOLLOW] if hollow else [])]
    bars = figure(drawn, " ".join(caption)) if drawn else None
    missing = wording.left_out(charts.left_out_of_comparison(report), "a ratio and a p50")
    differ = wording.answers_differ(report)
    wrong = None if differ is None else element("p", differ, class_="wrong")
    small = notes([missing, *wording.ratio_legend(report)])
    return card("Beside other ways to run it", bars, wrong, small, folded("As a table", values))


def _losses(report: BenchReport) -> Html | None:
    """What each contender lost of float32 beside its speed."""
    rows = losses.losses(report)
    if not rows:
        return None
    values = table("Loss beside speed", losses.LOSSES, rows, words=losses.LOSSES[:2], wrong=losses.TOO_MUCH)
    return card("What fewer bits cost", values, notes(losses.losses_legend(report)))


def _guard(report: BenchReport) -> Html | None:
    """What the guard knows of the measured file, layer by layer."""
    if report.card is None or report.card.guard is None:
        return None
    found, kept = report.card.guard, losses.kept(report)
    rows = {"guard": losses.guard(found), **({} if kept is None else {"in float32": kept})}
    if not found.layers:
        return card("What the guard saw", facts(rows))
    key = [element("span", element("b", "●", class_=kind), name) for kind, name in LAYER_KEY]
    caption = "Each layer's rounding by itself; what is lost before and behind it does not count."
    drawn = figure(charts.by_layer(found.layers), caption, *key)
    values = table("Signal to noise of each layer by itself", losses.LAYERS, losses.layer_rows(found), words=LAYER)
    return card("What the guard saw", facts(rows), drawn, folded("As a table", values))


def _launches(report: BenchReport) -> Html | None:
    """How fast and how steady each number of threads is."""
    if report.launches is None:
        return None
    rows = launches_rows(report.launches)
    values = table("Several processes of each number of threads", COLUMNS, rows, words=COLUMNS[-1:])
    return card("From launch to launch", values, notes(launches_legend(report.launches)))


def _throughput(report: BenchReport) -> Html | None:
    if not report.throughput:
        return None
    drawn = charts.throughput(report.throughput)
    values = table("Closed loops", *wording.throughput_table(report.throughput))
    caption = "Dots are at the median latency, with the batch beside them; the bar ends at p99."
    missing = [wording.shape(entry) for entry in report.throughput if entry.p50 is None]
    small = notes([wording.left_out(missing, "a p50"), None if drawn else TOO_FEW])
    return card("Throughput against latency", figure(drawn, caption, *_key(report)) if drawn else None, small, values)


def _key(report: BenchReport) -> list[Html]:
    """Which line is of how many clients."""
    entries = []
    for place, clients in enumerate(charts.clients(report.throughput)):
        sign = element("b", "●", class_=charts.series_kind(place))
        entries.append(element("span", sign, f"{clients} client{'s' if clients > 1 else ''}"))
    return entries


def _peak(report: BenchReport) -> Html | None:
    if report.peak is None:
        return None
    drawn = charts.peak(report)
    rows = map(wording.trial_row, report.peak.trials)
    values = table("Rates that were tried", wording.TRIALS, rows, words=wording.TRIALS[-1:])
    marks = figure(drawn, "● valid, × not valid") if drawn else None
    missing = [f"{trial.rate:,.6g} queries/s" for trial in report.peak.trials if trial.p99 is None]
    small = notes([wording.left_out(missing, "a p99")])
    return card("The highest rate", element("p", wording.peak(report.peak)), marks, small, values)


def _model(report: BenchReport) -> Html | None:
    """What was measured, for those who have not seen the file."""
    if report.card is None:
        return None
    rows = {"model": report.model, **wording.card(report.card)}
    if report.card.parity is None or not (report.card.parity.passed and report.card.parity.same_file):
        rows["parity"] = element("span", rows["parity"], class_="wrong")
    return card("Model card", facts(rows | {"SHA-256": report.onnx_sha256}))


def _checks(report: BenchReport) -> Html:
    """What was found beside steady latencies."""
    rows = wording.cold_start(report)
    if report.phases is not None:
        rows |= {f"query: {name}": value for name, value in wording.phases(report.phases).items()}
    if report.service is not None:
        rows |= {f"service: {name}": value for name, value in wording.service_times(report.service).items()}
        if (client := wording.client_overhead(report.service)) is not None:
            rows["client alone"] = client
    if report.check is not None:
        rows["answers"] = wording.answers(report.check)
    if report.regression is not None:
        rows["regression"] = wording.regression(report.regression)
    return card("Cold start and checks", facts(rows))


def _machine(report: BenchReport) -> Html:
    rows = {"machine": wording.machine(report), "system": report.environment.system}
    if report.gpu_before is not None:
        rows |= wording.gpu(report.gpu_before, report.gpu_after, report.gpu_load)
    if (nodes := wording.placement(report)) is not None:
        rows["nodes"] = nodes
    rows["runtime"] = wording.settings(report)
    rows["versions"] = wording.versions({"Python": report.environment.python, **report.tools})
    rows |= wording.made(report)
    digest = {} if report.card is not None else {"model, SHA-256": report.onnx_sha256}
    return card("Environment", facts(rows | digest))


def _footer(report: BenchReport) -> Html:
    version = report.tools.get("aaexport", "")
    made = element("p", f"Measured by aaexport {version}".strip())
    return element("footer", folded("What the words mean", facts(GLOSSARY)), made)
