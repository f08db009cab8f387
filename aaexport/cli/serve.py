"""`aaexport serve MODEL…`."""

from __future__ import annotations

import json
import signal
import threading
from types import FrameType
from typing import Any

import click

from aaexport.cli import options
from aaexport.cli.command import Command
from aaexport.cli.console import say, show_text
from aaexport.cli.converted import check_model
from aaexport.cli.quantities import MILLISECONDS, SECONDS
from aaexport.cli.types import Model, PathTo, Whole
from aaexport.errors import ArgumentError, broken_rule
from aaexport.folder import Dtype, ModelFolder, copies, find_model

SECTIONS = {
    "Where it listens": ("host", "http_port", "grpc_port", "metrics_port"),
    "What runs": ("dtype", "device", "instances", "threads", "max_batch", "batching", "max_delay", "engine"),
    "Versions": ("watch", "check_every", "is_rollback"),
}
EXAMPLES = (
    ("aaexport serve aa_cnn3_digits", "Serves one model until Ctrl-C or SIGTERM, and then drains."),
    (
        "aaexport serve aa_cnn3_digits my_model --http-port 0 --grpc-port 0 --metrics-port 0 --json",
        "Two models on free ports, which one line of JSON tells.",
    ),
    ("aaexport serve --rollback aa_cnn3_digits", "Goes back to the conversion before; a running service follows."),
)


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
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON on stdout when ready.")
def command(models: tuple[str, ...], is_rollback: bool, as_json: bool, **given: Any) -> None:
    """Serve model folders by a real Triton, over REST and gRPC, proved by golden vectors before it says ready.

    Ends with 0 when Ctrl-C or SIGTERM has drained it, with 5 if there is no engine, and with 7 if a model does not
    answer right and three reloads do not help.
    """
    from aaexport.pipeline.serve.options import ServeOptions

    if is_rollback:
        for model in models:
            _roll_back(find_model(model))
        return
    wanted = ServeOptions(**given)
    wanted.check()
    from aaexport.pipeline.serve.serve import serving
    from aaexport.pipeline.serve.site import find_site
    from aaexport.report.serve import serve_text

    site = find_site(wanted)
    folders = _folders(models, wanted.dtype)
    stopping = threading.Event()
    with serving(folders, wanted, site, say, stopping) as running:
        _end_by_signal(stopping)
        facts = running.facts()
        show_text(json.dumps(facts) if as_json else serve_text(facts))
        running.keep()
        say("draining: what was accepted is still answered; once more ends it at once")


def _folders(models: tuple[str, ...], dtype: Dtype) -> list[ModelFolder]:
    from aaexport.cli.conversion import ensure_converted_apart

    for model in models:
        check_model(model, None, needs_weights=True)
        if models.count(model) > 1:
            raise ArgumentError(broken_rule("models", "be named once each", model))
    with copies(say) as check_out:
        folders = [check_out(model) for model in models]
        for folder in folders:
            ensure_converted_apart(folder, dtype)
    return folders


def _roll_back(folder: ModelFolder) -> None:
    from aaexport.pipeline.serve.rollback import rollback

    before, now = rollback(folder)
    show_text(f"{folder.path}: version {now} is to be served instead of {before}; a running service follows")


def _end_by_signal(stopping: threading.Event) -> None:
    """From here on Ctrl-C, SIGTERM and a closed terminal set `stopping`; a second one interrupts the draining."""

    def told(number: int, frame: FrameType | None) -> None:
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), told)
