"""`aaexport deploy MODEL --to TARGET --out FOLDER`, and `aaexport deploy --check FOLDER`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aaexport.cli import options
from aaexport.cli.collector import loading
from aaexport.cli.command import Command
from aaexport.cli.console import say, show, show_json
from aaexport.cli.converted import check_model, ensure_converted
from aaexport.cli.progress import steps
from aaexport.cli.quantities import MEBIBYTES, MILLISECONDS
from aaexport.cli.types import Model, PathTo, Whole, Word
from aaexport.deployment.settings import TARGET_SETTINGS
from aaexport.errors import ArgumentError, DeploymentError, broken_rule, parameter
from aaexport.folder import DTYPES, copies

if TYPE_CHECKING:
    from aaexport.results import DeployResult

SECTIONS = {
    "The deployment": ("to", "out", "force", "check"),
    "On a web page": ("runtime_files", "fetch_runtime", "preview"),
    "How it runs": (
        "dtype",
        "device",
        "instances",
        "threads",
        "max_batch",
        "max_delay",
        "batching",
        "unbatched",
        "images",
    ),
    "On a GPU": ("tensorrt", "fp16", "cuda_graph"),
    "In a cluster": ("min_replicas", "max_replicas", "cpus", "memory", "storage", "namespace"),
}
EXAMPLES = (
    ("aaexport deploy aa_cnn3_digits --to triton --out served", "A model repository for NVIDIA's container."),
    (
        "aaexport deploy aa_cnn3_digits --to kserve --out served --storage s3://bucket/models --max-replicas 8",
        "An InferenceService, and what goes to its storage.",
    ),
    ("aaexport deploy aa_cnn3_digits --to ray --out served", "A Ray Serve application for several hosts."),
    ("aaexport deploy aa_cnn3_digits --to web --out site --preview", "A page that runs the model, opened here."),
    ("aaexport deploy --check served", "Looks at a deployment as it lies there, and writes nothing."),
)


@click.command("deploy", cls=Command, sections=SECTIONS, examples=EXAMPLES)
@click.argument("model", metavar="[MODEL]", type=Model(), required=False)
@click.option("--to", type=Word(*TARGET_SETTINGS), help="What is to serve it.")
@click.option("--out", type=PathTo("FOLDER", file_okay=False),
              help="The folder to write: new, empty, or a deployment that nobody has changed.")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace files of a deployment that were changed, and say which.")
@click.option("--check", type=PathTo("FOLDER", file_okay=False),
              help="Check the deployment in this folder, and write nothing; goes without MODEL.")  # fmt: skip
@click.option(
    "--dtype",
    type=Word(*DTYPES),
    help="Which of the folder's files, by default model.onnx; one in fewer bits must have passed its guard.",
)
@options.device(None, "triton, kserve: cpu by default.")
@click.option("--instances", type=Whole(), help="Sessions of one server.")
@click.option("--threads", type=Whole(), help="Of every session; in a cluster --cpus by default.")
@click.option("--max-batch", type=Whole(), help="Most images of one run; 32 by default.")
@click.option("--max-delay", type=MILLISECONDS, help="How long a query may wait for others; 0ms by default.")
@click.option("--batching/--no-batching", default=None,
              help="Whether queries share runs. By default only where two peak searches show that it wins: "
                   "bench.json's, and --unbatched.")  # fmt: skip
@click.option("--unbatched", type=PathTo("FILE.json"),
              help="What serve-bench --find-peak --max-batch 1 --json printed of the same file.")  # fmt: skip
@click.option("--images", is_flag=True, default=None,
              help="triton, kserve: a model for JPEG and PNG files too; needs Pillow in the server.")  # fmt: skip
@click.option("--tensorrt", is_flag=True, default=None, help="Give TensorRT what it takes.")
@click.option("--fp16", is_flag=True, default=None, help="Let TensorRT compute in float16.")
@click.option("--cuda-graph", is_flag=True, default=None, help="Let TensorRT record its launches once.")
@click.option("--min-replicas", type=Whole(), help="1 by default, 2 on Ray.")
@click.option("--max-replicas", type=Whole(), help="3 by default, 4 on Ray.")
@click.option("--cpus", type=Whole(), help="Cores of a replica; 1 by default.")
@click.option("--memory", type=MEBIBYTES, help="Of a replica; 2GiB by default.")
@click.option("--storage", metavar="SCHEME://PLACE", help="kserve: where models lie; pvc://models by default.")
@click.option("--namespace", metavar="NAME", help="kserve: default by default.")
@click.option("--runtime-files", type=PathTo("FOLDER", file_okay=False),
              help="web: npm's package onnxruntime-web; by default the one in node_modules here.")  # fmt: skip
@click.option("--fetch-runtime", is_flag=True, default=None, help="web: let npm fetch that package.")
@click.option("--preview", is_flag=True, help="web: serve the page to this machine's browsers, until Ctrl-C.")
@options.as_json
def command(
    model: str | None,
    to: str | None,
    out: Path | None,
    check: Path | None,
    preview: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Write what serves MODEL in production, checked before it appears; or check what was written.

    Targets: triton, a model repository; kserve, an InferenceService with its models; ray, a Ray Serve application;
    container, a Containerfile that runs `aaexport serve`; web, a page that runs the model in the visitor's browser. A
    folder without model.onnx is converted first.

    Exits with 3, and writes nothing, if a check fails.
    """
    if check is not None:
        _require_alone(model, to, out, given)
        with _showing(as_json), steps(f"reading {check}"):
            with loading():
                from aaexport.pipeline.deploy.deploy import check_deployment, require_passed

            result = check_deployment(check)
            require_passed(result)
        _show(result, as_json)
        if preview:
            _preview(result)
        return
    for name, value in (("MODEL", model), ("--to", to), ("--out", out)):
        if value is None:
            raise click.UsageError(f"{name} must be given, got none; --check FOLDER goes without")
    assert model is not None
    assert to is not None
    assert out is not None
    if preview and to != "web":
        raise ArgumentError(broken_rule("preview", "be left out but for web", f"{parameter('to')} {to}"))
    result = _deployed(model, to, out, given, as_json)
    _show(result, as_json)
    if preview:
        _preview(result)


def _preview(result: DeployResult) -> None:
    """Serves the folder to this machine alone, as it lies there, until somebody ends it."""
    from aaexport.deployment.manifest import files_in
    from aaexport.runners.loopback import serving

    if result.target != "web":
        raise ArgumentError(broken_rule("preview", "be left out but for web", f"a deployment for {result.target}"))
    with serving(files_in(result.path)) as url:
        say(f"serving {result.path} on {url} to this machine; Ctrl-C ends it")
        with suppress(KeyboardInterrupt):
            _wait_for_ever()


def _wait_for_ever() -> None:
    threading.Event().wait()


def _deployed(model: str, to: str, out: Path, given: dict[str, Any], as_json: bool) -> DeployResult:
    from aaexport.deployment.placing import replaced_files, require_room
    from aaexport.pipeline.deploy.options import DeployOptions

    if given["memory"] is not None:
        given["memory"] = round(given["memory"])
    wanted = DeployOptions(**given)
    wanted.check(to)
    check_model(model, None, needs_weights=True)
    require_room(out)
    if to == "web" and not wanted.fetch_runtime:  # before anything is converted
        from aaexport.runners.web_runtime import find_runtime

        find_runtime(wanted.runtime_files)
    if wanted.unbatched is not None:
        from aaexport.pipeline.deploy.evidence import read_peak

        read_peak(Path(wanted.unbatched), "unbatched")
    if not wanted.force:  # what is not to be replaced is said before anything is converted
        replaced_files(out)
    with _showing(as_json), copies(say) as check_out:
        folder = check_out(model, None)
        ensure_converted(folder, dtype=wanted.dtype or "float32")
        with steps(f"reading {model}") as tell:
            with loading():
                from aaexport.pipeline.deploy.deploy import deploy

            return deploy(folder, to, out, options=wanted, say=tell)


def _require_alone(model: str | None, to: str | None, out: Path | None, given: dict[str, Any]) -> None:
    others = {"MODEL": model, "--to": to, "--out": out}
    others |= {f"--{name.replace('_', '-')}": value for name, value in given.items() if value is not False}
    for name, value in others.items():
        if value is not None:
            raise click.UsageError(f"--check goes alone, got {name} too")


@contextmanager
def _showing(as_json: bool) -> Iterator[None]:
    """Shows the result of a DeploymentError that passes through."""
    try:
        yield
    except DeploymentError as error:
        if error.result is not None:
            _show(error.result, as_json)
        raise


def _show(result: DeployResult, as_json: bool) -> None:
    from aaexport.report.deployment import deploy_view
    from aaexport.report.machine import deploy_json

    if as_json:
        show_json(deploy_json(result))
    else:
        show(deploy_view(result))
