"""`aaexport list`."""

from __future__ import annotations

import click
from click import echo

from aaexport.cli import options
from aaexport.cli.console import show, show_json
from aaexport.recipe import DATA_SETS, DECOMPOSITIONS


@click.command("list")
@options.as_json
def command(as_json: bool) -> None:
    """List the zoo, the decompositions, the data sets, and the providers that really work here."""
    from aaexport.pipeline.look.inspect import inspect_zoo
    from aaexport.report.machine import list_json
    from aaexport.report.terminal import models_view, names_view
    from aaexport.runners.ort import working_providers

    zoo = inspect_zoo()
    providers = working_providers()
    if as_json:
        show_json(list_json(zoo, DECOMPOSITIONS, DATA_SETS, providers))
        return
    show(models_view(zoo))
    show(names_view("decomposition", "how relative attention is written out", DECOMPOSITIONS))
    show(names_view("data set", "where it comes from", DATA_SETS))
    show(names_view("execution provider", "on this machine", providers))
    echo("A provider works if it ran a session just now; onnxruntime lists the others all the same.")
