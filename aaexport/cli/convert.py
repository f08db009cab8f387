"""`aaexport convert MODEL`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aaexport.allocator import keep_freed_memory
from aaexport.cli import options
from aaexport.cli.collector import converting, loading
from aaexport.cli.command import Command
from aaexport.cli.console import say, show, show_json
from aaexport.cli.converted import check_model
from aaexport.cli.parity import showing_parity
from aaexport.cli.progress import steps
from aaexport.cli.spinning import spin_briefly
from aaexport.cli.types import Batch, Images, ImageShape, PathTo, Word
from aaexport.folder import ModelFolder, copies, zoo_models
from aaexport.recipe import OPSETS

if TYPE_CHECKING:
    from aaexport.pipeline.convert.options import ConvertOptions
    from aaexport.results import ConvertResult


SECTIONS = {
    "Your own module": ("kwargs", "checkpoint", "input_shape"),
    "The file": ("opset", "size", "decomposition", "batch", "max_attention_memory", "target", "with_attention"),
    "Fewer bits": ("dtype", "calibrate", "keep", "io_dtype", "weight_type"),
    "Verification": ("verify", "atol", "rtol"),
}
EXAMPLES = (
    ("aaexport convert aa_cnn3_digits", "Copies the zoo's model to ./aa_cnn3_digits and writes its model.onnx."),
    ("aaexport convert aa_cnn3_digits --dtype int8", "Writes its model.int8.onnx too, calibrated and guarded."),
    (
        "aaexport convert mynets.py:Net --kwargs width=32 --checkpoint best.pt --input-shape 3x32x32",
        "Makes the model folder ./Net of a class of yours and its weights.",
    ),
)


@click.command("convert", cls=Command, sections=SECTIONS, examples=EXAMPLES)
@options.model
@options.out
@click.option(
    "--kwargs",
    multiple=True,
    metavar="NAME=VALUE",
    help="What your module's class or function is called with; the value is TOML. May be repeated.",
)
@click.option(
    "--checkpoint",
    type=PathTo("FILE", dir_okay=False),
    help="Weights for your module: safetensors, or what torch.save wrote.",
)
@click.option("--input-shape", type=ImageShape(), help="Of one image that your module takes, as 3x32x32.")
@click.option(
    "--opset",
    type=int,
    metavar=f"{OPSETS[0]}..{OPSETS[-1]}",
    help="The recipe's, else 20, or 23 for large attention on CUDA.",
)
@options.size
@options.decomposition
@click.option("--batch", type=Batch(), help="A fixed batch, or dynamic; the recipe's by default.")
@options.max_attention_memory
@options.target
@click.option(
    "--with-attention",
    is_flag=True,
    help="Write the attention weights of every head as outputs too: attention.LAYER.headN.",
)
@click.option(
    "--dtype",
    type=Word("float32", "float16", "int8"),
    default="float32",
    show_default=True,
    help="float16 for GPUs and int8 for CPUs are made of the verified model.onnx, beside it, and guarded.",
)
@click.option(
    "--calibrate",
    type=Images(),
    help="What shows an int8 file its ranges: N training images of the recipe's data set, by default 64, or images "
    "of yours.",
)
@click.option(
    "--keep",
    multiple=True,
    metavar="auto|PATH",
    help="A module or node that stays in float32; auto for as few of the costliest as the guard takes. May be "
    "repeated.",
)
@click.option(
    "--io-dtype",
    type=Word("float32", "float16"),
    default="float32",
    show_default=True,
    help="Of the inputs and outputs of a float16 file.",
)
@click.option(
    "--weight-type",
    type=Word("uint8", "int8", "int7"),
    help="How an int8 file stores weights: uint8, by default, is right on every CPU; so is int7, signed ones of 7 "
    "bits, faster and coarser; int8 is as fast, and wrong on x86 without VNNI.",
)
@click.option("--verify/--no-verify", default=True, help="Whether parity must hold first; on by default.")
@click.option("--random-weights", is_flag=True, help="Give an untrained model random weights first, by --seed.")
@options.atol
@options.rtol
@options.seed
@options.as_json
def command(
    model: str,
    out: Path | None,
    kwargs: tuple[str, ...],
    checkpoint: Path | None,
    input_shape: tuple[int, int, int] | None,
    size: tuple[int, int] | None,
    random_weights: bool,
    seed: int,
    as_json: bool,
    **wanted: Any,
) -> None:
    """Write MODEL's model.onnx: plain ai.onnx operators, one file, verified before it replaces the old one.

    MODEL may also be a module of yours: FILE.py:NAME or package.module:NAME, a class, a function or an instance,
    which is imported; or FILE.pt2, a program that torch.export saved. It becomes a model folder, ./NAME or --out.
    Above protobuf's 2 GiB the large tensors lie beside the file, in one of their own.

    With --dtype model.onnx stays as it is, and model.fp16.onnx or model.int8.onnx is written beside it if the guard
    finds that it loses no more than its kind may; else the command exits with 3 and names the layers that cost most.
    """
    of_module: dict[str, Any] = {"kwargs": kwargs, "checkpoint": checkpoint, "input_shape": input_shape}
    of_folder: dict[str, Any] = {
        "size": size,
        "random_weights": random_weights,
        "with_attention": wanted["with_attention"],
    }
    is_module = _names_a_module(model)
    _refuse(
        of_folder if is_module else of_module, "a model folder or zoo model" if is_module else "a module of yours"
    )
    from aaexport.pipeline.convert.options import ConvertOptions, check_source

    asked = ConvertOptions(**wanted, seed=seed)
    if is_module:
        check_source(model, out, **of_module, options=asked)
    else:
        asked.check()
        check_model(model, size, needs_weights=not random_weights)
    keep_freed_memory()
    spin_briefly()
    with showing_parity(as_json=as_json):
        if is_module:
            with steps(f"importing {model}") as tell:
                with loading():
                    from aaexport.pipeline.convert.bring import convert_source

                result = convert_source(model, out, **of_module, options=asked, say=tell)
        else:
            with copies(say) as check_out:
                result = _convert_folder(check_out(model, out), size, random_weights, asked)
    _show(result, as_json=as_json)


def _names_a_module(model: str) -> bool:
    """Whether it is none of our folders and has the form of a module's name."""
    if not (":" in model or model.endswith((".py", ".pt2"))) or model in zoo_models() or Path(model).is_dir():
        return False
    from aaexport.capture.source import read_source

    return read_source(model) is not None


def _refuse(given: dict[str, Any], whose: str) -> None:
    """UsageError for an option that goes with the other kind of MODEL."""
    for name, value in given.items():
        if value:
            raise click.UsageError(f"--{name.replace('_', '-')} goes with {whose}")


def _convert_folder(
    folder: ModelFolder, size: tuple[int, int] | None, random_weights: bool, asked: ConvertOptions
) -> ConvertResult:
    if not random_weights and folder.module_recipe is None:
        folder.require_weights()
    with steps(f"reading {folder.path}") as tell:
        if asked.reduction is not None and not random_weights:
            with loading():
                from aaexport.pipeline.convert.reduced import reduced_at_once

            # Without PyTorch, which takes as long to load as all the rest, where it has nothing to say.
            if (result := reduced_at_once(folder, size, asked, tell)) is not None:
                return result
        with loading():
            from aaexport.capture.program import load_tracing
            from aaexport.pipeline.convert.convert import convert
            from aaexport.pipeline.subject.subject import write_random_weights

            load_tracing()

        if random_weights and folder.weights_path.is_file():
            say(f"{folder.weights_path} is there already: it is kept, and --random-weights does nothing")
        elif random_weights:
            write_random_weights(folder, seed=asked.seed)
            say(f"wrote random weights to {folder.weights_path}")
        with converting(folder.weights_path):
            return convert(folder, size=size, options=asked, say=tell)


def _show(result: ConvertResult, *, as_json: bool) -> None:
    from aaexport.report.machine import convert_json
    from aaexport.report.terminal import convert_view

    if as_json:
        show_json(convert_json(result))
    else:
        show(convert_view(result))
