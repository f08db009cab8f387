"""A ParityError → the report that it carries, on stdout, before it ends the command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from aaexport.cli.console import show, show_json
from aaexport.errors import ParityError


@contextmanager
def showing_parity(*, as_json: bool) -> Iterator[None]:
    """Shows the report of a ParityError that passes through."""
    try:
        yield
    except ParityError as error:
        from aaexport.report.machine import parity_json
        from aaexport.report.parity.terminal import parity_view

        if as_json:
            show_json(parity_json(error.report))
        else:
            show(parity_view(error.report))
        raise
