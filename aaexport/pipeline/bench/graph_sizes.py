"""What is asked of serve-bench → the batch sizes that CUDA graphs are recorded and TensorRT's engines built for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from aaexport.errors import ArgumentError, broken_rule
from aaexport.graph.files import GraphSummary
from aaexport.pipeline.bench.options import BenchOptions
from aaexport.pipeline.bench.samples import Samples

SWEPT = 256  # images that a sweep of batches may come to where that must be known beforehand


def fills_up(summary: GraphSummary) -> bool:
    """Whether a batch may be filled up: all inputs and outputs begin with one and the same open dimension."""
    first = [port.shape[0] if port.shape else None for port in (*summary.inputs, *summary.outputs)]
    return isinstance(first[0], str) and len(set(first)) == 1


def with_sizes(
    options: BenchOptions, samples: Samples, default: tuple[int, ...], *, fills: bool = True
) -> BenchOptions:
    """The options with both, where they are needed, the batch is open and nobody has named them.

    `default` are the sizes of the throughput part, if no others are asked for; `fills` tells whether batches of the
    file may be filled up.

    ArgumentError for graphs of a few sizes where they may not.
    """
    session = dict(options.session)
    if session.get("graph_sizes") and not fills:
        rule = "be left out for a file whose inputs and outputs do not all begin with one open dimension"
        remedy = "each batch size has a graph of its own there"
        raise ArgumentError(broken_rule("graph_sizes", rule, ",".join(map(str, session["graph_sizes"])), remedy))
    if not samples.batched or samples.fixed_batch is not None:
        return options
    if session.get("cuda_graph") and options.shares_batches and fills and not session.get("graph_sizes"):
        session["graph_sizes"] = recorded_sizes(options, samples, default)
    if session.get("tensorrt") and not session.get("profiles"):
        sizes = (*asked_sizes(options, samples, default), *((SWEPT,) if options.sweeps_batches else ()))
        usual = options.load(None).samples_per_query
        session["profiles"] = tuple(
            _shapes(samples, size) for size in (min(sizes), min(usual, max(sizes)), max(sizes))
        )
    return replace(options, session=session)


def most_built_for(session: Mapping[str, Any]) -> int | None:
    """The most images of TensorRT's profiles, beyond which no engine answers; None where there are none."""
    profiles = session.get("profiles")
    found = re.search(r":(\d+)", profiles[-1]) if profiles else None
    return None if found is None else int(found[1])


def recorded_sizes(options: BenchOptions, samples: Samples, default: tuple[int, ...]) -> tuple[int, ...]:
    """Every size that is asked for by number, and 1, 2, 4 … up to the most images that are gathered."""
    most = options.load(None, batched=samples.batched, shares_batches=True).max_batch
    doubling = [2**power for power in range(most.bit_length()) if 2**power < most]
    return tuple(sorted({*doubling, most, *asked_sizes(options, samples, default)}))


def asked_sizes(options: BenchOptions, samples: Samples, default: tuple[int, ...]) -> tuple[int, ...]:
    """Sizes that will surely come."""
    load = options.load(None, batched=samples.batched)
    throughput = () if options.is_server or options.sweeps_batches else options.sizes or default
    most = load.max_batch if options.shares_batches else 1
    return tuple(sorted({1, load.samples_per_query, most, *throughput}))


def _shapes(samples: Samples, size: int) -> str:
    """Of all inputs, in TensorRT's notation."""
    return ",".join(
        f"{name}:{'x'.join(map(str, (size, *array.shape[1:])))}" for name, array in samples.arrays.items()
    )
