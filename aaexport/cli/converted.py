"""What commands do before their own work: look at the model, and convert a folder that has no model.onnx."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aaexport.cli.collector import converting, loading
from aaexport.cli.console import say
from aaexport.cli.progress import steps
from aaexport.errors import ArgumentError, broken_rule
from aaexport.folder import Dtype, ModelFolder, find_model


def ensure_converted(folder: ModelFolder, size: tuple[int, int] | None = None, dtype: Dtype = "float32") -> None:
    """Converts a folder without its file in `dtype`, and says so; one that has it is left alone.

    ArgumentError if it has one for images of another size than `size` (H, W).
    """
    path = folder.onnx_of(dtype)
    if path.is_file():
        if size is not None:
            _check_size(folder, path, size)
        return
    say_that_it_is_converted(folder, dtype)
    convert_with_steps(folder, size, dtype)


def say_that_it_is_converted(folder: ModelFolder, dtype: Dtype) -> None:
    """Before a folder is converted that was to be had converted. NoWeightsError if it has no weights."""
    folder.require_weights()
    say(f"{folder.path} has no {folder.onnx_of(dtype).name} yet: converting it first")


def convert_with_steps(folder: ModelFolder, size: tuple[int, int] | None, dtype: Dtype) -> None:
    """Converts a folder, its steps told on stderr. Raises as `aaexport.convert`."""
    with steps(f"reading {folder.path}") as tell:
        with loading():
            from aaexport.capture.program import load_tracing
            from aaexport.pipeline.convert.convert import convert

            load_tracing()
        with converting(folder.weights_path):
            convert(folder, size=size, dtype=dtype, say=tell)


def check_model(
    model: str, size: tuple[int, int] | None, *, module: str | None = None, needs_weights: bool = False
) -> None:
    """What a model can be refused for before it is copied and before anything heavy is loaded.

    ArgumentError if the network cannot take images of `size` (H, W), or was not made of a `module`; RecipeError if
    its recipe is broken; NoWeightsError if a zoo model has none.
    """
    folder = find_model(model)
    if folder.module_recipe is not None:
        return
    folder.recipe.for_size(size)
    if module is not None:
        raise ArgumentError(broken_rule("module", "be given for a folder that was made of one", module))
    if needs_weights and folder.is_zoo:
        folder.require_weights()


def name_of(model: str, out: Path | None) -> str:
    """What a folder will be called once it is checked out to `out`."""
    return (find_model(model) if out is None else ModelFolder(out)).name


def ask_services(urls: Sequence[str], served_as: str, timeout: float, ca: Path | None) -> None:
    """Asks for a model at URLs that share queries, before anything is copied or converted for it.

    ServiceError if none answers, or it has no such model that is ready.
    """
    from aaexport.serving.address import model_and_version
    from aaexport.serving.client import Client
    from aaexport.serving.runner import service_facts

    with Client(urls, timeout=timeout, ca=ca) as client:
        service_facts(client, *model_and_version(served_as))


def _check_size(folder: ModelFolder, path: Path, size: tuple[int, int]) -> None:
    from aaexport.graph.files import converted_size

    found = converted_size(path) or folder.recipe.input.size
    if found != size:
        remedy = f"write it anew with `aaexport convert {folder.path} --size {size[0]} {size[1]}`"
        rule = f"be that of {path}, {found[0]} {found[1]}"
        raise ArgumentError(broken_rule("size", rule, f"{size[0]} {size[1]}", remedy))
