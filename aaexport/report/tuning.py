"""A tuning → JSON, and what a person reads in ten seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from aaexport.errors import first_few
from aaexport.load.launches import called
from aaexport.load.statistics import Milliseconds
from aaexport.report.bench.wording import cores, milliseconds, ratio
from aaexport.report.launches import launches_json, launches_view
from aaexport.report.layout import Table, Words
from aaexport.report.machine import strict
from aaexport.results import Candidate, PrecisionCandidate, TunedLayer, TunedPrecision, TuneResult

TUNING_SCHEMA = "aaexport.tuning/1"
NONE = "–"
NAMED = 4  # layers, in a line
PRECISIONS = ("precision", "size", "p50", "÷ float32", "SQNR", "accuracy", "")
COLUMNS = ("candidate", "median", "lowest – highest", "peak memory", "max error", "")


def tuning_json(result: TuneResult, *, raw: bool) -> dict[str, Any]:
    """The choices and what they rest on; with `raw` every latency too, in milliseconds. Memory is in bytes."""
    return {
        "schema": TUNING_SCHEMA,
        "date": result.date,
        "command": result.command,
        "model": result.path.resolve().parent.name,
        "device": result.label,
        "provider": result.provider,
        "opset": result.opset,
        "timed_opset": result.timed_opset or result.opset,
        "batch": result.batch,
        "threads": result.threads,
        "duration": result.duration,
        "seed": result.seed,
        "unit": "ms",
        "warnings": list(result.warnings),
        "notes": list(result.notes),
        "launches": None if result.launches is None else launches_json(result.launches, raw=raw),
        "layers": [_layer_json(layer, raw) for layer in result.layers],
        "precision": None if result.precision is None else precision_json(result.precision),
        "environment": dataclasses.asdict(result.environment),
        "tools": result.tools,
        "seconds": result.seconds,
    }


def precision_json(found: TunedPrecision) -> dict[str, Any]:
    """Every file with what it takes and loses. What a layer costs may be infinite, for which JSON has a word."""
    value: dict[str, Any] = strict(dataclasses.asdict(found))
    return value


def tuning_view(result: TuneResult) -> RenderableType:
    """One table a distinct attention, with the choice and how sure it is."""
    parts: list[RenderableType] = []
    if result.launches is not None:
        parts += [Words("threads of a session", "bold"), *launches_view(result.launches), Words()]
    for layer in result.layers:
        parts += [Words(_heading(layer), "bold"), _candidates(layer), Words(_verdict(layer)), Words()]
    if result.precision is not None:
        parts += [Words("precision of the network", "bold"), _precisions(result.precision)]
        parts += [*map(Words, _verdicts(result.precision)), Words()]
    parts.append(Words(_conditions(result), "dim"))
    parts += [Words(f"warning: {warning}", "yellow") for warning in result.warnings]
    parts += [Words(f"note: {note}", "dim") for note in result.notes]
    if result.not_kept is None:
        parts.append(Words(f"stored in {result.path}: `aaexport convert` takes these choices{_and_threads(result)}"))
        if result.precision is not None and result.precision.chosen != "float32":
            folder = result.path.parent
            parts.append(Words(f"`aaexport serve {folder} --dtype {result.precision.chosen}` serves what was chosen"))
    return Group(*parts)


def _and_threads(result: TuneResult) -> str:
    """Who takes what is stored of threads."""
    return "" if result.threads is None else f", and `aaexport serve-bench` {called(result.threads)}"


def _conditions(result: TuneResult) -> str:
    machine = result.environment
    where = f"{machine.cpu}, {cores(machine)}; {result.provider}, {called(result.threads)}"
    opset = f"opset {result.timed_opset or result.opset}"
    what = f"{opset}, batch {result.batch}, attention without the convolution beside it"
    return f"{where}; {what}; took {result.seconds:.0f} s"


def _layer_json(layer: TunedLayer, raw: bool) -> dict[str, Any]:
    return {
        "sizes": dataclasses.asdict(layer.sizes),
        "paths": list(layer.paths),
        "chosen": dataclasses.asdict(layer.chosen),
        "by_cost_model": dataclasses.asdict(layer.by_cost_model),
        "rival": None if layer.rival is None else dataclasses.asdict(layer.rival),
        "ratio": None if layer.ratio is None else dataclasses.asdict(layer.ratio),
        "candidates": [_candidate_json(candidate, raw) for candidate in layer.candidates],
    }


def _candidate_json(candidate: Candidate, raw: bool) -> dict[str, Any]:
    value = {
        **dataclasses.asdict(candidate.choice),
        "median": candidate.milliseconds,
        "spread": candidate.spread,
        "rounds": len(candidate.rounds),
        "peak_memory": candidate.peak_memory,
        "max_abs_error": candidate.max_abs_error,
        "failure": candidate.failure,
    }
    if raw:
        value["first_look_ms"] = None if candidate.first_look is None else _listed(candidate.first_look)
        value["rounds_ms"] = [_listed(block) for block in candidate.rounds]
    return value


def _listed(latencies: Milliseconds) -> list[float]:
    rounded: list[float] = latencies.round(6).tolist()
    return rounded


def _heading(layer: TunedLayer) -> str:
    first, others = layer.paths[0], len(layer.paths) - 1
    return f"{layer.sizes}: {first}" + (f" and {others} more" if others else "")


def _candidates(layer: TunedLayer) -> Table:
    return Table(COLUMNS, (_row(candidate, layer) for candidate in layer.candidates), prose=True)


def _row(candidate: Candidate, layer: TunedLayer) -> tuple[str | Text, ...]:
    spread = candidate.spread
    return (
        str(candidate.choice),
        "–" if candidate.milliseconds is None else f"{candidate.milliseconds:.3f} ms",
        "–" if spread is None else f"{spread[0]:.3f} – {spread[1]:.3f}",
        "–" if candidate.peak_memory is None else f"{candidate.peak_memory / 1e6:.1f} MB",
        "–" if candidate.max_abs_error is None else f"{candidate.max_abs_error:.1e}",
        _remark(candidate, layer),
    )


def _precisions(found: TunedPrecision) -> Table:
    """What each file takes, and loses."""
    return Table(PRECISIONS, (_precision_row(one, found) for one in found.candidates), prose=True)


def _precision_row(one: PrecisionCandidate, found: TunedPrecision) -> tuple[str | Text, ...]:
    remark: str | Text = ""
    if one.failure is not None:
        remark = Text(one.failure, style="bold red")
    elif one.dtype == found.chosen:
        remark = Text("chosen", style="bold green")
    ours = one.dtype == "float32"
    return (
        one.dtype,
        NONE if one.bytes is None else f"{one.bytes / 1e6:.2f} MB",
        NONE if one.p50 is None else milliseconds(one.p50),
        "1" if ours else NONE if one.ratio is None else ratio(one.ratio),
        NONE if one.sqnr_db is None else f"{one.sqnr_db:.1f} dB",
        NONE if one.accuracy is None else f"{100 * one.accuracy:.2f} %",
        remark,
    )


def _verdicts(found: TunedPrecision) -> Iterator[str]:
    """Which to take, and of every other whether it is slower, or why it is not taken."""
    for one in found.candidates:
        if one.dtype == "float32":
            continue
        if one.failure is not None:
            yield f"{one.dtype} is not taken: {one.failure}"
        elif one.ratio is None:
            yield f"{one.dtype}: nobody can tell whether it is faster: {one.note or 'it was not measured'}"
        elif one.dtype == found.chosen:
            lost = "" if one.lost is None else f", and loses {100 * one.lost:.2f} points of accuracy"
            yield f"{one.dtype} instead of float32: it takes {ratio(one.ratio)} of its time{lost}"
        else:
            least = one.ratio.lowest if one.ratio.low is None else one.ratio.low
            word = "slower" if least > 1 else "not faster beyond doubt"
            yield f"{one.dtype} is {word}: it takes {ratio(one.ratio)} times as long as float32"
        if one.kept:
            names = first_few([each.path or each.node for each in one.kept], NAMED)
            yield f"{one.dtype} leaves in float32: {names}"
    if found.chosen == "float32":
        yield "float32 stays"


def _remark(candidate: Candidate, layer: TunedLayer) -> str | Text:
    if candidate.failure is not None:
        return Text(candidate.failure, style="bold red")
    if candidate.choice == layer.chosen:
        return Text("chosen", style="bold green")
    return "" if candidate.rounds else "clearly slower"


def _verdict(layer: TunedLayer) -> str:
    own, ratio = layer.by_cost_model, layer.ratio
    if ratio is None:
        return f"{layer.chosen}: nothing is left to compare it with"
    measured = f"{ratio.median:.2f} × as fast ({ratio.lowest:.2f}–{ratio.highest:.2f} over {ratio.pairs} rounds)"
    if layer.chosen != own:
        return f"{layer.chosen} instead of {own}, the cost model's choice: it is {measured}"
    return f"{own}, the cost model's choice, stays: {layer.rival} is {measured}"
