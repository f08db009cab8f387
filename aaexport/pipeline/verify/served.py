"""(live service, file in float16 or int8) → where it tells or answers otherwise than the file does here.

How far such a file is off float32 its guard judges. A service must give what the very file gives, by onnxruntime on
this machine: within what the file has lost the answers of another one, or of a stale one, would pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from aaexport.device import parse_device
from aaexport.errors import RunnerError
from aaexport.graph.files import GraphSummary
from aaexport.parity import Array
from aaexport.parity.thresholds import ReducedKind
from aaexport.pipeline.verify.options import VerifyOptions
from aaexport.pipeline.verify.services import Service, another_model, serves_another_file
from aaexport.runners.base import Runner
from aaexport.runners.ort import OrtRunner
from aaexport.serving.golden import Query, parts
from aaexport.serving.judge import why_wrong

ASKED = 16  # images, of those that the guard judges by


def told_wrongly(service: Service, summary: GraphSummary, digest: str | None) -> Iterator[str]:
    """What the service tells of its file or its tensors that is not of this file."""
    yield from filter(None, (serves_another_file(service.facts, service.row_name, digest),))
    yield from filter(None, (another_model(service.facts, summary),))


def why_otherwise(
    service: Service, path: Path, kind: ReducedKind, images: Array, options: VerifyOptions
) -> tuple[str | None, str]:
    """Where the service answers otherwise than the file to some images, alone and together, None if nowhere; and how
    many were asked, in words.
    """
    fixed = service.facts.fixed_batch
    some = images[: ASKED if fixed is None else max(len(images[:ASKED]) // fixed, 1) * fixed]
    most = min(service.facts.max_batch or ASKED, len(some))
    sizes = (1, most) if fixed is None else (fixed,)
    batches = " and ".join(str(size) for size in dict.fromkeys(sizes))
    asked = f"{service.row_name}: answers as {path.name} does here, {len(some)} images in batches of {batches}"
    try:
        with OrtRunner(path, device=options.device) as here, service.open() as there:
            whole = _question(here, some)
            for size in sizes:
                for query in parts([whole], size):
                    wrong = why_wrong(query, there.infer(dict(query.inputs)), kind, parse_device(options.device)[0])
                    if wrong is not None:
                        rule = f"{service.row_name} must answer as {path.name} does here"
                        return f"{rule}, got {wrong}, for {query.batch} images at once", asked
    except RunnerError as error:
        return f"{service.row_name}: {error}", asked
    return None, asked


def _question(runner: Runner, images: Array) -> Query:
    (port,) = runner.inputs
    asked = {port.name: images.astype(port.dtype, copy=False)}
    return Query("images", asked, runner.infer(asked))
