"""(model folder, onnxruntime-web) → what a web page shows: a file that tells its attention, and its record."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from aaexport.deployment.compared import Compared, compared, refuted
from aaexport.deployment.web import (
    ABOUT,
    MOST_ATTENTION,
    Site,
    attention_bytes,
    attention_of,
    require_runnable,
    required_image,
    site_files,
)
from aaexport.folder import ModelFolder
from aaexport.graph.files import converted_batch, converted_size, parse_onnx
from aaexport.graph.metadata import provenance_of
from aaexport.pipeline.deploy.options import DeployOptions
from aaexport.report.site.site import page_files
from aaexport.runners.web_runtime import WebRuntime, fetch_runtime, find_runtime
from aaexport.serving.facts import ModelFacts
from aaexport.serving.reading import read_facts
from aaexport.serving.repository import Files

Say = Callable[[str], None]


@dataclass(frozen=True)
class Shown:
    """The file of a site, as facts, with what else its page tells, and what a user should know of it."""

    facts: ModelFacts
    site: Site
    notes: tuple[str, ...]

    def files(self) -> Files:
        """All of the site. Raises as `site_files`."""
        files = site_files(self.facts, self.site)
        about = files[ABOUT]
        assert isinstance(about, str)
        digest = hashlib.sha256(about.encode()).hexdigest()
        return files | page_files(self.facts.name, self.site.description, digest)


@contextmanager
def runtime_of(options: DeployOptions, say: Say) -> Iterator[WebRuntime]:
    """The package that was given, or is at hand; or, if that was asked for, npm's, as long as the block lasts.

    ProviderError as `find_runtime` and `fetch_runtime`.
    """
    if not options.fetch_runtime:
        yield find_runtime(options.runtime_files)
        return
    with tempfile.TemporaryDirectory(prefix="aaexport-") as room:
        say("fetching onnxruntime-web with npm")
        yield fetch_runtime(Path(room))


@contextmanager
def shown(folder: ModelFolder, facts: ModelFacts, options: DeployOptions, say: Say) -> Iterator[Shown]:
    """What is shown, as long as the block lasts: the folder's file, or its like with the attention as outputs.

    Raises:
        FolderError: the model does not take one image and tell classes.
        DeploymentError: it is too large for a browser, or has an operator that its runtime lacks.
        ProviderError: onnxruntime-web is not at hand.
        ParityError, ExportError: the file with attention is not right, or cannot be written.
    """
    required_image(facts)
    require_runnable(facts)  # before the minutes of an export
    dtype = options.dtype or "float32"
    with runtime_of(options, say) as runtime, tempfile.TemporaryDirectory(prefix="aaexport-") as room:
        record = _kept_record(folder.parity_of(dtype), facts.onnx_sha256)
        notes: tuple[str, ...] = (f"onnxruntime-web {runtime.version} of {runtime.folder}",)
        why_not = None if attention_of(facts) else _why_unseen(folder, facts, dtype)
        if not attention_of(facts) and why_not is None:
            say("exporting once more, with the attention as outputs")
            observed, of_observed = _observed(folder, facts, Path(room) / "model.onnx")
            if attention_bytes(observed) <= MOST_ATTENTION:
                facts, record = observed, of_observed
            else:
                why_not = (
                    f"its weights are {attention_bytes(observed):,} bytes an image, more than {MOST_ATTENTION:,}"
                )
        if why_not is not None:
            notes += (f"the page draws no attention: {why_not}",)
        if record is None:
            notes += ("the page tells no parity: `aaexport verify` has not judged this very file",)
        elif not record.passed:
            notes += ("the page tells that this very file did not pass `aaexport verify`",)
        yield Shown(facts, Site(runtime, folder.recipe.description, record, dtype), notes)


def _why_unseen(folder: ModelFolder, facts: ModelFacts, dtype: str) -> str | None:
    """Why the attention cannot be exported; None if it can."""
    if folder.recipe.attention is None:
        return "the network has none"
    if dtype != "float32":
        return f"a file in {dtype} keeps it to itself"
    return None if folder.weights_path.is_file() else "the folder has no weights to export it with"


def _kept_record(path: Path, onnx_sha256: str) -> Compared | None:
    """What the folder keeps of the file with that digest; None without a verdict on it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return compared(value, onnx_sha256) or refuted(value, onnx_sha256)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError):
        return None


def _observed(folder: ModelFolder, facts: ModelFacts, path: Path) -> tuple[ModelFacts, Compared | None]:
    """The facts of such an export, and how it was compared."""
    from aaexport.pipeline.convert.convert import convert

    origin, batch = provenance_of(parse_onnx(facts.onnx)), converted_batch(facts.onnx)
    result = convert(
        folder,
        path,
        size=converted_size(facts.onnx),
        opset=None if origin is None else origin.opset,
        batch=batch or "dynamic",
        with_attention=True,
    )
    seen = replace(read_facts(folder, path), golden=facts.golden)
    return seen, None if result.parity is None else compared(result.parity.to_dict())
