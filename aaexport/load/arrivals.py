"""A rate or a recorded trace → the moments at which an open loop sends its queries."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aaexport.errors import ArgumentError, broken_rule, first_line
from aaexport.load.chance import chance
from aaexport.load.clock import SECOND
from aaexport.load.lengths import MOST_QUERIES, MOST_SECONDS, queries_of
from aaexport.load.run import Nanoseconds


def poisson(rate: float, duration: float, min_queries: int = 1, seed: int = 0) -> Nanoseconds:
    """Arrivals that know nothing of each other: gaps are exponential with mean 1/`rate` seconds (MLPerf's server).

    They reach up to `duration` seconds, and on until there are `min_queries`.

    Raises:
        ArgumentError: rate or duration is not a positive number, or there would be too many queries.
    """
    expected = queries_of(rate, duration, min_queries)
    # Ten standard deviations more than expected always reach the end.
    gaps = chance("arrivals", seed).exponential(1 / rate, math.ceil(expected + 10 * math.sqrt(expected) + 10))
    seconds = np.cumsum(gaps)
    return _nanoseconds(seconds[: max(int(np.searchsorted(seconds, duration)), min_queries)])


def constant(rate: float, duration: float, min_queries: int = 1) -> Nanoseconds:
    """One query every 1/`rate` seconds from 0 on, until `duration` seconds and `min_queries` are full.

    Raises:
        ArgumentError: as of `poisson`.
    """
    return _nanoseconds(np.arange(queries_of(rate, duration, min_queries)) / rate)


def trace(path: str | Path) -> Nanoseconds:
    """Replays arrivals from a file of ascending times in seconds; the first is the beginning.

    A .npy holds them as a vector, a .json as a list, any other file one a line.

    Raises:
        ArgumentError: the file cannot be read, is empty or not ascending, or holds something else.
    """
    path = Path(path)
    try:
        seconds = _READERS.get(path.suffix, _read_lines)(path)
    except ArgumentError:
        raise
    except (OSError, ValueError, TypeError, EOFError) as error:
        remedy = f"give one time in seconds a line, a JSON list or a .npy vector ({first_line(error)})"
        raise ArgumentError(broken_rule("trace", "be a file of times", str(path), remedy)) from error
    _check(seconds, path)
    return _nanoseconds(seconds - seconds[0])


def mean_rate(schedule: Nanoseconds) -> float:
    """Queries a second between the first and the last; 0 where they all come at once."""
    span = int(schedule[-1] - schedule[0]) if len(schedule) else 0
    return (len(schedule) - 1) * SECOND / span if span else 0.0


def _read_lines(path: Path) -> npt.NDArray[np.float64]:
    return np.asarray([*_times(path, path.read_text().splitlines())], np.float64)


def _times(path: Path, lines: Iterable[str]) -> Iterable[float]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield float(line)
            except ValueError:
                rule = "be a time in seconds"
                raise ArgumentError(broken_rule(f"line {number} of trace {path}", rule, line.strip())) from None


def _read_json(path: Path) -> npt.NDArray[np.float64]:
    return np.asarray(json.loads(path.read_text()), np.float64)


def _read_npy(path: Path) -> npt.NDArray[np.float64]:
    return np.asarray(np.load(path, allow_pickle=False), np.float64)


_READERS = {".json": _read_json, ".npy": _read_npy}


def _check(seconds: npt.NDArray[np.float64], path: Path) -> None:
    name = f"trace {path}"
    if seconds.ndim != 1 or not 1 <= len(seconds) <= MOST_QUERIES:
        rule = f"hold from 1 to {MOST_QUERIES:,} times in one row"
        raise ArgumentError(broken_rule(name, rule, seconds.shape))
    if not np.isfinite(seconds).all():
        position = int(np.argmin(np.isfinite(seconds)))
        raise ArgumentError(broken_rule(f"time {position + 1} of {name}", "be a number", seconds[position]))
    backwards = np.diff(seconds) < 0
    if backwards.any():
        position = int(np.argmax(backwards)) + 1
        rule = f"not be before the last, {seconds[position - 1]}"
        raise ArgumentError(broken_rule(f"time {position + 1} of {name}", rule, seconds[position]))
    if seconds[-1] - seconds[0] > MOST_SECONDS:
        raise ArgumentError(broken_rule(name, f"last at most {MOST_SECONDS:g} s", seconds[-1] - seconds[0]))


def _nanoseconds(seconds: npt.NDArray[np.float64]) -> Nanoseconds:
    return np.rint(seconds * SECOND).astype(np.int64)
