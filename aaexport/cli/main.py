"""`aaexport`: finds the command, runs it, and turns every error into one line and its exit code."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import runpy
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from aaexport.cli.collector import end_without_collecting
from aaexport.cli.command import Complaint, encoding_of_stdout
from aaexport.cli.command_line import command_line
from aaexport.cli.console import say_error, settings, show_text
from aaexport.cli.signals import ending_signals
from aaexport.cli.streams import prepare_streams
from aaexport.cli.utf8 import read_paths_as_utf8
from aaexport.errors import out_of_memory
from aaexport.folder import tool_versions
from aaexport.outcome import called
from aaexport.report.printable import encodable

# Help and completion need only these lines; a command's module is imported when the command is run.
COMMANDS = {
    "train": ("aaexport.cli.train", "Train a model from its recipe; resumable."),
    "convert": ("aaexport.cli.convert", "Write model.onnx, custom-op-free, and verify it."),
    "verify": ("aaexport.cli.verify", "Judge an ONNX file against the PyTorch model."),
    "optimize": ("aaexport.cli.optimize", "Rewrite any ONNX file by the graph rules that pay."),
    "serve": ("aaexport.cli.serve", "Serve models by a real Triton, proved by golden vectors."),
    "serve-bench": ("aaexport.cli.serve_bench", "Measure latency and throughput through onnxruntime."),
    "deploy": ("aaexport.cli.deploy", "Write what serves a model in production, checked before."),
    "tune": ("aaexport.cli.tune", "Time the decompositions layer by layer; convert takes the winners."),
    "inspect": ("aaexport.cli.inspect", "Show operators, parameters, MACs, inputs, outputs and metadata."),
    "list": ("aaexport.cli.list", "List models, decompositions, data sets and working providers."),
}
INTERRUPTED = 130
EPILOG = (
    "Exit codes: 0 success, 1 error, 2 usage, 3 parity failed, 4 measurement invalid, 5 device not active, "
    "6 service not answering, 7 service not kept right, 130 interrupted."
)


class LazyGroup(click.Group):
    """A group that knows its commands' helps without importing them, and tells results their command line."""

    def main(self, args: Sequence[str] | None = None, *others: Any, **more: Any) -> Any:
        """Runs the command that the words, by default those of the process, ask for."""
        words = sys.argv[1:] if args is None else list(args)
        with called(command_line(words)):
            return super().main(words, *others, **more)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the way through the house."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the command's module; None if there is no such command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[cmd_name][0]).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """NoSuchCommand for an unknown one, with the names like it."""
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            raise click.exceptions.NoSuchCommand(error.command_name, possibilities=COMMANDS, ctx=ctx) from None

    def get_help(self, ctx: click.Context) -> str:
        """In the characters that stdout has."""
        return encodable(super().get_help(ctx), encoding_of_stdout())

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in `aaexport --help`."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EPILOG)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=lambda c, _, v: _version(c, v),
              help="Show the versions of aaexport and its tools.")  # fmt: skip
@click.option("-v", "--verbose", is_flag=True, help="Say more on stderr; tracebacks of unexpected errors.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing on stderr but errors.")
def aaexport(verbose: bool, quiet: bool) -> None:
    """Attention-augmented PyTorch models to ONNX: train, convert, verify, measure.

    MODEL is a model folder or the name of a zoo model (see `aaexport list`), which is then copied to ./NAME.
    """
    if verbose and quiet:
        raise click.UsageError("--verbose and --quiet contradict each other")
    settings.verbose, settings.quiet = verbose, quiet
    level = logging.DEBUG if verbose else logging.ERROR if quiet else logging.WARNING
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("aaexport").setLevel(level)


def main() -> NoReturn:
    """The entry point; always ends the process."""
    read_paths_as_utf8()
    prepare_streams()
    # A termination and a closed terminal unwind like Ctrl-C, so that temporary files go and workers end.
    for number in ending_signals():
        signal.signal(number, signal.default_int_handler)
    code = _run()
    _keep_exit_code()
    end_without_collecting()
    sys.exit(code)


def _keep_exit_code() -> None:
    """From here on nothing changes how the command ended, neither an interrupt to come nor one that was caught.

    An interrupt that passed through `exec` of a string, as dataclasses use it while modules are imported, leaves a
    mark on Python 3.11, by which the interpreter kills itself when it ends; another `exec` of a string takes it away.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    exec("")


def _run() -> int:
    try:
        result = aaexport.main(standalone_mode=False)
    except click.exceptions.Abort:
        say_error("interrupted: no unfinished file was left behind")
        return INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), file=sys.stderr)
        return error.exit_code
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "aaexport"
        say_error(f"{error.format_message()} (see `{command} --help`)")
        return error.exit_code
    except Complaint as error:
        say_error(error.message)
        return error.ends_with
    except click.ClickException as error:
        say_error(error.format_message())
        return error.exit_code
    except BrokenPipeError:
        # Whoever read the output has seen enough; Python would complain once more when it flushes at exit.
        sys.stdout = None
        return 1
    except OSError as error:  # a full disk below stdout, say
        say_error(f"{error.filename or 'the output'} cannot be used: {error.strerror or error}")
        return 1
    # The last resort of the whole program: a defect of ours is one line too, and says how to see the rest.
    except Exception as error:  # noqa: BLE001
        if settings.verbose:
            traceback.print_exc()
        if (wanted := out_of_memory(error)) is not None:
            say_error(f"memory must hold what this takes, got {wanted}; ask for smaller images or a smaller batch")
            return 1
        say_error(f"unexpected {type(error).__name__}: {error}; this is a defect, `aaexport -v` shows where")
        return 1
    return result if isinstance(result, int) else 0


def _version(context: click.Context, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    for tool, version in tool_versions().items():
        show_text(f"{tool} {version}")
    show_text(f"CUDA {_cuda_of_torch() or 'none: torch is a CPU build'}")
    context.exit()


def _cuda_of_torch() -> str | None:
    """The CUDA version that torch was built for, read from its version file: importing torch takes seconds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    facts: dict[str, Any] = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
    return facts.get("cuda")
