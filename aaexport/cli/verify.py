"""`aaexport verify MODEL`."""

from __future__ import annotations

from pathlib import Path

import click

from aaexport.cli import options
from aaexport.cli.console import say, show, show_json
from aaexport.cli.converted import ensure_converted
from aaexport.errors import ParityError
from aaexport.folder import checkout


@click.command("verify")
@options.model
@click.option("--onnx", type=click.Path(path_type=Path), help="Another file than the folder's model.onnx.")
@options.out
@options.size
@options.device("cpu", "For onnxruntime; PyTorch's side runs on the CPU.")
@options.atol
@options.rtol
@options.seed
@options.as_json
def command(
    model: str,
    onnx: Path | None,
    out: Path | None,
    size: tuple[int, int] | None,
    device: str,
    atol: float | None,
    rtol: float | None,
    seed: int,
    as_json: bool,
) -> None:
    """Judge MODEL's ONNX file against PyTorch in float64, on held-out images and random inputs.

    Exits with 3 if the file computes something else.
    """
    from aaexport.pipeline.verify import tolerance_for

    tolerance_for(device, atol, rtol)  # wrong options are refused before anything is copied or converted
    folder = checkout(model, out, say)
    if onnx is None:
        ensure_converted(folder, size)
    from aaexport.pipeline.verify import verify
    from aaexport.report.machine import parity_json
    from aaexport.report.terminal import parity_view

    report = verify(folder, onnx, size=size, device=device, atol=atol, rtol=rtol, seed=seed)
    if as_json:
        show_json(parity_json(report))
    else:
        show(parity_view(report))
    if not report.passed:
        failure = next(iter(report.failures), "nothing was compared")
        raise ParityError(f"parity failed: {failure}", report)
