"""(model.onnx, scenario) → BenchReport: latency through onnxruntime, beside PyTorch eager in the same run.

Every contender has a process of its own and they take turns in warm blocks, because two models that alternate
run by run in one process slow each other down: one's threads spin on while the other runs, and each empties the
other's caches. Ratios are taken pair by pair between neighbouring blocks.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from aaexport.data import evaluation_batch, load_images, sample
from aaexport.device import parse_device
from aaexport.errors import ArgumentError, DataError, FolderError, broken_rule
from aaexport.folder import ModelFolder, find_model, sha256, tool_versions, write_json
from aaexport.graph.files import GraphSummary, summarize
from aaexport.graph.metadata import read_metadata
from aaexport.load.machine import MachineWatch
from aaexport.load.measurement import BenchReport, Comparison, Throughput
from aaexport.load.single_stream import BlockPlan
from aaexport.load.statistics import Milliseconds, pairwise_ratio, percentile
from aaexport.load.validity import MIN_QUERIES, shortfalls, warnings_about, why_no_ratio
from aaexport.parity import Array
from aaexport.pipeline.bench_worker import WorkerSpec
from aaexport.pipeline.contender import Contender
from aaexport.report.machine import bench_json
from aaexport.runners.ort import best_device

SCENARIOS = ("single-stream",)
BATCHES = (1, 8, 32)
BLOCKS = 6
SAMPLES = 64
MAX_THREADS = 1024
THROUGHPUT_SHARE = 0.1  # of the duration, for each batch size
PATIENCE = 10  # a block may last this many times longer than planned to reach its queries
ANSWERS_AGREE = 1e-2  # of the largest output: TF32 passes, another model does not


Tick = Callable[[str, float], None]


def serve_bench(
    model: str | Path | ModelFolder,
    *,
    scenario: str = "single-stream",
    device: str | None = None,
    duration: float = 6.0,
    warmup: float = 0.3,
    batches: Sequence[int] | None = None,
    threads: int | None = None,
    compare: bool = True,
    seed: int = 0,
    tick: Tick = lambda step, share: None,
) -> BenchReport:
    """Measures single-stream latency and throughput of a model folder's model.onnx, or of any ONNX file.

    Args:
        model: a model folder with a model.onnx, or the path of an ONNX file with one image input.
        scenario: `single-stream`.
        device: `cpu`, `cuda` or `cuda:N`, the same for onnxruntime and PyTorch; by default `cuda` where its
            provider ran a session, and the report says which provider it was.
        duration: seconds of counted queries for the latency part, for each contender.
        warmup: seconds of uncounted queries before every block.
        batches: batch sizes of the throughput part, 1, 8 and 32 by default; a file that fixes its batch is measured
            at that one.
        threads: intra-op threads of every runtime; None leaves each its default.
        compare: whether PyTorch eager is measured in alternation.
        seed: of random inputs, where there are no images.
        tick: is told what is measured and the share that is done.

    Raises:
        ArgumentError: an argument breaks its rule.
        FolderError: the folder has no model.onnx.
        GraphError, RunnerError: the file cannot be loaded.
        ProviderError: `device` does not work here.
        MeasurementError: a contender died or hung.
    """
    device = best_device() if device is None else device
    check_arguments(scenario, device, duration, warmup, batches, threads)
    path, folder = _find(model)
    summary = summarize(path)
    watch = MachineWatch()
    with ExitStack() as stack:
        arrays, inputs = _samples(summary, folder, seed)
        samples = stack.enter_context(_samples_file(arrays))
        ort = stack.enter_context(Contender(WorkerSpec("onnxruntime", str(path), samples, device, threads)))
        eager = None
        if compare and folder is not None and folder.weights_path.is_file():
            origin = read_metadata(summary.metadata)
            size, observed = (None, False) if origin is None else (origin.size, origin.with_attention)
            spec = WorkerSpec("torch", str(folder.path), samples, device, threads, size, observed)
            eager = stack.enter_context(Contender(spec))
        measured = _measure(ort, eager, duration, warmup, batches, tick)
    environment = watch.environment()
    blocks, comparison, throughput, reasons = measured
    if comparison is not None and comparison.ratio is not None:
        withheld = why_no_ratio(environment)
        comparison = replace(comparison, ratio=None if withheld else comparison.ratio, withheld=withheld)
    warnings = warnings_about(blocks, comparison, environment, compare)
    if batches is not None and ort.fixed_batch is not None and set(batches) != {ort.fixed_batch}:
        warnings = (*warnings, f"the file fixes the batch at {ort.fixed_batch}: no other size was measured")
    report = BenchReport(
        model=folder.name if folder is not None else path.name,
        onnx_sha256=sha256(path),
        scenario=scenario,
        label=ort.label,
        provider=ort.provider,
        threads=threads,
        batch=ort.fixed_batch or 1,
        inputs=inputs,
        blocks=blocks,
        throughput=throughput,
        comparison=comparison,
        environment=environment,
        tools=tool_versions(),
        warnings=warnings,
        reasons=(*reasons, *shortfalls(blocks, duration)),
    )
    if folder is not None and path == folder.onnx_path:
        write_json(folder.bench_path, bench_json(report, raw=True))
        folder.write_manifest()
    return report


def _measure(
    ort: Contender,
    eager: Contender | None,
    duration: float,
    warmup: float,
    batches: Sequence[int] | None,
    tick: Tick,
) -> tuple[tuple[Milliseconds, ...], Comparison | None, tuple[Throughput, ...], tuple[str, ...]]:
    batch = ort.fixed_batch or 1
    reasons = _disagreement(ort, eager, batch)
    contenders = [ort] if eager is None else [ort, eager]
    blocks: dict[str, list[Milliseconds]] = {contender.label: [] for contender in contenders}
    plan = _plan(duration / BLOCKS, warmup)
    sizes = (ort.fixed_batch,) if ort.fixed_batch is not None else tuple(batches or BATCHES)
    steps = BLOCKS * len(contenders) + len(sizes)
    for number in range(BLOCKS):
        # Whoever goes second runs on a warmer machine: they take turns in that too.
        for contender in contenders if number % 2 == 0 else contenders[::-1]:
            done = sum(len(each) for each in blocks.values())
            tick(f"{contender.label}, batch {batch}", done / steps)
            blocks[contender.label].append(contender.block(batch, plan))
    throughput = []
    for done, size in enumerate(sizes, BLOCKS * len(contenders)):
        tick(f"{ort.label}, batch {size}", done / steps)
        latencies = ort.block(size, _plan(duration * THROUGHPUT_SHARE, warmup))
        images_per_second = size * len(latencies) / latencies.sum() * 1000
        throughput.append(Throughput(size, float(images_per_second), percentile(latencies, 50)))
    comparison = None
    if eager is not None:
        raw = tuple(blocks[eager.label])
        ratio = pairwise_ratio(raw, blocks[ort.label])
        comparison = Comparison(eager.label, percentile(np.concatenate(raw), 50), ratio, None, raw)
    return tuple(blocks[ort.label]), comparison, tuple(throughput), reasons


def _plan(duration: float, warmup: float) -> BlockPlan:
    least = -(-MIN_QUERIES // BLOCKS)
    return BlockPlan(warmup, duration, least, max(duration, 1.0) * PATIENCE)


def _disagreement(ort: Contender, eager: Contender | None, batch: int) -> tuple[str, ...]:
    """A fast wrong answer is no answer."""
    answer, finite = ort.answer(batch)
    if not finite:
        return (f"{ort.label} answers NaN or infinity; look at `aaexport verify`",)
    if eager is None:
        return ()
    expected, _ = eager.answer(batch)
    agree = answer.shape == expected.shape and np.allclose(
        answer, expected, rtol=0, atol=ANSWERS_AGREE * max(float(np.abs(expected).max(initial=0)), 1e-6)
    )
    if agree:
        return ()
    return ("onnxruntime and PyTorch answer differently, so they are not the same model; `aaexport verify` it",)


def _find(model: str | Path | ModelFolder) -> tuple[Path, ModelFolder | None]:
    if not isinstance(model, ModelFolder):
        if Path(model).suffix == ".onnx" or Path(model).is_file():
            return Path(model), None
        model = find_model(model)
    if not model.onnx_path.is_file():
        remedy = f"write it with `aaexport convert {model.path}`"
        raise FolderError(f"{model.path} has no model.onnx yet; {remedy}")
    return model.onnx_path, model


def _samples(summary: GraphSummary, folder: ModelFolder | None, seed: int) -> tuple[Array, str]:
    """What is fed, and its name: held-out images where they can be had offline, else seeded normal numbers."""
    if len(summary.inputs) != 1 or summary.inputs[0].dtype != "float":
        signature = ", ".join(f"{i.name} {i.dtype} {i.shape}" for i in summary.inputs)
        raise ArgumentError(broken_rule("the file", "have one float32 input", signature))
    if not summary.inputs[0].shape:
        raise ArgumentError(broken_rule("the file's input", "have a batch dimension", summary.inputs[0].shape))
    name = "random inputs"
    if folder is not None:
        try:
            recipe = folder.recipe.for_size(_image_size(summary))
            images = load_images(recipe, "test", base=folder.path)
            chosen, _ = sample(images, SAMPLES, seed)
            return evaluation_batch(images, recipe, chosen).numpy(), "held-out images"
        except DataError as error:
            name = f"random inputs, because {error}"
    sizes = summary.inputs[0].shape[1:]
    if not all(isinstance(size, int) for size in sizes):
        raise ArgumentError(broken_rule("the file's input", "be dynamic in the batch only", summary.inputs[0].shape))
    rng = np.random.default_rng(seed)
    return rng.standard_normal((SAMPLES, *sizes), dtype=np.float32), name  # type: ignore[arg-type]


def _image_size(summary: GraphSummary) -> tuple[int, int] | None:
    """(H, W) of the file's input; None if it is not one image of known size."""
    shape = summary.inputs[0].shape
    if len(shape) != 4 or not isinstance(shape[2], int) or not isinstance(shape[3], int):
        return None
    return shape[2], shape[3]


@contextmanager
def _samples_file(samples: Array) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="aaexport-") as folder:
        path = Path(folder) / "samples.npy"
        np.save(path, samples)
        yield str(path)


def check_arguments(
    scenario: str,
    device: str | None,
    duration: float,
    warmup: float,
    batches: Sequence[int] | None,
    threads: int | None,
) -> None:
    """ArgumentError for the first that breaks its rule; so it can be said before any work is done."""
    if device is not None:
        parse_device(device)
    rules = (
        (scenario in SCENARIOS, "scenario", f"be one of {', '.join(SCENARIOS)}", scenario),
        (0 < duration < float("inf"), "duration", "be above 0 seconds", duration),
        (0 <= warmup < float("inf"), "warmup", "be at least 0 seconds", warmup),
        (batches is None or min(batches, default=0) >= 1, "batch", "be one or more numbers ≥ 1", batches),
        (threads is None or threads >= 1, "threads", "be at least 1", threads),
        (threads is None or threads <= MAX_THREADS, "threads", f"be at most {MAX_THREADS}", threads),
    )
    for holds, name, rule, got in rules:
        if not holds:
            raise ArgumentError(broken_rule(name, rule, got))
