"""`aaexport list`."""

from __future__ import annotations

import click
from click import echo

from aaexport.cli import options
from aaexport.cli.console import show, show_json


@click.command("list")
@options.as_json
def command(as_json: bool) -> None:
    """List the zoo, the decompositions, the data sets, and the providers that really work here."""
    from aaexport.data import SOURCES
    from aaexport.nn.relative import DECOMPOSITIONS
    from aaexport.pipeline.look.inspect import inspect_zoo
    from aaexport.report.machine import list_json
    from aaexport.report.terminal import models_view, names_view
    from aaexport.runners.ort import working_providers

    zoo = inspect_zoo()
    decompositions: dict[str, str] = {"auto": "The fastest of the others by the layer's sizes; the default."} | {
        name: _first_line(function.__doc__) for name, function in DECOMPOSITIONS.items()
    }
    datasets = {name: source.description for name, source in SOURCES.items()}
    providers = working_providers()
    if as_json:
        show_json(list_json(zoo, decompositions, datasets, providers))
        return
    show(models_view(zoo))
    show(names_view("decomposition", "how relative attention is written out", decompositions))
    show(names_view("data set", "where it comes from", datasets))
    show(names_view("execution provider", "on this machine", providers))
    echo("A provider works if it ran a session just now; onnxruntime lists the others all the same.")


def _first_line(docstring: str | None) -> str:
    return (docstring or "").strip().partition("\n")[0]
