"""A folder's conversion in a process of its own, for commands that go on for long.

Run as `python -m aaexport.cli.conversion`.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

from aaexport.allocator import keep_freed_memory
from aaexport.cli.collector import loading
from aaexport.cli.console import settings
from aaexport.cli.converted import convert_with_steps, say_that_it_is_converted
from aaexport.cli.spinning import spin_briefly
from aaexport.cli.streams import prepare_streams
from aaexport.folder import Dtype, ModelFolder
from aaexport.serving.apart import Apart, Waiting, do_as_told

MODULE = "aaexport.cli.conversion"


@dataclass(frozen=True)
class Conversion:
    """What is to be converted, and how much is said of it."""

    folder: ModelFolder
    dtype: Dtype
    verbose: bool
    quiet: bool


def waiting_to_convert() -> Waiting:
    """A process that loads what a conversion takes. RunnerError if there is no room for one more."""
    return Waiting(MODULE)


def ensure_converted_apart(
    folder: ModelFolder, dtype: Dtype, meanwhile: Callable[[], None], waiting: Waiting | None = None
) -> bool:
    """As `ensure_converted`, in a process of its own: PyTorch would stay in this one. Whether it had to be converted.

    Raises as `convert_apart`.
    """
    if folder.onnx_of(dtype).is_file():
        return False
    say_that_it_is_converted(folder, dtype)
    convert_apart(folder, dtype, meanwhile, waiting)
    return True


def convert_apart(
    folder: ModelFolder,
    dtype: Dtype,
    meanwhile: Callable[[], None] = lambda: None,
    waiting: Waiting | None = None,
) -> None:
    """Converts it, its steps told on stderr; the process is gone when this returns.

    `meanwhile` is done here while it converts; what that raises ends it. `waiting` is of `waiting_to_convert`.

    Raises:
        AaexportError: as `aaexport.convert`.
        RunnerError: the process died, as of a lack of memory.
    """
    order = Conversion(folder, dtype, settings.verbose, settings.quiet)
    work = Apart[None](waiting or MODULE, order, f"{folder.path} must be converted")
    try:
        meanwhile()
        work.result()
    finally:
        work.stop()


def _load() -> None:
    """What takes as long as an order takes to come; PyTorch then, as a user is to see what is waited for."""
    with loading():
        importlib.import_module("sympy")  # of torch and onnx_ir, and of neither alone


def _converted(order: Conversion) -> None:
    settings.verbose, settings.quiet = order.verbose, order.quiet
    convert_with_steps(order.folder, None, order.dtype)


if __name__ == "__main__":
    prepare_streams()
    keep_freed_memory()
    spin_briefly()
    do_as_told(_converted, _load)
    # What it made is written and its reply is given. To take PyTorch apart piece by piece takes up to half a second,
    # for which whoever waits for this process would wait.
    sys.stderr.flush()
    os._exit(0)
