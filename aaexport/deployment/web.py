"""Facts of a model → what a static web page needs to run it in the visitor's browser.

site.json            tensors, preprocessing, labels, the parity record, and the SHA-256 of every file below
model.onnx           with its data files
golden.safetensors   questions whose answers are known, which the page asks on a button
runtime/…            onnxruntime-web: its scripts, and its WebAssembly packed by gzip

The page itself (`aaexport.report.site`) stands beside them. It is checked here without a browser.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from aaexport.deployment.artefact import README, Check, Target, found, require_golden
from aaexport.deployment.compared import Compared
from aaexport.errors import DeploymentError, FolderError, broken_rule, first_few
from aaexport.folder import Dtype, sha256
from aaexport.graph.check import foreign_operators
from aaexport.graph.files import parse_onnx
from aaexport.recipe.words import ATTENTION_OUTPUTS
from aaexport.runners.base import Array
from aaexport.runners.web_runtime import FILES, WebRuntime
from aaexport.serving.facts import ImageInput, ModelFacts
from aaexport.serving.golden import parts
from aaexport.serving.judge import bounds
from aaexport.serving.repository import Files

SCHEMA = "aaexport.site/1"
PAGE, SCRIPT, STYLE = "index.html", "site.js", "site.css"
ABOUT, MODEL, GOLDEN, RUNTIME, HEADERS = "site.json", "model.onnx", "golden.safetensors", "runtime", "_headers"
# Not .gz: some servers take that for the way in which a file is sent, and browsers unpack it before it is checked.
PACKED = ".gzipped"
LEVEL = 6  # of gzip: higher ones take twice as long for a hundredth
# WebAssembly has 4 GiB, in which a model lies as its file, as its numbers, and once more as its kernels like it.
MOST_BYTES = 2**30
MOST_ATTENTION = 2**28  # bytes of the attention weights of one image, which a page draws
# The domains of which onnxruntime-web has operators.
DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
NAMED = 3  # operators, in a complaint
# Nothing but this site's own files is fetched, nothing is sent, and no script runs but theirs and WebAssembly; the
# runtime's is run out of the page's memory (blob:), so that what was checked is what runs, in its workers too.
POLICY = (
    "default-src 'none'; script-src 'self' blob: 'wasm-unsafe-eval'; worker-src 'self' blob:; connect-src 'self'; "
    "style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; base-uri 'none'; form-action 'none'"
)
# What a host sends with every file, in the form of those that read a file `_headers`.
SENT = (
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Embedder-Policy", "require-corp"),
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", f"{POLICY}; frame-ancestors 'none'"),
)
ACTIVE = ("style", "base", "iframe", "object", "embed", "frame", "template")  # none of them is in the page
HEAD = re.compile(r"attention(?:\.(?P<layer>.+))?\.head(?P<head>\d+)")


@dataclass(frozen=True)
class Site:
    """What a page tells of a model beside its facts.

    Attributes:
        runtime: the package whose files go into the site.
        description: a line on the model.
        record: how this very file was compared with PyTorch; None where nobody knows.
        dtype: of the file.
    """

    runtime: WebRuntime
    description: str = ""
    record: Compared | None = None
    dtype: Dtype = "float32"


def site_files(facts: ModelFacts, site: Site) -> Files:
    """All but the page itself.

    Raises:
        DeploymentError: the model is too large for a browser, or has an operator that its runtime lacks.
        FolderError: nobody knows an answer of the model's, or it does not take one image and tell classes.
    """
    image = required_image(facts)
    require_golden(facts, "the proof on its page that it answers right")
    require_runnable(facts)
    files: Files = {MODEL: facts.onnx}
    files |= {path.relative_to(facts.onnx.parent).as_posix(): path for path in facts.data_files}
    files[GOLDEN] = _golden(facts)
    for backend in FILES:
        script, binary = site.runtime.script(backend), site.runtime.binary(backend)
        files[f"{RUNTIME}/{script.name}"] = script
        files[f"{RUNTIME}/{binary.name}{PACKED}"] = gzip.compress(binary.read_bytes(), LEVEL, mtime=0)
    about = _about(facts, image, site) | {"files": {name: _listed(content) for name, content in files.items()}}
    files[ABOUT] = json.dumps(about, ensure_ascii=False, indent=1) + "\n"
    files[HEADERS] = "/*\n" + "".join(f"  {name}: {value}\n" for name, value in SENT)
    return files | {README: _readme(facts)}


def required_image(facts: ModelFacts) -> ImageInput:
    """What makes a picture fit. FolderError for a model that is shown none, or tells no classes."""
    if facts.image is None:
        rule = "take one image of 1 or 3 channels and tell classes for a web page"
        raise FolderError(broken_rule("model", rule, "another one", "name a folder with a recipe that classifies"))
    return facts.image


def require_runnable(facts: ModelFacts) -> None:
    """DeploymentError for a model that is too large for a browser, or has an operator that its runtime lacks."""
    _require_small(facts)
    _require_operators(facts)


def _require_small(facts: ModelFacts) -> None:
    size = sum(path.stat().st_size for path in (facts.onnx, *facts.data_files))
    if size > MOST_BYTES:
        rule = f"be at most {MOST_BYTES:,} bytes for a browser, whose WebAssembly has 4 GiB"
        raise DeploymentError(broken_rule("model", rule, f"{size:,}", "convert it to float16 or int8"))


def _require_operators(facts: ModelFacts) -> None:
    model = parse_onnx(facts.onnx)
    known = (*DOMAINS, *(function.domain for function in model.functions))
    others = [name for name in foreign_operators(model) if name.rpartition(".")[0] not in known]
    if others:
        rule = "have operators that onnxruntime-web knows"
        raise DeploymentError(broken_rule("model", rule, first_few(others, NAMED)))


def _listed(content: str | bytes | Path) -> dict[str, Any]:
    if isinstance(content, Path):
        return {"sha256": sha256(content), "bytes": content.stat().st_size}
    content = content.encode() if isinstance(content, str) else content
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def _about(facts: ModelFacts, image: ImageInput, site: Site) -> dict[str, Any]:
    """site.json as a value, without its list of files."""
    record = site.record
    return {
        "schema": SCHEMA,
        "name": facts.name,
        "description": site.description,
        "onnx_sha256": facts.onnx_sha256,
        "dtype": site.dtype,
        "model": MODEL,
        "data": [path.relative_to(facts.onnx.parent).as_posix() for path in facts.data_files],
        "input": facts.inputs[0].name,
        "shape": list(image.shape),
        "mean": list(image.mean),
        "std": list(image.std),
        "crop_share": image.crop_share,
        "labels": list(image.labels),
        "scores": image.scores,
        "attention": attention_of(facts),
        "record": None
        if record is None
        else {"largest_error": record.largest_error, "date": record.date, "told": record.told},
        "golden": GOLDEN,
        "allowed": {
            # What a graphics processor may do is what CUDA may.
            "wasm": dict(zip(("absolute", "share"), bounds(site.dtype, "cpu"), strict=True)),
            "webgpu": dict(zip(("absolute", "share"), bounds(site.dtype, "cuda"), strict=True)),
        },
        "runtime": {
            "version": site.runtime.version,
            **{
                backend: {
                    "script": f"{RUNTIME}/{site.runtime.script(backend).name}",
                    "binary": f"{RUNTIME}/{site.runtime.binary(backend).name}{PACKED}",
                }
                for backend in FILES
            },
        },
    }


def attention_of(facts: ModelFacts) -> list[dict[str, Any]]:
    """The outputs that hold attention weights, in the file's order: of which layer and head, of how large a map."""
    listed = []
    for tensor in facts.outputs:
        named = HEAD.fullmatch(tensor.name) if tensor.name.startswith(ATTENTION_OUTPUTS) else None
        if named is not None and len(tensor.shape) == 5:
            height, width = tensor.shape[1:3]
            layer, head = named["layer"] or "", int(named["head"])
            listed.append({"output": tensor.name, "layer": layer, "head": head, "height": height, "width": width})
    return listed


def attention_bytes(facts: ModelFacts) -> int:
    """Of all attention weights of one image in float32."""
    return sum(4 * (each["height"] * each["width"]) ** 2 for each in attention_of(facts))


def _golden(facts: ModelFacts) -> bytes:
    """`N.input.NAME` and `N.output.NAME`, image by image where the answers can be told apart."""
    from safetensors.numpy import save

    tensors: dict[str, Array] = {}
    for number, query in enumerate(parts(facts.golden, 1)):
        tensors |= {f"{number}.input.{name}": np.ascontiguousarray(each) for name, each in query.inputs.items()}
        tensors |= {f"{number}.output.{name}": np.ascontiguousarray(each) for name, each in query.outputs.items()}
    return save(tensors)


def _readme(facts: ModelFacts) -> str:
    lines = (
        f"# {facts.name} as a web page",
        f"It holds `{facts.name}`; the SHA-256 of its ONNX file is `{facts.onnx_sha256}`, which the page checks.",
        "`python -m http.server --bind 127.0.0.1` in this folder serves it, and so does any host of static files "
        "over HTTPS; no server computes anything, and the page sends nothing to anybody.",
        f"With the two Cross-Origin headers of `{HEADERS}`, which some hosts read by themselves, models of more than "
        "4 MiB run in several threads.",
        "The button of the page proves what answers; `aaexport deploy --check .` tells whether this folder is as it "
        "was written, and fit for its use.",
    )
    return "\n\n".join(lines) + "\n"


def integrity(content: bytes) -> str:
    """As the attribute of that name has it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content).digest()).decode()


def check(root: Path) -> Iterator[Check]:
    """The page's policy and what it holds its script and style to; then what site.json says of every file."""
    try:
        page = (root / PAGE).read_text(encoding="utf-8")
        yield found("page", list(_page_faults(root, page)), f"policy, script and style of {PAGE}")
        about = json.loads((root / ABOUT).read_text(encoding="utf-8"))
        faults = list(_site_faults(root, page, about))
        yield found("site", faults, f"{len(about['files'])} files are those that the page will ask for")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        yield Check("site", False, f"{error.__class__.__name__}: {error}")


class _Page(HTMLParser):
    """The elements of a page with their attributes, in its order, and what a browser would run or apply in itself."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """One begins."""
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def named(self, tag: str, **attributes: str) -> list[dict[str, str]]:
        """The attributes of those elements that have these among theirs."""
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        return [found for name, found in self.elements if name == tag and wanted.items() <= found.items()]

    def is_active(self) -> bool:
        """Whether there is a script or a style in the page itself, or an element that fetches by rules of its own."""
        for tag, attributes in self.elements:
            if tag in ACTIVE or (tag == "script" and "src" not in attributes):
                return True
            if any(name == "style" or name.startswith("on") for name in attributes):
                return True
            if any(value.strip().lower().startswith("javascript:") for value in attributes.values()):
                return True
        return False


def _page_faults(root: Path, text: str) -> Iterator[str]:
    page = _Page(text)
    policies = [meta.get("content", "") for meta in page.named("meta", http_equiv="Content-Security-Policy")]
    if policies != [POLICY]:
        yield f"the policy must be {POLICY!r}, got {' and '.join(map(repr, policies)) or 'none'}"
    scripts, styles = page.named("script"), page.named("link", rel="stylesheet")
    for name, elements, key in ((SCRIPT, scripts, "src"), (STYLE, styles, "href")):
        held = [(element.get(key), element.get("integrity")) for element in elements]
        if held != [(name, integrity((root / name).read_bytes()))]:
            yield f"{name} must be what {PAGE} holds it to"
    if page.is_active():
        yield "there must be no script or style in the page itself"


def _site_faults(root: Path, page: str, about: Mapping[str, Any]) -> Iterator[str]:
    if about["schema"] != SCHEMA:
        yield f"the schema must be {SCHEMA}, got {about['schema']!r}"
    if [meta.get("content") for meta in _Page(page).named("meta", name="site-sha256")] != [sha256(root / ABOUT)]:
        yield f"{ABOUT} must be the one that {PAGE} names by its digest"
    runtime = [name for backend in FILES for name in about["runtime"][backend].values()]
    for name in (about["model"], *about["data"], about["golden"], *runtime):
        if name not in about["files"]:
            yield f"{name} must be among the files of {ABOUT}"
    for name, told in about["files"].items():
        if not (root / name).is_file() or sha256(root / name) != told["sha256"]:
            yield f"{name} must be the file of {ABOUT}"


TARGET = Target(None, check)
