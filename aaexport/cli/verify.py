"""`aaexport verify MODEL`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aaexport.allocator import keep_freed_memory
from aaexport.capture.source import require_file, require_source
from aaexport.cli import options
from aaexport.cli.collector import loading
from aaexport.cli.command import Command
from aaexport.cli.console import say, show, show_json, show_text
from aaexport.cli.converted import ask_services, check_model, ensure_converted, name_of
from aaexport.cli.progress import steps
from aaexport.cli.quantities import MEBIBYTES, SECONDS
from aaexport.cli.spinning import spin_briefly
from aaexport.cli.types import Names, PathTo, Whole
from aaexport.errors import AaexportError, ArgumentError, ParityError, broken_rule, parameter
from aaexport.folder import copies
from aaexport.graph.there import require_readable
from aaexport.writing import check_writable, write_text

if TYPE_CHECKING:
    from aaexport.folder import ModelFolder
    from aaexport.parity import ParityReport
    from aaexport.pipeline.verify.options import FileDtype, VerifyOptions

EVERY = 60.0  # seconds between two looks
XML_BEGIN = 64  # bytes, by which an XML file is told from others


SECTIONS = {
    "What is judged": ("onnx", "dtype", "inputs", "out", "size", "module", "batch", "seed"),
    "Where it runs": ("device", "runtimes", "max_memory"),
    "A live service": ("url", "served_as", "timeout", "ca", "follow", "every"),
    "What is allowed": ("atol", "rtol", "strict", "locate"),
    "The report": ("as_json", "markdown", "junit"),
}
EXAMPLES = (
    ("aaexport verify aa_cnn3_digits", "Judges the folder's model.onnx in the usual runtimes."),
    ("aaexport verify aa_cnn3_digits --dtype int8", "Judges its model.int8.onnx by what it may lose of float32."),
    (
        "aaexport verify aa_cnn3_digits --onnx fast.onnx --runtimes reference,onnxruntime --junit parity.xml",
        "Judges another file of the same network, and writes a report for CI.",
    ),
    (
        "aaexport verify aa_cnn3_digits --url http://127.0.0.1:8000 --url grpc://127.0.0.1:8001",
        "Judges the file, and what a live service answers in its name.",
    ),
)


@click.command("verify", cls=Command, sections=SECTIONS, examples=EXAMPLES)
@options.model
@click.option("--onnx", type=PathTo("FILE.onnx"), help="Another file than the folder's model.onnx.")
@click.option(
    "--inputs",
    type=PathTo("FILE|FOLDER"),
    help="A .npz, .safetensors or folder of images instead of the recipe's held-out images.",
)
@options.out
@options.size
@options.module
@options.device("cpu", "For onnxruntime; PyTorch's side runs on the CPU.")
@click.option(
    "--runtimes",
    type=Names("reference", "unoptimized", "onnxruntime", "tf32", "tensorrt", "openvino", "web"),
    help="What computes; the usual ones by default.",
)
@click.option(
    "--max-memory",
    type=MEBIBYTES,
    help="What it may take beyond the loaded models; by default 4 GiB with them, or half of what is free if less.",
)
@options.url
@options.served_as
@options.timeout
@options.ca
@click.option("--follow", is_flag=True, help="Ask the service a sample again and again; a JSON line each time.")
@click.option(
    "--every",
    type=SECONDS,
    help=f"Between two looks of --follow; {EVERY:g}s by default.",
)
@click.option("--batch", type=Whole(), help="One more batch size beside 1, 2, 3 and 7.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "bfloat16", "int8"]),
    help="Which of the folder's files, by default model.onnx; or what another file is meant to be, by default what "
    "it says.",
)
@options.each_atol
@options.each_rtol
@click.option("--locate/--no-locate", default=True, show_default=True, help="Look for the first node that is wrong.")
@click.option("--strict", is_flag=True, help="Warnings are failures.")
@options.seed
@options.as_json
@click.option("--markdown", is_flag=True, help="Print Markdown on stdout, for a pull request.")
@click.option(
    "--junit",
    type=PathTo("FILE.xml", dir_okay=False),
    help="Write JUnit XML to this file too.",
)
def command(
    model: str,
    onnx: Path | None,
    inputs: Path | None,
    out: Path | None,
    size: tuple[int, int] | None,
    module: str | None,
    device: str,
    runtimes: tuple[str, ...] | None,
    max_memory: float | None,
    url: tuple[str, ...],
    served_as: str | None,
    timeout: float,
    ca: Path | None,
    follow: bool,
    every: float | None,
    batch: int | None,
    dtype: FileDtype | None,
    atol: tuple[tuple[str, float], ...],
    rtol: tuple[tuple[str, float], ...],
    locate: bool,
    strict: bool,
    seed: int,
    as_json: bool,
    markdown: bool,
    junit: Path | None,
) -> None:
    """Judge MODEL's ONNX file against PyTorch in float64, on held-out images and made-up inputs.

    Exits with 3 if the file computes something else, and then says which stage broke it and which node.
    """
    if as_json and markdown:
        raise click.UsageError("--json and --markdown contradict each other")
    if follow and (as_json or markdown or junit is not None):
        raise click.UsageError("--follow prints JSON lines: it goes without --json, --markdown and --junit")
    if every is not None and not follow:
        raise ArgumentError(broken_rule("every", f"go with {parameter('follow')}", f"{every:g}"))
    if junit is not None:
        _check_junit(junit)
    from aaexport.pipeline.verify.options import VerifyOptions, check_every

    if every is not None:
        check_every(every)
    asked = VerifyOptions(
        device=device, dtype=dtype, atol=dict(atol) or None, rtol=dict(rtol) or None,
        inputs=inputs, batch=batch, runtimes=runtimes, locate=locate, strict=strict, seed=seed, max_memory=max_memory,
        url=url, served_as=served_as, timeout=timeout, ca=ca,
    )  # fmt: skip
    with _no_verdict_in(junit), copies(say) as check_out:
        asked.check()  # wrong options are refused before anything is copied or converted
        source = None if module is None else require_file(require_source(module))
        if onnx is not None:
            require_readable(onnx)
        check_model(model, size, module=module, needs_weights=True)
        for one in url:
            ask_services([one], served_as or name_of(model, out), timeout, ca)
        keep_freed_memory()
        spin_briefly()
        folder = check_out(model, out)
        if onnx is None and dtype in (None, "float32"):
            ensure_converted(folder, size)
        if follow:
            _follow(folder, onnx, asked, EVERY if every is None else every, size)
            return
        with steps(f"reading {folder.path}") as tell:
            with loading():
                from aaexport.pipeline.verify.verify import verify_folder

            report = verify_folder(folder, onnx, asked, size=size, source=source, say=tell)
    _show(report, as_json=as_json, markdown=markdown)
    if junit is not None:
        from aaexport.report.parity.junit import parity_junit

        write_text(junit, parity_junit(report))
    if not report.passed:
        raise ParityError(f"parity failed: {report.complaint}", report)


def _follow(
    folder: ModelFolder, onnx: Path | None, asked: VerifyOptions, every: float, size: tuple[int, int] | None
) -> None:
    """Looks until something is wrong; each event is a line on stdout."""
    import json

    with loading():
        from aaexport.pipeline.verify.follow import follow
    from aaexport.report.machine import observation_json

    follow(
        folder,
        onnx,
        asked,
        lambda seen: show_text(json.dumps(observation_json(seen), allow_nan=False)),
        every=every,
        size=size,
        say=say,
    )


def _check_junit(path: Path) -> None:
    """ArgumentError or FolderError before any work, if the report cannot be written there, or would cost a file."""
    check_writable(path)
    if path.is_file() and _holds_something_else(path):
        rule = "name a new file or an XML file to replace"
        raise ArgumentError(broken_rule("junit", rule, str(path), "it holds something else: choose another name"))


def _holds_something_else(path: Path) -> bool:
    with path.open("rb") as file:
        begin = file.read(XML_BEGIN).lstrip()
    return bool(begin) and not begin.startswith(b"<")


@contextmanager
def _no_verdict_in(junit: Path | None) -> Iterator[None]:
    """Where the file cannot be judged the JUnit XML says so: a former green one must not stand for it."""
    try:
        yield
    except AaexportError as error:
        if junit is not None and not isinstance(error, ParityError):
            from aaexport.report.parity.junit import no_verdict_junit

            write_text(junit, no_verdict_junit(str(error)))
        raise


def _show(report: ParityReport, *, as_json: bool, markdown: bool) -> None:
    from aaexport.report.machine import parity_json
    from aaexport.report.parity.markdown import parity_markdown
    from aaexport.report.parity.terminal import parity_view

    if as_json:
        show_json(parity_json(report))
    elif markdown:
        show_text(parity_markdown(report))
    else:
        show(parity_view(report))
