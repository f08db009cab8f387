"""`aaexport convert MODEL`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from aaexport.cli import options
from aaexport.cli.console import say, show, show_json
from aaexport.cli.parity import showing_parity
from aaexport.folder import checkout
from aaexport.recipe import OPSETS, DecompositionName, check_opset


@click.command("convert")
@options.model
@options.out
@click.option("--opset", type=int, help=f"{OPSETS[0]} to {OPSETS[-1]}; the recipe's by default.")
@options.size
@options.decomposition
@click.option("--batch", type=options.Batch(), help="A fixed batch, or dynamic; the recipe's by default.")
@click.option("--max-attention-memory", type=float, metavar="MIB",
              help="Attend in blocks of queries, so that no tensor of the attention is larger.")  # fmt: skip
@options.target
@click.option("--with-attention", is_flag=True,
              help="Write the attention weights of every head as outputs too: attention.LAYER.headN.")  # fmt: skip
@click.option("--verify/--no-verify", default=True, help="Whether parity must hold first; on by default.")
@click.option("--random-weights", is_flag=True, help="Give an untrained model random weights first, by --seed.")
@options.atol
@options.rtol
@options.seed
@options.as_json
def command(
    model: str,
    out: Path | None,
    opset: int | None,
    size: tuple[int, int] | None,
    decomposition: DecompositionName | None,
    batch: int | Literal["dynamic"] | None,
    max_attention_memory: float | None,
    target: Literal["cpu", "cuda"],
    with_attention: bool,
    verify: bool,
    random_weights: bool,
    atol: float | None,
    rtol: float | None,
    seed: int,
    as_json: bool,
) -> None:
    """Write MODEL's model.onnx: plain ai.onnx operators, one file, verified before it replaces the old one."""
    if opset is not None:
        check_opset(opset)
    folder = checkout(model, out, say)
    from aaexport.pipeline.convert import convert
    from aaexport.pipeline.subject import write_random_weights
    from aaexport.report.machine import convert_json
    from aaexport.report.terminal import convert_view

    if random_weights and folder.weights_path.is_file():
        say(f"{folder.weights_path} is there already: it is kept, and --random-weights does nothing")
    elif random_weights:
        write_random_weights(folder, seed=seed)
        say(f"wrote random weights to {folder.weights_path}")
    with showing_parity(as_json=as_json):
        result = convert(
            folder,
            opset=opset,
            size=size,
            decomposition=decomposition,
            batch=batch,
            max_attention_memory=max_attention_memory,
            target=target,
            with_attention=with_attention,
            verify=verify,
            atol=atol,
            rtol=rtol,
            seed=seed,
            say=say,
        )
    if as_json:
        show_json(convert_json(result))
    else:
        show(convert_view(result))
