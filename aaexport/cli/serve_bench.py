"""`aaexport serve-bench MODEL`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from aaexport.cli import options
from aaexport.cli.console import say, show, show_json
from aaexport.cli.converted import ensure_converted
from aaexport.cli.progress import progress
from aaexport.errors import MeasurementError
from aaexport.folder import ModelFolder, checkout


class Rivals(click.ParamType[tuple[str, ...]]):
    """Names separated by commas, or `none`."""

    name = "NAME,…|none"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Refuses `none` beside a name; which names there are is known where they are compared."""
        if isinstance(value, tuple):
            return value
        names = tuple(name.strip() for name in str(value).split(","))
        if "none" in names and len(names) > 1:
            self.fail(f"compare must be none or names separated by commas, got {value!r}", param, ctx)
        return () if names == ("none",) else names


@click.command("serve-bench")
@options.model
@options.out
@options.size
@click.option("--scenario", type=click.Choice(["single-stream"]), default="single-stream", show_default=True)
@options.device(None, "By default CUDA where its provider really runs, else the CPU.")
@click.option("--duration", type=float, default=6.0, show_default=True,
              help="Seconds of counted queries for the latency, for each contender.")  # fmt: skip
@click.option("--warmup", type=float, default=0.3, show_default=True, help="Seconds before every block.")
@click.option("--batch", "batches", type=options.BatchSizes(),
              help="Batch sizes of the throughput part; 1,8,32 by default.")  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), help="Of every runtime; each its default if not given.")
@click.option("--compare", type=Rivals(), default="eager", show_default=True,
              help="Measured in alternation: eager PyTorch, torch.compile's compile, the paper's skew through plain "
                   "torch.onnx.export; several separated by commas, or none.")  # fmt: skip
@options.seed
@options.as_json
def command(
    model: str,
    out: Path | None,
    size: tuple[int, int] | None,
    scenario: str,
    device: str | None,
    duration: float,
    warmup: float,
    batches: tuple[int, ...] | None,
    threads: int | None,
    compare: tuple[str, ...],
    seed: int,
    as_json: bool,
) -> None:
    """Measure MODEL's model.onnx, or any ONNX file with one image input, through onnxruntime.

    Exits with 4 if the measurement is not valid and with 5 if the device does not work.
    """
    from aaexport.pipeline.rivals import check_rivals
    from aaexport.pipeline.serve_bench import check_arguments, serve_bench

    check_arguments(scenario, device, duration, warmup, batches, threads)
    check_rivals(compare)
    subject: ModelFolder | str = model
    if not (model.endswith(".onnx") or Path(model).is_file()):
        subject = checkout(model, out, say)
        ensure_converted(subject, size)
    elif out is not None or size is not None:
        raise click.UsageError("--out and --size go with a model folder or a zoo name, not with an ONNX file")
    from aaexport.report.machine import bench_json
    from aaexport.report.terminal import bench_view

    with progress("measuring") as tick:
        report = serve_bench(
            subject,
            scenario=scenario,
            device=device,
            duration=duration,
            warmup=warmup,
            batches=batches,
            threads=threads,
            compare=compare,
            seed=seed,
            tick=tick,
        )
    if as_json:
        show_json(bench_json(report, raw=False))
    else:
        show(bench_view(report))
    if not report.valid:
        raise MeasurementError(f"the measurement is not valid: {report.reasons[0]}")
