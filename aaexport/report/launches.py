"""Launches → JSON, and the rows of a table: how fast each number of threads is, and how steady."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from aaexport.load.launches import Launches, ThreadSetting
from aaexport.load.statistics import Milliseconds
from aaexport.report.bench.wording import WITHHELD, number
from aaexport.report.layout import Cell, Table, Words

COLUMNS = ("threads", "p50, ms", "launches, ms", "apart", "within one", "verdict")
FAST_AND_STEADY, GOOD = "fast and steady", "bold green"


def launches_json(found: Launches, *, raw: bool) -> dict[str, Any]:
    """Every setting with the medians of its launches, in milliseconds; with `raw` every latency too."""
    return {
        "count": found.count,
        "batch": found.batch,
        "named": None if found.named is None else found.named.threads,
        "withheld": found.withheld,
        "settings": [_setting_json(setting, raw) for setting in found.settings],
    }


def launches_rows(found: Launches) -> Iterator[tuple[str, ...]]:
    """For `COLUMNS`."""
    for setting in found.settings:
        low, high = min(setting.medians), setting.slowest
        yield (
            "default" if setting.threads is None else str(setting.threads),
            number(setting.p50),
            f"{number(low)}–{number(high)}",
            _share(setting.apart),
            WITHHELD if setting.within is None else _share(setting.within),
            _verdict(setting, found),
        )


def launches_legend(found: Launches) -> tuple[str, str]:
    """What the columns are."""
    images = "" if found.batch == 1 else f" with {found.batch} images a query"
    return (
        f"p50: of {found.count} launches in turns{images}; apart: fastest to slowest launch, ÷ p50",
        "within one: the 95 % interval of a single launch, ÷ p50",
    )


def launches_view(found: Launches) -> list[RenderableType]:
    """The table with its legend, for a terminal; what is named is green."""
    rows: list[list[Cell]] = []
    for *figures, verdict in launches_rows(found):
        rows.append([*figures, Text(verdict, GOOD if verdict == FAST_AND_STEADY else "")])
    table = Table(COLUMNS, rows, texts=(0, len(COLUMNS) - 1))
    return [table, *(Words(line, "dim") for line in launches_legend(found))]


def _setting_json(setting: ThreadSetting, raw: bool) -> dict[str, Any]:
    return {
        "threads": setting.threads,
        "p50": setting.p50,
        "slowest": setting.slowest,
        "apart": setting.apart,
        "within": setting.within,
        "launches": [_launch_json(latencies, raw) for latencies in setting.launches],
    }


def _launch_json(latencies: Milliseconds, raw: bool) -> dict[str, Any]:
    value: dict[str, Any] = {"queries": len(latencies), "median": ThreadSetting(None, (latencies,)).p50}
    return value | ({"latencies": latencies.round(6).tolist()} if raw else {})  # to the nanosecond: all a clock tells


def _verdict(setting: ThreadSetting, found: Launches) -> str:
    if found.withheld is not None:
        return WITHHELD
    if len(found.settings) == 1:
        return "steady" if setting.steady else "unsteady"
    if setting is found.named:
        return FAST_AND_STEADY if setting.steady else "the least unsteady"
    if not setting.steady:
        return "unsteady"
    assert found.named is not None
    return "slower" if setting.slowest > found.named.slowest else "hardly faster"


def _share(value: float) -> str:
    return f"{value:.1%}" if value < 1 else f"{value:.0%}"
