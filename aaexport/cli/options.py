"""Options that several commands share, with one wording each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from aaexport.cli.quantities import MEBIBYTES, SECONDS
from aaexport.cli.types import Bound, Device, Model, PathTo, Whole, Word
from aaexport.folder import DTYPES
from aaexport.recipe import DECOMPOSITION_NAMES, MAX_SEED
from aaexport.serving.address import TIMEOUT

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


model = click.argument("model", metavar="MODEL", type=Model())
out = click.option(
    "--out",
    type=PathTo("FOLDER", file_okay=False),
    help="Work on a copy of MODEL in this folder; a zoo model goes to ./NAME by default.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
seed = click.option(
    "--seed",
    type=Whole(0, MAX_SEED),
    metavar="N",
    default=0,
    show_default=True,
    help="Of all random inputs.",
)
atol = click.option(
    "--atol", type=float, metavar="X", help="Largest absolute error; the tolerance table's by default."
)
each_atol = click.option(
    "--atol", type=Bound(), multiple=True, help="Largest absolute error, of every output or of one."
)
each_rtol = click.option("--rtol", type=Bound(), multiple=True, help="The same, relative to the largest output.")
rtol = click.option("--rtol", type=float, metavar="X", help="The same, relative to the largest output.")
size = click.option(
    "--size",
    type=Whole(),
    nargs=2,
    metavar="H W",
    help="Images of another size than the recipe's: trained relative tables are cut or interpolated.",
)
decomposition = click.option(
    "--decomposition",
    type=click.Choice(DECOMPOSITION_NAMES),
    help="How relative attention is written out; the recipe's by default. auto takes what `aaexport tune` found, "
    "where it was run, else what a cost model says.",
)

max_attention_memory = click.option(
    "--max-attention-memory",
    type=MEBIBYTES,
    help="Attend in blocks of queries, so that no tensor of the attention is larger.",
)

dtype = click.option(
    "--dtype",
    type=Word(*DTYPES),
    default="float32",
    show_default=True,
    help="Which of the folder's files: model.onnx, model.fp16.onnx or model.int8.onnx.",
)
target = click.option(
    "--target",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Where the file is to run: what does not pay there is not applied.",
)


url = click.option(
    "--url",
    multiple=True,
    metavar="URL",
    help="A live service that is to serve the file: http://, https://, grpc:// or grpcs:// and HOST[:PORT].",
)
served_as = click.option(
    "--served-as", metavar="NAME[:VERSION]", help="What the service calls the model; MODEL's own name by default."
)
timeout = click.option(
    "--timeout",
    type=SECONDS,
    default=f"{TIMEOUT:g}s",
    show_default=True,
    help="For one answer of a service.",
)
ca = click.option(
    "--ca", type=PathTo("FILE", dir_okay=False), help="The authorities whose certificates count, in PEM."
)

module = click.option(
    "--module",
    metavar="FILE.py:NAME",
    help="Of a folder made of your module: import it and take it for the truth, instead of golden vectors.",
)


def device(default: str | None, text: str) -> Callable[[Decorated], Decorated]:
    """`--device cpu|cuda[:N]`."""
    return click.option("--device", type=Device(), default=default, help=text)
