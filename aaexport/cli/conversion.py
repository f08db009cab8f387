"""A folder's conversion in a process of its own, for commands that go on for long.

Run as `python -m aaexport.cli.conversion`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

from aaexport.cli.console import settings
from aaexport.cli.converted import convert_with_steps, say_that_it_is_converted
from aaexport.cli.streams import prepare_streams
from aaexport.folder import Dtype, ModelFolder
from aaexport.serving.apart import Apart, do_as_told


@dataclass(frozen=True)
class Conversion:
    """What is to be converted, and how much is said of it."""

    folder: ModelFolder
    dtype: Dtype
    verbose: bool
    quiet: bool


def ensure_converted_apart(folder: ModelFolder, dtype: Dtype, meanwhile: Callable[[], None]) -> None:
    """As `ensure_converted`, in a process of its own: PyTorch would stay in this one. Raises as `convert_apart`."""
    if not folder.onnx_of(dtype).is_file():
        say_that_it_is_converted(folder, dtype)
        convert_apart(folder, dtype, meanwhile)


def convert_apart(folder: ModelFolder, dtype: Dtype, meanwhile: Callable[[], None] = lambda: None) -> None:
    """Converts it, its steps told on stderr; the process is gone when this returns.

    `meanwhile` is done here while it converts; what that raises ends it.

    Raises:
        AaexportError: as `aaexport.convert`.
        RunnerError: the process died, as of a lack of memory.
    """
    order = Conversion(folder, dtype, settings.verbose, settings.quiet)
    work = Apart[None]("aaexport.cli.conversion", order, f"{folder.path} must be converted")
    try:
        meanwhile()
        work.result()
    finally:
        work.stop()


def _converted(order: Conversion) -> None:
    settings.verbose, settings.quiet = order.verbose, order.quiet
    convert_with_steps(order.folder, None, order.dtype)


if __name__ == "__main__":
    prepare_streams()
    do_as_told(_converted)
    # What it made is written and its reply is given. To take PyTorch apart piece by piece takes up to half a second,
    # for which whoever waits for this process would wait.
    sys.stderr.flush()
    os._exit(0)
