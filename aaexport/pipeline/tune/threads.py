"""(network, options) → how many threads a session of it should have, by launches of the whole network.

They are measured before the layers, whose candidates then have as many: with threads that are fast in one process and
slow in the next, a candidate would win by the process that it got. The network is as `convert` writes it without a
tuning. Queries have one image unless a batch is asked for or fixed: a thread more pays where there is more to do.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from aaexport.cores import default_threads
from aaexport.device import parse_device
from aaexport.load.launches import Launches
from aaexport.pipeline.bench.launches import Tick, launch_in_turns, numbers_to_try
from aaexport.pipeline.bench.worker_models import WorkerSpec
from aaexport.pipeline.convert.convert import convert
from aaexport.pipeline.tune.options import TuneOptions
from aaexport.recipe import Recipe

WARMUP = 0.1
SAMPLES = 16


@dataclass(frozen=True)
class SettledThreads:
    """`threads` of a session, None for the runtime's default; the launches that say so, and notes."""

    threads: int | None
    launches: Launches | None = None
    notes: tuple[str, ...] = ()


def numbers_of(options: TuneOptions, device: str) -> Sequence[int]:
    """What is tried; fewer than two where there is nothing to compare."""
    if options.threads is None:
        return numbers_to_try() if parse_device(device)[0] == "cpu" else ()
    return () if isinstance(options.threads, int) else options.threads


def settled_threads(
    module: nn.Module, recipe: Recipe, options: TuneOptions, device: str, tick: Tick
) -> SettledThreads:
    """The number that the user named, or the one that is fast and steady of several.

    Raises:
        ExportError, GraphError: the network cannot be written.
        RunnerError, MeasurementError: it does not run, or its process died.
    """
    if isinstance(options.threads, int):
        return SettledThreads(options.threads)
    numbers = numbers_of(options, device)
    if len(numbers) < 2:
        return SettledThreads(default_threads())
    fixed = recipe.export.batch if isinstance(recipe.export.batch, int) else 1
    launches = _launches(module, recipe, options, device, numbers, options.batch or fixed, tick)
    if launches.named is None:
        return SettledThreads(default_threads(), launches, (f"threads are left to the runtime: {launches.withheld}",))
    return SettledThreads(launches.named.threads, launches)


def _launches(
    module: nn.Module,
    recipe: Recipe,
    options: TuneOptions,
    device: str,
    numbers: Sequence[int],
    images: int,
    tick: Tick,
) -> Launches:
    tick("writing the network", 0.0)
    with tempfile.TemporaryDirectory(prefix="aaexport-") as scratch:
        path, samples = Path(scratch) / "model.onnx", Path(scratch) / "samples.npy"
        opset, target = options.opset or recipe.export.opset, parse_device(device)[0]
        convert(module, path, input_shape=recipe.input.shape, opset=opset, target=target, verify=False)
        rng = np.random.default_rng(options.seed)
        np.save(samples, rng.standard_normal((max(images, SAMPLES), *recipe.input.shape), dtype=np.float32))
        spec = WorkerSpec("onnxruntime", str(path), str(samples), device, numbers[0])
        return launch_in_turns(
            spec, numbers, options.launches, batch=images, warmup=WARMUP, duration=options.duration, tick=tick
        )
