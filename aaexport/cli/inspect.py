"""`aaexport inspect MODEL`."""

from __future__ import annotations

import click

from aaexport.cli import options
from aaexport.cli.console import show, show_json


@click.command("inspect")
@options.model
@options.as_json
def command(model: str, as_json: bool) -> None:
    """Show what is in MODEL: a folder, a zoo name, or any ONNX file. Writes nothing."""
    from aaexport.pipeline.inspect import inspect
    from aaexport.report.machine import inspect_json
    from aaexport.report.terminal import inspect_view

    result = inspect(model)
    if as_json:
        show_json(inspect_json(result))
    else:
        show(inspect_view(result))
