"""`aaexport optimize IN OUT`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from aaexport.cli import options
from aaexport.cli.collector import loading
from aaexport.cli.command import Command
from aaexport.cli.console import show, show_json
from aaexport.cli.page import check_page, write_page
from aaexport.cli.page import page as page_option
from aaexport.cli.parity import showing_parity
from aaexport.cli.progress import steps
from aaexport.cli.types import PathTo

if TYPE_CHECKING:
    from aaexport.pipeline.convert.options import OptimizedDtype

EXAMPLES = (
    (
        "aaexport optimize naive.onnx fast.onnx",
        "Rewrites what plain torch.onnx.export wrote, and compares the two.",
    ),
    (
        "aaexport optimize tokens.onnx fast.onnx --inputs tokens.npz",
        "Compares them on inputs of your own, for a model that random numbers say nothing to.",
    ),
    (
        "aaexport optimize model.onnx half.onnx --dtype float16",
        "The same in float16, half as large, and which nodes must stay in float32.",
    ),
    ("aaexport optimize naive.onnx fast.onnx --page fast.html", "Draws what became of the operators, and where."),
)


@click.command("optimize", cls=Command, examples=EXAMPLES)
@click.argument("source", metavar="IN.onnx", type=PathTo("IN.onnx"))
@click.argument("path", metavar="OUT.onnx", type=PathTo("OUT.onnx"))
@options.target
@options.max_attention_memory
@click.option(
    "--dtype",
    metavar="float32|float16",
    default="float32",
    show_default=True,
    help="float16 for all nodes that it is enough for, with the reasons of the others.",
)
@click.option(
    "--io-dtype",
    metavar="float32|float16",
    default="float32",
    show_default=True,
    help="Of the inputs and outputs of a float16 file.",
)
@click.option(
    "--keep",
    metavar="NAME",
    multiple=True,
    help="A node, or a PyTorch module's path, that stays in float32; repeat it for more.",
)
@click.option("--verify/--no-verify", default=True, help="Whether both files are compared first; on by default.")
@click.option("--inputs", type=PathTo("FILE.npz|FOLDER"),
              help="What both files are fed instead of random numbers: an array for each input, in an .npz or as "
                   "input_0.pb, …; in a folder several of them, or test_data_set_0, ….")  # fmt: skip
@options.atol
@options.rtol
@options.seed
@page_option
@options.as_json
def command(
    source: Path,
    path: Path,
    target: Literal["cpu", "cuda"],
    max_attention_memory: float | None,
    dtype: OptimizedDtype,
    io_dtype: OptimizedDtype,
    keep: tuple[str, ...],
    verify: bool,
    inputs: Path | None,
    atol: float | None,
    rtol: float | None,
    seed: int,
    page: Path | None,
    as_json: bool,
) -> None:
    """Rewrite any ONNX file by the graph rules that pay, and tell which were applied and why the rest was not.

    Exits with 3, and writes nothing, if the new file would compute something else.
    """
    from aaexport.pipeline.convert.options import OptimizeOptions, check_files

    wanted = OptimizeOptions(target, verify, atol, rtol, seed, max_attention_memory, inputs, dtype, io_dtype, keep)
    wanted.check()
    check_files(source, path)
    check_page(page, source, path)
    with showing_parity(as_json=as_json), steps(f"reading {source}") as tell:
        with loading():
            from aaexport.pipeline.convert.optimize import optimize

        result = optimize(source, path, options=wanted, say=tell)
    from aaexport.report.machine import optimize_json
    from aaexport.report.optimize import optimize_view

    if as_json:
        show_json(optimize_json(result))
    else:
        show(optimize_view(result))
    if page is not None:
        write_page(page, result.to_html())
