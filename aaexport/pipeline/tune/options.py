"""What is asked of a tuning, and which of it is wrong: seen without loading anything that measures."""

from __future__ import annotations

from aaexport.device import parse_device
from aaexport.errors import ArgumentError, broken_rule
from aaexport.pipeline.bench.options import MAX_THREADS
from aaexport.recipe import MAX_SEED, check_opset

MAX_BATCH = 65536


def check_arguments(
    opset: int | None, device: str | None, batch: int | None, threads: int | None, duration: float, seed: int
) -> None:
    """ArgumentError for the first that breaks its rule; so it can be said before any work is done."""
    if opset is not None:
        check_opset(opset)
    if device is not None:
        parse_device(device)
    rules = (
        (batch is None or 1 <= batch <= MAX_BATCH, "batch", f"be between 1 and {MAX_BATCH}", batch),
        (threads is None or 1 <= threads <= MAX_THREADS, "threads", f"be between 1 and {MAX_THREADS}", threads),
        (0 < duration < float("inf"), "duration", "be above 0 seconds", duration),
        (0 <= seed <= MAX_SEED, "seed", f"be between 0 and {MAX_SEED}", seed),
    )
    for holds, name, rule, got in rules:
        if not holds:
            raise ArgumentError(broken_rule(name, rule, got))
