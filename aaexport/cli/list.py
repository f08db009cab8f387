"""`aaexport list`."""

from __future__ import annotations

import click

from aaexport.cli import options
from aaexport.cli.command import Command
from aaexport.cli.console import show, show_json
from aaexport.recipe import DATA_SETS, DECOMPOSITIONS


@click.command("list", cls=Command)
@options.as_json
def command(as_json: bool) -> None:
    """List the zoo, the decompositions, the data sets, and the providers that really work here."""
    from aaexport.pipeline.look.inspect import inspect_zoo
    from aaexport.report.machine import list_json
    from aaexport.report.terminal import list_view
    from aaexport.runners.ort import working_providers

    zoo = inspect_zoo()
    providers = working_providers()
    if as_json:
        show_json(list_json(zoo, DECOMPOSITIONS, DATA_SETS, providers))
        return
    show(list_view(zoo, DECOMPOSITIONS, DATA_SETS, providers))
