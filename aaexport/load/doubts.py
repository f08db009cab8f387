"""What a valid measurement may still hide: unsteady or dependent latencies, late queries, a slowed machine or GPU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aaexport.load.gpu import GpuState
from aaexport.load.gpu_watch import GpuLoad
from aaexport.load.lengths import queries_needed
from aaexport.load.machine import Environment
from aaexport.load.measurement import PERCENTILES, Comparison, Load, Phases
from aaexport.load.run import QueryLog
from aaexport.load.statistics import Milliseconds, independent_queries, spread, windows
from aaexport.load.validity import LATE, LONGER, lateness, warnings_about_the_machine, why_starved

STEADY = 0.10  # perf_analyzer calls a run stable when its windows agree within 10 %
WINDOWS = 6
GROWTH = 2.0  # of the latency between the first and the last third of an open loop
LATE_TO_MENTION = 0.10  # of the latency
FEW = 60  # independent queries; of fewer, ten batches cannot tell well how few they are
CLOCK_KEPT = 0.95
HELD_BACK = 0.02  # of the readings: a moment of it is in no median
TENFOLD = 10.0  # spread from which it is told as a factor: nobody reads 31037 %
ONE_BY_ONE = ("single-stream", "multi-stream")
SUBMITTING = 0.8  # of the time of a run; where the host is faster than the device it is a small part


def warnings_about(
    blocks: Sequence[QueryLog],
    load: Load,
    environment: Environment,
    *,
    comparisons: Sequence[Comparison] = (),
    phases: Phases | None = None,
    gpu_before: GpuState | None = None,
    gpu_after: GpuState | None = None,
    gpu_load: GpuLoad | None = None,
    graphs: bool = False,
    stays: bool = False,
    pinned: bool = False,
    on_cpu: bool = False,
    name: str = "onnxruntime",
) -> tuple[str, ...]:
    """What to think of before believing the numbers, each with its cause and remedy.

    Args:
        blocks: the queries of the model that is measured, called `name`.
        load: what was asked of it.
        environment: who had the CPU meanwhile.
        comparisons: what was measured in alternation with it.
        phases: where the time of a query on CUDA goes.
        gpu_before, gpu_after: on CUDA, where the driver tells; at rest.
        gpu_load: on CUDA, what the driver told while queries were counted.
        graphs: on CUDA, whether a run is launched as a whole: it has nothing to enqueue, and a launch may wait.
        stays: on CUDA, whether inputs and answers stay on the device: copies are in no query then.
        pinned: on CUDA, whether they are copied by way of memory that is locked.
        on_cpu: on CUDA, whether nodes are left to the CPU: no run can be launched as a whole then.
    """
    latencies = [log.latencies for log in blocks if len(log.latencies)]
    is_queue = load.arrivals is not None
    unsteady = _growing(latencies) if is_queue else _unsteady(name, latencies)
    rivals = [_unsteady(other.name, [block for block in other.blocks if len(block)]) for other in comparisons]
    return (
        *unsteady,
        *(warning for rival in rivals for warning in rival),
        # A queue's latencies depend on each other by their nature; elsewhere it is the same disturbance as above.
        *(_dependent(latencies) if is_queue or not unsteady else ()),
        *_late(blocks),
        # Where it is a reason against the measurement it need not be said twice.
        *(() if why_starved(environment) else warnings_about_the_machine(environment)),
        *_enqueue_bound(phases if not graphs else None, on_cpu),
        *_transfer_bound(phases if not stays else None, _of_copies(load, pinned)),
        *(_slowed_down(gpu_before, gpu_after) if gpu_load is None else _slowed_under_load(gpu_load)),
    )


def _unsteady(name: str, blocks: Sequence[Milliseconds]) -> tuple[str, ...]:
    parts = windows(blocks, WINDOWS)
    if not blocks or spread(parts) <= STEADY:
        return ()
    differ = f"{name}'s block medians differ by {_difference(parts)}"
    return (f"{differ}: the machine is not quiet; close what else runs",)


def _difference(blocks: Sequence[Milliseconds]) -> str:
    if spread(blocks) < TENFOLD:
        return f"{spread(blocks):.0%}"
    medians = [float(np.median(block)) for block in blocks]
    return f"a factor of {max(medians) / min(medians):,.0f}"


def _growing(blocks: Sequence[Milliseconds]) -> tuple[str, ...]:
    """Queues come and go in the steadiest of systems, so parts of an open loop differ; they should not grow."""
    parts = windows(blocks, WINDOWS)
    third = len(parts) // 3
    if not third:
        return ()
    first, last = (float(np.median(np.concatenate(some))) for some in (parts[:third], parts[-third:]))
    if last <= GROWTH * first:
        return ()
    grows = f"the median latency grows from {first:.3g} to {last:.3g} ms during the run"
    return (f"{grows}: the queue seems to fill faster than it is served; lower --rate, or {LONGER}",)


def _dependent(blocks: Sequence[Milliseconds]) -> tuple[str, ...]:
    """Percentiles whose intervals are too narrow: the sample counts for less than what withholds them elsewhere.

    In simulated M/M/1 and M/D/1 queues (loads 0.3 to 0.9, 1,000 to 20,000 queries) the intervals hold in 91 to 97 %
    of runs wherever fewer than a third of them are warned about, and in as few as 9 % where nearly all are.
    """
    latencies = np.concatenate(blocks) if blocks else np.empty(0)
    weak = {}
    for p in PERCENTILES:
        needed = max(queries_needed(p), FEW)
        worth = independent_queries(latencies, p)
        if len(latencies) >= queries_needed(p) and worth < min(needed, len(latencies) / 2):
            weak[f"p{p:g}"] = needed / worth
    if not weak:
        return ()
    return (
        f"latencies depend on each other, as in a queue or on a machine that is busy at times: the intervals of "
        f"{', '.join(weak)} are too narrow; measure {max(weak.values()):.0f} times as long",
    )


def _late(blocks: Sequence[QueryLog]) -> tuple[str, ...]:
    p, late = max(((p, lateness(blocks, p)) for p in (50, 99)), key=lambda found: found[1])
    if late <= LATE_TO_MENTION or lateness(blocks, 50) > LATE:
        return ()
    return (
        f"queries were sent late, at p{p} by {late:.0%} of the latency: the load generator waits for the CPU too; "
        "lower --rate, or leave it a core with --threads",
    )


def _enqueue_bound(phases: Phases | None, on_cpu: bool) -> tuple[str, ...]:
    if phases is None or phases.submit < SUBMITTING * phases.compute:
        return ()
    remedy = "a larger --batch, or a file without nodes on the CPU" if on_cpu else "--cuda-graph or a larger --batch"
    return (
        f"enqueue-bound: of the {phases.compute:.3g} ms until the GPU has computed, the host takes "
        f"{phases.submit:.3g} ms to submit the work; use {remedy}",
    )


def _transfer_bound(phases: Phases | None, remedy: str) -> tuple[str, ...]:
    copies = 0.0 if phases is None else phases.to_device + phases.to_host
    if phases is None or copies <= phases.compute:
        return ()
    return (
        f"transfer-bound: copies take {copies:.3g} ms and computing {phases.compute:.3g} ms; keep inputs and "
        f"outputs on the GPU{remedy} or make them smaller",
    )


def _of_copies(load: Load, pinned: bool) -> str:
    """What can be measured of copies, where one query goes after the other: elsewhere the options are refused."""
    if load.scenario not in ONE_BY_ONE:
        return ","
    return " (--resident measures that)," + ("" if pinned else " lock them with --pinned,")


def _slowed_under_load(load: GpuLoad) -> tuple[str, ...]:
    """Of what was read while queries ran, where low clocks are no rest."""
    warnings = []
    held = {name: share for name, share in load.throttled.items() if share >= HELD_BACK}
    if held:
        reasons = ", ".join(f"{name} in {share:.0%} of the readings" for name, share in held.items())
        warnings.append(
            f"the GPU was held back ({reasons}): its times are not what it can do; cool it, raise its power limit, "
            "or lock its clocks with `nvidia-smi --lock-gpu-clocks`"
        )
    first, last = load.sm_clock_first, load.sm_clock_last
    if first and last and last < CLOCK_KEPT * first:
        warnings.append(
            f"the GPU's clock fell from {first:.0f} to {last:.0f} MHz while it was measured: later times are longer "
            "than the first; lock it with `nvidia-smi --lock-gpu-clocks`"
        )
    return tuple(warnings)


def _slowed_down(before: GpuState | None, after: GpuState | None) -> tuple[str, ...]:
    """A GPU at rest lowers its clocks, so they may rise; what falls under load was forced to."""
    if before is None or after is None:
        return ()
    warnings = []
    throttled = dict.fromkeys((*before.throttled, *after.throttled))
    if throttled:
        warnings.append(
            f"the GPU was held back ({', '.join(throttled)}): its times are not what it can do; cool it, raise its "
            "power limit, or lock its clocks with `nvidia-smi --lock-gpu-clocks`"
        )
    if before.sm_clock and after.sm_clock and after.sm_clock < CLOCK_KEPT * before.sm_clock:
        warnings.append(
            f"the GPU's clock fell from {before.sm_clock} to {after.sm_clock} MHz: later times are longer than the "
            "first; lock it with `nvidia-smi --lock-gpu-clocks`"
        )
    return tuple(warnings)
