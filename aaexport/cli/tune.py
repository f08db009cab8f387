"""`aaexport tune MODEL`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from aaexport.cli import options
from aaexport.cli.collector import loading
from aaexport.cli.command import Command
from aaexport.cli.console import say, show, show_json
from aaexport.cli.converted import check_model
from aaexport.cli.parity import showing_parity
from aaexport.cli.progress import progress, steps
from aaexport.cli.quantities import SECONDS, SHARE
from aaexport.cli.types import Threads, Whole, Word
from aaexport.errors import FolderError
from aaexport.folder import copies
from aaexport.recipe import OPSETS

if TYPE_CHECKING:
    from aaexport.pipeline.tune.options import TunedDtype

EXAMPLES = (
    ("aaexport tune aa_wrn10_1_digits", "Times every decomposition; the next convert takes the winners."),
    ("aaexport tune aa_wrn10_1_digits --batch 8 --threads 1", "For a server that gives every query one thread."),
    (
        "aaexport tune aa_cnn3_digits --dtype auto --max-loss 0.5%",
        "Whether int8 pays here, for at most half a point of accuracy.",
    ),
)


@click.command("tune", cls=Command, examples=EXAMPLES)
@options.model
@options.out
@click.option("--opset", type=int, metavar=f"{OPSETS[0]}..{OPSETS[-1]}",
              help="The recipe's by default; without one 20, and on a GPU 23 if fused, a candidate from there on, is "
                   "best somewhere.")  # fmt: skip
@options.size
@options.device(None, "By default CUDA where its provider really runs, else the CPU.")
@click.option(
    "--batch",
    type=Whole(),
    metavar="N",
    help="Images a query; by default the recipe's, 4 for a dynamic one.",
)
@click.option("--threads", type=Threads(),
              help="Of a session. Several are launched in turns; by default 1, 2, 4 … up to the cores.")  # fmt: skip
@click.option("--launches", type=Whole(), default=5, show_default=True,
              help="Processes of each --threads, for the spread between them.")  # fmt: skip
@click.option("--duration", type=SECONDS, default="2s", show_default=True,
              help="Of counted queries, for each candidate that is not clearly slower.")  # fmt: skip
@click.option("--dtype", type=Word("float32", "auto"), default="float32", show_default=True,
              help="auto writes and measures the network in int8 too, and on a GPU in float16.")  # fmt: skip
@click.option("--max-loss", type=SHARE,
              help="With --dtype auto: the accuracy that a file may lose on held-out images, as 0.5%.")  # fmt: skip
@options.seed
@options.as_json
def command(
    model: str,
    out: Path | None,
    opset: int | None,
    size: tuple[int, int] | None,
    device: str | None,
    batch: int | None,
    threads: int | tuple[int, ...] | None,
    launches: int,
    duration: float,
    dtype: TunedDtype,
    max_loss: float | None,
    seed: int,
    as_json: bool,
) -> None:
    """Time numbers of threads, and every decomposition of every distinct augmented layer of MODEL.

    The winners go to MODEL's tuning.json, where `aaexport convert` finds them for layers that are left to auto, and
    `aaexport serve-bench` the threads: those that are fast in every one of several processes.
    Another than the cost model's choice wins only if it is faster beyond doubt, and none wins that leaves the parity
    bound. With --dtype auto it then writes the files of the whole network, measures them in turns and names the
    fastest that its guard passes; where none is faster than float32 it says so.
    Exits with 3 if all leave the bound, with 4 if none could be run, with 5 if the device does not work.
    """
    from aaexport.pipeline.tune.options import TuneOptions

    asked = TuneOptions(opset, device, batch, threads, duration, seed, launches, dtype, max_loss)
    asked.check()
    check_model(model, size, needs_weights=dtype == "auto")
    with steps(f"reading {model}"):
        with loading():
            from aaexport.pipeline.tune.tune import tune
        from aaexport.report.tuning import tuning_json, tuning_view

    with (
        showing_parity(as_json=as_json),
        copies(say) as check_out,
        progress("measuring every candidate: this takes minutes") as tick,
    ):
        result = tune(check_out(model, out), size=size, options=asked, tick=tick)
    if as_json:
        show_json(tuning_json(result, raw=False))
    else:
        show(tuning_view(result))
    if result.not_kept is not None:
        raise FolderError(f"the choices above are not stored: {result.not_kept}")
