"""`aaexport serve MODEL…`."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from aaexport.cli import console, options
from aaexport.cli.command import Command
from aaexport.cli.console import show_text
from aaexport.cli.converted import check_model
from aaexport.cli.quantities import MILLISECONDS, SECONDS
from aaexport.cli.signals import ending_signals
from aaexport.cli.types import Model, PathTo, Whole
from aaexport.errors import ArgumentError, broken_rule, parameter
from aaexport.folder import ONNX_FILES, Dtype, ModelFolder, copies, find_model

if TYPE_CHECKING:
    from aaexport.pipeline.serve.options import ServeOptions
    from aaexport.pipeline.serve.site import Site
    from aaexport.pipeline.serve.stopping import Stopping
    from aaexport.serving.apart import Waiting

SECTIONS = {
    "Where it listens": ("host", "http_port", "grpc_port", "metrics_port"),
    "What runs": ("dtype", "device", "instances", "threads", "max_batch", "batching", "max_delay", "engine"),
    "Versions": ("watch", "check_every", "is_rollback", "to_version"),
}
EXAMPLES = (
    ("aaexport serve aa_cnn3_digits", "Serves one model until Ctrl-C or SIGTERM, and then drains."),
    (
        "aaexport serve aa_cnn3_digits my_model --http-port 0 --grpc-port 0 --metrics-port 0 --json",
        "Two models on free ports, which one line of JSON tells.",
    ),
    ("aaexport serve --rollback aa_cnn3_digits", "Goes back to the conversion before; a running service follows."),
    ("aaexport serve --rollback --to-version 2 aa_cnn3_digits", "Goes to any that is kept: forward again, for one."),
)
DRAINING = (
    "draining: what was accepted is still answered, and connections that clients keep are served for half a minute; "
    "once more ends it at once"
)
OF_ROLLBACK = ("models", "is_rollback", "to_version", "dtype", "as_json")


@click.command("serve", cls=Command, sections=SECTIONS, examples=EXAMPLES)
@click.argument("models", metavar="MODEL…", type=Model(), nargs=-1, required=True)
@click.option(
    "--host",
    default="127.0.0.1",
    metavar="ADDRESS",
    show_default=True,
    help="What it listens on; another than this machine's own is open to whoever reaches it.",
)
@click.option("--http-port", type=Whole(0, 65535), default=8000, show_default=True, help="Of REST; 0 for a free one.")
@click.option("--grpc-port", type=Whole(0, 65535), default=8001, show_default=True, help="Of gRPC; 0 for a free one.")
@click.option(
    "--metrics-port",
    type=Whole(0, 65535),
    default=8002,
    show_default=True,
    help="Of Prometheus metrics; 0 for a free one.",
)
@options.dtype
@options.device("cpu", "What the sessions run on.")
@click.option("--instances", type=Whole(), default=1, show_default=True, help="Sessions of each model.")
@click.option("--threads", type=Whole(), help="Of each session; tuning.json's, or the runtime's own, by default.")
@click.option("--max-batch", type=Whole(), default=32, show_default=True, help="Most images of one run and query.")
@click.option("--batching/--no-batching", default=True, help="Whether queries that wait share a run; on by default.")
@click.option(
    "--max-delay",
    type=MILLISECONDS,
    default="0ms",
    show_default=True,
    help="How long a query may wait for others to share its run; a lone client pays all of it.",
)
@click.option("--engine", type=PathTo("TRITONSERVER"), help="Another server than nvidia-pytriton's or PATH's.")
@click.option("--watch", is_flag=True, help="A new conversion takes over once it was checked; a bad one is refused.")
@click.option(
    "--check-every",
    type=SECONDS,
    default="3s",
    show_default=True,
    help="How often golden vectors are asked while it serves.",
)
@click.option("--rollback", "is_rollback", is_flag=True, help="Serve the conversion before; then end.")
@click.option("--to-version", type=Whole(), help="Of --rollback: this one, older or newer, of those that are kept.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON on stdout when ready, or gone back.")
def command(models: tuple[str, ...], is_rollback: bool, to_version: int | None, as_json: bool, **given: Any) -> None:
    """Serve model folders by a real Triton, over REST and gRPC, proved by golden vectors before it says ready.

    Ends with 0 when Ctrl-C or SIGTERM has drained it, with 130 when a second one has ended it at once, with 5 if
    there is no engine, and with 7 if a model does not answer right and three reloads do not help.
    """
    if is_rollback:
        _require_no_others()
        _roll_back(models, given["dtype"], to_version, as_json)
        return
    if to_version is not None:
        raise ArgumentError(broken_rule("to_version", f"go with {parameter('is_rollback')}", to_version))
    with _waiting_to_convert(models, given["dtype"]) as converter:
        from aaexport.pipeline.serve.options import ServeOptions

        wanted = ServeOptions(**given)
        wanted.check()
        from aaexport.pipeline.serve.child import waiting_to_prepare
        from aaexport.pipeline.serve.site import find_site

        site = find_site(wanted)
        with waiting_to_prepare() as preparer:  # it loads while this process does, or while another converts
            folders = _folders(models, wanted.dtype, converter)
            _serve(folders, wanted, site, preparer, as_json=as_json)


def _waiting_to_convert(models: Sequence[str], dtype: Dtype) -> AbstractContextManager[Waiting | None]:
    """A process that begins to load what a conversion takes, if there will be one: that takes the longest of all."""
    if all((Path(model) / ONNX_FILES[dtype]).is_file() for model in models):  # a zoo model is copied to ./NAME
        return nullcontext()
    from aaexport.cli.conversion import waiting_to_convert

    return waiting_to_convert()


def _serve(folders: list[ModelFolder], wanted: ServeOptions, site: Site, preparer: Waiting, *, as_json: bool) -> None:
    """Until it is told to end. Raises as `serving`."""
    from aaexport.pipeline.serve.serve import serving
    from aaexport.pipeline.serve.stopping import Stopping
    from aaexport.report.serve import serve_text

    stopping = Stopping()
    try:
        with serving(folders, wanted, site, say, stopping, preparer) as running:
            _end_by_signal(stopping)
            facts = running.facts()
            show_text(json.dumps(facts) if as_json else serve_text(facts))
            running.keep()
            say(DRAINING)
    except KeyboardInterrupt:
        if stopping.is_set():
            say("ended at once: what was accepted and not yet answered is lost")
        raise


def say(line: str) -> None:
    """As the console's; that nobody reads any longer what a service says, as of a log that is gone, ends none."""
    with suppress(OSError):
        console.say(line)


def _folders(models: tuple[str, ...], dtype: Dtype, converter: Waiting | None = None) -> list[ModelFolder]:
    """What is to be served, converted; the first that has to be, by what waits for that."""
    from aaexport.cli.conversion import ensure_converted_apart

    _require_once(models)
    for model in models:
        check_model(model, None, needs_weights=True)
    with copies(say) as check_out:
        folders = [check_out(model) for model in models]
        for folder in folders:
            if ensure_converted_apart(folder, dtype, _load_service, converter):
                converter = None
    return folders


def _load_service() -> None:
    """What the service takes, while another process converts for it. ServiceError if grpcio is not installed."""
    import aaexport.pipeline.serve.serve
    import aaexport.report.serve  # noqa: F401
    from aaexport.serving.over_grpc import require_grpc

    require_grpc()


def _require_once(models: tuple[str, ...]) -> None:
    """ArgumentError for a folder that is named twice, in whatever words."""
    places = [os.path.realpath(model) for model in models]
    for model, place in zip(models, places, strict=True):
        if places.count(place) > 1:
            raise ArgumentError(broken_rule("models", "be named once each", model))


def _require_no_others() -> None:
    """UsageError for an option that says nothing of a rollback."""
    context = click.get_current_context()
    for param in context.command.params:
        name = param.name or ""
        if name not in OF_ROLLBACK and context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            is_off = context.params[name] is False
            option = (param.secondary_opts if is_off else param.opts)[-1]
            raise click.UsageError(f"--rollback goes with --to-version, --dtype and --json alone, got {option} too")


def _roll_back(models: tuple[str, ...], dtype: Dtype, to_version: int | None, as_json: bool) -> None:
    from aaexport.pipeline.serve.rollback import roll_back
    from aaexport.report.serve import rollback_json, rollback_text

    _require_once(models)
    folders = [find_model(model) for model in models]
    for folder, (before, now) in zip(folders, roll_back(folders, dtype, to_version), strict=True):
        if as_json:
            show_text(json.dumps(rollback_json(folder.path, dtype, before, now)))
        else:
            show_text(rollback_text(folder.path, before, now))


def _end_by_signal(stopping: Stopping) -> None:
    """From here on Ctrl-C, SIGTERM and a closed terminal tell `stopping`; a second one ends it at once."""

    def told(number: int, frame: FrameType | None) -> None:
        stopping.tell()

    for number in (signal.SIGINT, *ending_signals()):
        signal.signal(number, told)
