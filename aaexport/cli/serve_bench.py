"""`aaexport serve-bench MODEL`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from aaexport.cli import options
from aaexport.cli.collector import loading
from aaexport.cli.command import Command
from aaexport.cli.console import say, show, show_json
from aaexport.cli.converted import ask_services, check_model, ensure_converted, name_of
from aaexport.cli.page import check_page, write_page
from aaexport.cli.progress import progress, steps
from aaexport.cli.quantities import BYTES, MILLISECONDS, SECONDS, SHARE
from aaexport.cli.types import Dimension, Names, Numbers, PathTo, Threads, Whole, Word
from aaexport.errors import MeasurementError
from aaexport.folder import ModelFolder, copies
from aaexport.graph.there import require_readable

if TYPE_CHECKING:
    from aaexport.load.measurement import BenchReport
    from aaexport.pipeline.bench.options import BenchOptions

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
SESSION = (  # options that are fields of the session's settings
    "tf32", "cuda_graph", "nhwc", "cudnn_search", "gpu_memory", "copy_streams", "one_stream", "iobinding", "tensorrt",
    "tensorrt_fp16", "engine_cache", "spinning", "graph_sizes", "resident", "pinned",
)  # fmt: skip


def _decorated(*decorators: Callable[[Decorated], Decorated]) -> Callable[[Decorated], Decorated]:
    def decorate(function: Decorated) -> Decorated:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


load_options = _decorated(
    click.option("--scenario", type=Word("single-stream", "multi-stream", "offline", "server"),
                 default="single-stream", show_default=True, help="MLPerf's."),
    click.option("--duration", type=SECONDS, default="6s", show_default=True,
                 help="Of counted queries, for each contender and each rate."),
    click.option("--warmup", type=SECONDS, default="0.3s", show_default=True, help="Before every block."),
    click.option("--settle", type=SECONDS,
                 help="At most so long, at first, until medians and the GPU's clock stand still; 10s on CUDA."),
    click.option("--batch", "batches", type=Numbers("sweep"),
                 help="Batch sizes of the throughput part; 1,8,32 by default, sweep for all that pay."),
    click.option("--concurrency", type=Numbers(), default=(),
                 help="Numbers of clients of the throughput part, each with one query under way."),
    click.option("--samples-per-query", type=Whole(), help="8 in multi-stream, 1 in server."),
    click.option("--rate", type=float, metavar="QUERIES/S", help="Of the server scenario."),
    click.option("--arrivals", type=Word("poisson", "constant", "trace"), help="When they come; poisson by default."),
    click.option("--trace", type=PathTo("FILE"), help="Replay the times in it."),
    click.option("--p99", "latency_bound", type=MILLISECONDS, help="The bound that the 99th percentile must keep."),
    click.option("--find-peak", is_flag=True, help="Search the highest rate that stays valid within --p99."),
    click.option("--max-batch", type=Whole(), help="Most images of one run; 32 by default."),
    click.option("--max-delay", type=MILLISECONDS,
                 help="How long a query may wait for others to share its batch; 0ms by default."),
    click.option("--workers", type=Whole(), default=1, show_default=True, help="Sessions at work."),
    click.option("--threads", type=Threads(),
                 help="Of every session; several are compared. By default tuning.json's, or the runtime's own."),
    click.option("--launches", type=Whole(),
                 help="Processes of each --threads, for the spread between them; 5 for several, else 1."),
    click.option("--rules", type=Word("quick", "mlperf"), default="quick", show_default=True,
                 help="mlperf for the least durations and numbers of queries of MLPerf Inference."),
    click.option("--dim", "dims", type=Dimension(), multiple=True, help="A size that the file leaves open."),
)  # fmt: skip
session_options = _decorated(
    click.option("--tf32/--no-tf32", default=None, help="CUDA: products of float32 in TF32; onnxruntime's default."),
    click.option("--cuda-graph/--no-cuda-graph", default=None, help="CUDA: capture the run once, then replay it."),
    click.option("--graph-sizes", type=Numbers(),
                 help="Batch sizes with a CUDA graph each; others are filled up to the next."),
    click.option("--resident", is_flag=True, default=None, help="CUDA: inputs and answers stay on the device."),
    click.option("--pinned", is_flag=True, default=None, help="CUDA: host buffers that are locked in their place."),
    click.option("--flush-l2", is_flag=True, help="CUDA: write over the L2 cache between two queries."),
    click.option("--nhwc/--no-nhwc", default=None, help="CUDA: convolutions with the channels last."),
    click.option("--cudnn-search", type=Word("EXHAUSTIVE", "HEURISTIC", "DEFAULT"),
                 help="CUDA: how convolutions are chosen."),
    click.option("--gpu-memory", type=BYTES, help="CUDA: the most memory that a session may hold."),
    click.option("--copy-streams/--no-copy-streams", default=None, help="CUDA: copies in streams of their own."),
    click.option("--one-stream/--no-one-stream", default=None, help="CUDA: one stream for all threads of a session."),
    click.option("--iobinding/--no-iobinding", default=None, help="Buffers that are kept from query to query."),
    click.option("--tensorrt", is_flag=True, default=None, help="Give TensorRT what it takes."),
    click.option("--tensorrt-fp16", is_flag=True, default=None, help="TensorRT: in float16 where that is faster."),
    click.option("--engine-cache", type=PathTo("FOLDER", file_okay=False),
                 help="TensorRT: keep its engines in this folder."),
    click.option("--spinning/--no-spinning", default=None, help="Threads that wait for work without sleeping."),
    click.option("--allow-fallback", is_flag=True, help="Let nodes run on the CPU beside another provider."),
)  # fmt: skip
judging_options = _decorated(
    click.option("--compare", type=Names("eager", "compile", "skew", "in-process", "float32", "float16", "int8",
                                         "eager:channels-last", "eager:autocast", "compile:max-autotune",
                                         paths=True, none=True),
                 help="Measured in alternation; in closed loops by default eager, beside --dtype float16 and int8 "
                      "float32, and in-process with --url."),
    click.option("--check/--no-check", default=True, help="Compare answers with PyTorch's while measuring."),
    click.option("--baseline", type=PathTo("FILE.json"), help="An older bench.json to compare with."),
    click.option("--max-regression", type=SHARE, help="How much slower than it p50 may be; 5% by default."),
    click.option("--report", "page", type=PathTo("FILE.html", dir_okay=False), help="Write an HTML page."),
    click.option("--raw", is_flag=True, help="With --json: every query's times too."),
)  # fmt: skip


SECTIONS = {
    "The load": ("scenario", "duration", "warmup", "settle", "rules", "samples_per_query", "dims", "seed"),
    "Throughput": ("batches", "concurrency"),
    "The server scenario": ("rate", "arrivals", "trace", "latency_bound", "find_peak", "max_batch", "max_delay"),
    "The sessions": ("dtype", "device", "threads", "launches", "workers", *SESSION, "flush_l2", "allow_fallback"),
    "A live service": ("url", "served_as", "timeout", "ca", "client_processes"),
    "What it is compared with": ("compare", "module", "check", "baseline", "max_regression"),
    "The report": ("page", "as_json", "raw"),
}
EXAMPLES = (
    ("aaexport serve-bench aa_cnn3_digits", "Latency of single queries and throughput, beside PyTorch."),
    (
        "aaexport serve-bench aa_cnn3_digits --dtype int8 --compare float32,eager",
        "The folder's int8 file, and what it loses, beside the float32 file.",
    ),
    ("aaexport serve-bench aa_cnn3_digits --threads 1,2", "Which number of threads is fast in every process."),
    (
        "aaexport serve-bench aa_cnn3_digits --scenario server --find-peak --p99 20ms --report peak.html",
        "The highest rate whose 99th percentile stays below 20 ms.",
    ),
    (
        "aaexport serve-bench aa_cnn3_digits --url grpc://127.0.0.1:8001 --scenario server --rate 200",
        "A live service under an open loop, each answer that is kept compared with the model's.",
    ),
)


@click.command("serve-bench", cls=Command, sections=SECTIONS, examples=EXAMPLES)
@options.model
@options.out
@options.size
@options.module
@options.dtype
@options.device(None, "By default CUDA where its provider really runs, else the CPU.")
@load_options
@options.url
@options.served_as
@options.timeout
@options.ca
@click.option(
    "--client-processes", type=Whole(), default=1, show_default=True, help="That ask the service, and share the load."
)
@session_options
@judging_options
@options.seed
@options.as_json
def command(
    model: str,
    out: Path | None,
    size: tuple[int, int] | None,
    page: Path | None,
    raw: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Measure one of MODEL's files, or any ONNX file, through onnxruntime.

    Exits with 4 if the measurement is not valid, or slower than the baseline, or nobody can tell whether it is, and
    with 5 if the device does not work.
    """
    from aaexport.pipeline.bench.option_rules import require_files, validate
    from aaexport.pipeline.bench.options import BenchOptions

    session = {name: given.pop(name) for name in SESSION}
    session = {name: value for name, value in session.items() if value is not None}
    if "gpu_memory" in session:
        session["gpu_memory"] = int(session["gpu_memory"])
    wanted = BenchOptions(**given | {"dims": dict(given["dims"]), "session": session})
    validate(wanted)
    if raw and not as_json:
        raise click.UsageError("--raw goes with --json")
    check_page(page, option="--report")
    require_files(wanted)
    is_file = model.endswith(".onnx") or Path(model).is_file()
    if is_file:
        _require_no_folders(wanted, out, size)
        require_readable(Path(model))
    else:
        check_model(model, size, module=wanted.module, needs_weights=True)
    if wanted.url:
        name = Path(model).stem if is_file else name_of(model, out)
        ask_services(wanted.url, wanted.served_as or name, wanted.timeout, given["ca"])
    with steps(f"reading {model}"):
        from aaexport.load.regression import why_regressed

        with loading():
            from aaexport.pipeline.bench.serve_bench import Interrupted, serve_bench
        from aaexport.report.bench.baseline import read_baseline

    if wanted.baseline is not None:
        read_baseline(wanted.baseline)  # what is none is refused before anything is copied or converted
    try:
        with copies(say) as check_out:
            subject: ModelFolder | str = model if is_file else check_out(model, out)
            if isinstance(subject, ModelFolder):
                ensure_converted(subject, size, wanted.dtype)
            with progress("measuring") as tick:
                report = serve_bench(subject, wanted, tick=tick)
    except Interrupted as interrupted:
        _show(interrupted.report, page, as_json, raw)
        say("what was measured until the interrupt is above; an older bench.json was kept")
        raise
    _show(report, page, as_json, raw)
    if not report.valid:
        raise MeasurementError(f"the measurement is not valid: {report.reasons[0]}")
    if report.regression is not None and report.regression.unclear is not None:
        raise MeasurementError(f"no verdict on a regression: {report.regression.unclear}")
    if report.regression is not None and (complaint := why_regressed(report.regression)):
        raise MeasurementError(complaint)


def _require_no_folders(wanted: BenchOptions, out: Path | None, size: tuple[int, int] | None) -> None:
    """UsageError for options that mean nothing to an ONNX file by itself."""
    if out is not None or size is not None:
        raise click.UsageError("--out and --size go with a model folder or a zoo model, not with an ONNX file")
    if wanted.dtype != "float32":
        raise click.UsageError(f"--dtype {wanted.dtype} goes with a model folder; a file is as precise as it is")


def _show(report: BenchReport, page: Path | None, as_json: bool, raw: bool) -> None:
    from aaexport.report.bench.as_json import bench_json
    from aaexport.report.bench.terminal import bench_view

    if as_json:
        show_json(bench_json(report, raw=raw))
    else:
        show(bench_view(report))
    if page is not None:  # last, as it may fail: what was measured is not lost with it
        from aaexport.report.bench.html import bench_html

        write_page(page, bench_html(report), "--report")
