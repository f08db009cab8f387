"""Whether a measurement may be quoted, and what to think of before one does."""

from __future__ import annotations

from collections.abc import Sequence

from aaexport.load.machine import Environment
from aaexport.load.measurement import PERCENTILES, Comparison
from aaexport.load.statistics import Milliseconds, queries_needed, spread

MIN_QUERIES = queries_needed(90)
STEADY = 0.10  # perf_analyzer calls a run stable when its windows agree within 10 %
STEAL_LIMIT = 0.05
OTHER_LOAD_LIMIT = 0.10
# Beside one busy process PyTorch's threads can wait for each other forty times longer than they compute.
RATIO_LOAD_LIMIT = 0.25


def shortfalls(blocks: Sequence[Milliseconds], duration: float) -> tuple[str, ...]:
    """Why a measurement is invalid: too few queries for p90, or less time than was asked for."""
    queries = sum(len(block) for block in blocks)
    seconds = sum(float(block.sum()) for block in blocks) / 1000
    reasons = []
    if queries < MIN_QUERIES:
        reasons.append(f"{MIN_QUERIES} queries must be counted, got {queries}; measure longer with --duration")
    # A block ends with the query that reaches its time, so the sum can miss the plan by clock reads only.
    if seconds < 0.9 * duration:
        reasons.append(f"{duration:g} s of queries must be counted, got {seconds:.2f} s")
    return tuple(reasons)


def warnings_about(
    blocks: Sequence[Milliseconds], comparisons: Sequence[Comparison], environment: Environment
) -> tuple[str, ...]:
    """What to think of before believing the numbers; each line ends with its remedy."""
    warnings = []
    queries = sum(len(block) for block in blocks)
    withheld = [p for p in PERCENTILES if queries < queries_needed(p)]
    for p in withheld:
        missing = queries_needed(p) - queries
        warnings.append(f"p{p} is withheld: it needs {missing} more queries; measure longer with --duration")
    for name, raw in (("onnxruntime", blocks), *((other.name, other.blocks) for other in comparisons)):
        if spread(raw) > STEADY:
            warnings.append(
                f"{name}'s block medians differ by {spread(raw):.0%}: the machine is not quiet; close what else runs"
            )
    return (*warnings, *warnings_about_the_machine(environment))


def warnings_about_the_machine(environment: Environment) -> tuple[str, ...]:
    """Who else had the CPU, where it was so much that the numbers show it."""
    warnings = []
    steal = environment.steal_share
    if steal is not None and steal > STEAL_LIMIT:
        warnings.append(f"the hypervisor took {steal:.0%} of the CPU: absolute times are too long, ratios less so")
    other = environment.other_load_share
    if other is not None and other > OTHER_LOAD_LIMIT:
        warnings.append(
            f"other processes took {other:.0%} of the CPU: times and ratios are not the model's own; "
            "stop them and measure again"
        )
    return tuple(warnings)


def why_no_ratio(environment: Environment) -> str | None:
    """Why a ratio must be withheld; single bad pairs do not move its median, and its range shows them."""
    other = environment.other_load_share
    if other is not None and other > RATIO_LOAD_LIMIT:
        return f"other processes took {other:.0%} of the CPU; stop them and measure again"
    return None
