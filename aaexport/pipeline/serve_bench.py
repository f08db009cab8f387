"""(model.onnx, scenario) → BenchReport: latency through onnxruntime, beside other ways to run it in the same run.

Every contender has a process of its own and they take turns in warm blocks, because two models that alternate
run by run in one process slow each other down: one's threads spin on while the other runs, and each empties the
other's caches. Ratios are taken pair by pair between blocks of one round.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aaexport.data import evaluation_batch, load_images, sample
from aaexport.device import parse_device
from aaexport.errors import ArgumentError, DataError, FolderError, broken_rule
from aaexport.folder import ModelFolder, find_model, sha256, tool_versions, write_json
from aaexport.graph.files import GraphSummary, summarize
from aaexport.load.machine import Environment, MachineWatch
from aaexport.load.measurement import BenchReport, Comparison, Throughput
from aaexport.load.single_stream import BlockPlan
from aaexport.load.statistics import Milliseconds, pairwise_ratio, percentile
from aaexport.load.validity import MIN_QUERIES, shortfalls, warnings_about, why_no_ratio
from aaexport.parity import Array
from aaexport.pipeline.bench_worker import WorkerSpec
from aaexport.pipeline.contender import Contender
from aaexport.pipeline.rivals import check_rivals, rival_label, rival_spec
from aaexport.report.machine import bench_json
from aaexport.runners.ort import best_device

SCENARIOS = ("single-stream",)
OURS = "onnxruntime"
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
    compare: Sequence[str] = ("eager",),
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
        compare: what is measured in alternation: `eager` PyTorch, what torch.compile makes of it (`compile`), and
            `skew`, the paper's own formulas exported by plain `torch.onnx.export`; () for none.
        seed: of random inputs, where there are no images.
        tick: is told what is measured and the share that is done.

    Raises:
        ArgumentError: an argument breaks its rule.
        FolderError: the folder has no model.onnx.
        GraphError, RunnerError: the file cannot be loaded, or torch.compile finds no compiler.
        ExportError: torch cannot export the network as `skew`.
        ProviderError: `device` does not work here.
        MeasurementError: a contender died or hung.
    """
    device = best_device() if device is None else device
    check_arguments(scenario, device, duration, warmup, batches, threads)
    check_rivals(compare)
    path, folder = _find(model)
    summary = summarize(path)
    arrays, inputs = _samples(summary, folder, seed)
    measurable = compare if folder is not None and folder.weights_path.is_file() else ()
    with ExitStack() as stack:
        room = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aaexport-")))
        np.save(room / "samples.npy", arrays)
        spec = WorkerSpec("onnxruntime", str(path), str(room / "samples.npy"), device, threads)
        ours = stack.enter_context(Contender(spec))  # before anything slow: it may be the device that does not work
        rivals = {}
        for name in measurable:
            assert folder is not None
            tick(f"preparing {name}", 0.0)
            rivals[name] = stack.enter_context(Contender(rival_spec(name, folder, spec, summary, room)))
        measured = _measure(ours, rivals, duration, warmup, batches, tick)
    warnings = warnings_about(measured.blocks, measured.comparisons, measured.environment)
    report = BenchReport(
        model=folder.name if folder is not None else path.name,
        onnx_sha256=sha256(path),
        scenario=scenario,
        label=ours.label,
        provider=ours.provider,
        threads=threads,
        batch=ours.fixed_batch or 1,
        inputs=inputs,
        blocks=measured.blocks,
        cold_start=measured.cold_start,
        throughput=measured.throughput,
        comparisons=measured.comparisons,
        environment=measured.environment,
        tools=tool_versions(),
        warnings=(*warnings, *_left_out(compare, measurable, folder), *_other_batches(batches, ours.fixed_batch)),
        reasons=(*measured.reasons, *shortfalls(measured.blocks, duration)),
    )
    if folder is not None and path == folder.onnx_path:
        write_json(folder.bench_path, bench_json(report, raw=True))
        folder.write_manifest()
    return report


@dataclass(frozen=True)
class _Measured:
    """The parts of a report that come from the workers."""

    cold_start: float
    blocks: tuple[Milliseconds, ...]
    comparisons: tuple[Comparison, ...]
    throughput: tuple[Throughput, ...]
    environment: Environment
    reasons: tuple[str, ...]


def _measure(
    ours: Contender,
    rivals: dict[str, Contender],
    duration: float,
    warmup: float,
    batches: Sequence[int] | None,
    tick: Tick,
) -> _Measured:
    batch = ours.fixed_batch or 1
    contenders = {OURS: ours, **rivals}
    cold_starts = {}
    for name, contender in contenders.items():
        tick(f"cold start of {name}", 0.0)
        cold_starts[name] = contender.cold_start(batch)
    reasons = _disagreements(ours, rivals, batch)
    # Only now: what others did while a compiler was at work is no excuse, and no comfort, for what comes.
    watch = MachineWatch([contender.process_id for contender in contenders.values()])
    sizes = (ours.fixed_batch,) if ours.fixed_batch is not None else tuple(batches or BATCHES)
    rounds = BLOCKS * len(contenders)

    def begin(step: str, number: int) -> None:
        tick(step, number / (rounds + len(sizes)))

    blocks = _alternate(contenders, batch, _plan(duration / BLOCKS, warmup), begin)
    throughput = []
    for number, size in enumerate(sizes, rounds):
        begin(f"{OURS}, batch {size}", number)
        throughput.append(_throughput(size, ours.block(size, _plan(duration * THROUGHPUT_SHARE, warmup))))
    environment = watch.environment()
    withheld = why_no_ratio(environment)
    comparisons = tuple(
        Comparison(
            name=name,
            label=rival_label(name, rival.label),
            p50=percentile(np.concatenate(blocks[name]), 50),
            cold_start=cold_starts[name],
            ratio=None if withheld else pairwise_ratio(blocks[name], blocks[OURS]),
            withheld=withheld,
            blocks=tuple(blocks[name]),
        )
        for name, rival in rivals.items()
    )
    return _Measured(
        cold_starts[OURS], tuple(blocks[OURS]), comparisons, tuple(throughput), environment, tuple(reasons)
    )


def _alternate(
    contenders: Mapping[str, Contender], batch: int, plan: BlockPlan, begin: Callable[[str, int], None]
) -> dict[str, list[Milliseconds]]:
    """Every contender's blocks, `BLOCKS` rounds of one each; `begin` is told whose block begins, and its number."""
    blocks: dict[str, list[Milliseconds]] = {name: [] for name in contenders}
    order = list(contenders)
    for number in range(BLOCKS):
        for place, name in enumerate(order):
            begin(f"{name}, batch {batch}", number * len(order) + place)
            blocks[name].append(contenders[name].block(batch, plan))
        # Whoever goes later runs on a warmer machine: they take turns in that too.
        order = order[1:] + order[:1]
    return blocks


def _plan(duration: float, warmup: float) -> BlockPlan:
    least = -(-MIN_QUERIES // BLOCKS)
    return BlockPlan(warmup, duration, least, max(duration, 1.0) * PATIENCE)


def _throughput(batch: int, latencies: Milliseconds) -> Throughput:
    images_per_second = batch * len(latencies) / latencies.sum() * 1000
    return Throughput(batch, float(images_per_second), percentile(latencies, 50))


def _disagreements(ours: Contender, rivals: Mapping[str, Contender], batch: int) -> list[str]:
    """A fast wrong answer is no answer."""
    answer, finite = ours.answer(batch)
    if not finite:
        return [f"{ours.label} answers NaN or infinity; look at `aaexport verify`"]
    reasons = []
    for name, rival in rivals.items():
        expected, finite = rival.answer(batch)
        if not finite:
            reasons.append(f"{name} answers NaN or infinity, and {ours.label} does not; look at `aaexport verify`")
        elif not _agree(answer, expected):
            reasons.append(
                f"{ours.label} and {name} answer differently, so they are not the same model; `aaexport verify` it"
            )
    return reasons


def _agree(answer: Array, expected: Array) -> bool:
    largest = max(float(np.abs(expected).max(initial=0)), 1e-6)
    return answer.shape == expected.shape and np.allclose(answer, expected, rtol=0, atol=ANSWERS_AGREE * largest)


def _left_out(wanted: Sequence[str], measured: Sequence[str], folder: ModelFolder | None) -> tuple[str, ...]:
    """What was asked for and could not be compared, or is not what its name makes one expect."""
    if set(wanted) - set(measured):
        verb = "was" if len(wanted) == 1 else "were"
        return (f"no PyTorch weights beside the file: {', '.join(wanted)} {verb} not measured",)
    if "skew" in measured and folder is not None and folder.recipe.attention is None:
        return ("the network has no attention: skew is its plain torch.onnx.export, and nothing else",)
    return ()


def _other_batches(wanted: Sequence[int] | None, fixed: int | None) -> tuple[str, ...]:
    if wanted is None or fixed is None or set(wanted) == {fixed}:
        return ()
    return (f"the file fixes the batch at {fixed}: no other size was measured",)


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
