"""Facts of a model → what a container of `aaexport serve` is built from: Containerfile, pinned versions, the model.

It is written and looked through here, and built by whoever has a container engine.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from aaexport.deployment.artefact import README, Check, Target, found, readme, require_golden, require_memory
from aaexport.deployment.settings import DeploySettings
from aaexport.errors import FolderError, broken_rule
from aaexport.folder import PARITY_FILES
from aaexport.serving.facts import ModelFacts
from aaexport.serving.process import GRACE
from aaexport.serving.repository import Files
from aaexport.serving.shared_memory import mebibytes, needed_bytes

CONTAINERFILE, REQUIREMENTS = "Containerfile", "requirements.txt"
BASE = "docker.io/library/python:3.11.14-slim-bookworm"  # its Python is shared, as Triton's backend needs it
ENGINE = "nvidia-pytriton==0.7.0"
HTTP_PORT, GRPC_PORT, METRICS_PORT = 8000, 8001, 8002
USER = 1000
STOP_SECONDS = round(GRACE) + 15  # the service itself ends Triton after the first of them
# What serving imports; PyTorch is not among it.
NEEDED = ("click", "grpcio", "numpy", "onnx", "onnx-ir", "onnxruntime", "pillow", "protobuf", "rich", "safetensors")
PINNED = re.compile(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+")


def files(facts: ModelFacts, settings: DeploySettings) -> Files:
    """What the builder needs, the model folder included.

    Raises:
        FolderError: there are no golden vectors, or no version to pin.
        DeploymentError: the container's memory would not hold the tensors of its batches.
    """
    require_golden(facts, "the service's proof that it answers right")
    shared = mebibytes(needed_bytes(facts, settings.max_batch, settings.instances, images=facts.image is not None))
    require_memory(settings.memory, shared)
    folder = facts.onnx.parent
    # The service asks for the guard's verdict on a file in fewer bits, which is beside it in the folder.
    verdict = [] if settings.dtype == "float32" else [folder / PARITY_FILES[settings.dtype]]
    model = [folder / "model.toml", facts.onnx, *facts.data_files, *verdict]
    written: Files = {f"{facts.name}/{path.relative_to(folder)}": path for path in model}
    written[f"{facts.name}/golden.safetensors"] = _golden(facts)
    tag = f"aaexport-{facts.name.lower()}:{facts.onnx_sha256[:12]}"
    return written | {
        CONTAINERFILE: containerfile(facts.name, settings),
        REQUIREMENTS: "".join(f"{pin}\n" for pin in pins()),
        README: readme(
            "a container",
            facts,
            HTTP_PORT,
            f"`podman build --format docker -t {tag} .`, or docker, builds it, every version pinned; where your "
            "index has no aaexport, `--build-arg AAEXPORT=…` names its wheel by URL, or any requirement of pip's.",
            f"`podman run --rm --read-only --tmpfs /tmp --shm-size {shared}m --memory {settings.memory}m "
            f"--stop-timeout {STOP_SECONDS} -p 127.0.0.1:{HTTP_PORT}:{HTTP_PORT} "
            f"-p 127.0.0.1:{GRPC_PORT}:{GRPC_PORT} {tag}` serves it, as user {USER}; put TLS and authentication "
            "before it.",
        ),
    }


def _golden(facts: ModelFacts) -> bytes:
    """The first of them, as training keeps them; whichever kind the folder has."""
    from safetensors.numpy import save

    query = facts.golden[0]
    return save({name: np.ascontiguousarray(array) for name, array in {**query.inputs, **query.outputs}.items()})


def containerfile(name: str, settings: DeploySettings) -> str:
    """The recipe of the image. A dead service ends its process, so the health check asks for the model itself."""
    command = ["aaexport", "serve", name, "--host", "0.0.0.0", *_ports(), *_options(settings)]
    url = f"http://127.0.0.1:{HTTP_PORT}/v2/models/{name}/ready"
    check = ["python", "-c", f"import urllib.request; urllib.request.urlopen('{url}', timeout=3)"]
    return f"""\
FROM {BASE}

ARG AAEXPORT="aaexport=={importlib.metadata.version("aaexport")}"

RUN useradd --uid {USER} --create-home --shell /usr/sbin/nologin serve
WORKDIR /home/serve

COPY {REQUIREMENTS} ./
# What AAEXPORT names is pinned where it is set.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir --no-deps --requirement {REQUIREMENTS} \\
    && pip install --no-cache-dir --no-deps {ENGINE} "$AAEXPORT"

COPY --chown=root:root {name} ./{name}

USER {USER}
ENV OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
EXPOSE {HTTP_PORT} {GRPC_PORT} {METRICS_PORT}
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \\
    CMD {json.dumps(check)}
ENTRYPOINT {json.dumps(command)}
"""


def _ports() -> list[str]:
    named = (("--http-port", HTTP_PORT), ("--grpc-port", GRPC_PORT), ("--metrics-port", METRICS_PORT))
    return [word for option, port in named for word in (option, str(port))]


def _options(settings: DeploySettings) -> list[str]:
    given: dict[str, object] = {} if settings.dtype == "float32" else {"--dtype": settings.dtype}
    given |= {"--instances": settings.instances, "--max-batch": settings.max_batch}
    if settings.threads is not None:
        given["--threads"] = settings.threads
    if settings.max_delay:
        given["--max-delay"] = f"{settings.max_delay:g}ms"
    return [str(word) for pair in given.items() for word in pair]


def pins() -> list[str]:
    """`name==version` of what serving imports and of all that stands below, in the versions that are installed here.

    FolderError where one is not installed: its version would be anybody's guess.
    """
    found: dict[str, str] = {}
    waiting = [(name, True) for name in NEEDED]
    while waiting:
        name, needed = waiting.pop()
        name = re.sub(r"[-_.]+", "-", name).lower()
        if name in found:
            continue
        installed = _installed(name)
        if installed is None and needed:
            remedy = "pip install 'aaexport[serve]'"
            raise FolderError(broken_rule(name, "be installed, so that its version can be pinned", "none", remedy))
        if installed is None:  # of another system or Python
            continue
        found[name] = installed.version
        for requirement in installed.requires or ():
            inner = re.match(r"[A-Za-z0-9._-]+", requirement)
            if inner is not None and "extra ==" not in requirement:
                waiting.append((inner[0], False))
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def _installed(name: str) -> importlib.metadata.Distribution | None:
    """The two distributions of onnxruntime have one version, and a container without a GPU takes the small one."""
    for one in (name, f"{name}-gpu") if name == "onnxruntime" else (name,):
        try:
            return importlib.metadata.distribution(one)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def check(root: Path) -> Iterator[Check]:
    """The recipe by our own rules, by hadolint where that is installed, and the pins."""
    try:
        text = (root / CONTAINERFILE).read_text(encoding="utf-8")
        pinned = (root / REQUIREMENTS).read_text(encoding="utf-8").split()
    except (OSError, ValueError) as error:
        yield Check("container", False, str(error))
        return
    yield found("container", list(_faults(root, text)), f"user, base, health check and entry of {CONTAINERFILE}")
    loose = [f"{line} must be pinned as name==version" for line in pinned if PINNED.fullmatch(line) is None]
    yield found("versions", loose, f"{len(pinned)} packages pinned")
    yield from _linted(root)


def _faults(root: Path, text: str) -> Iterator[str]:
    lines = text.replace("\\\n", " ").splitlines()
    orders = [(words[0], words[1].strip()) for line in lines if len(words := line.split(maxsplit=1)) == 2]
    base = [value for order, value in orders if order == "FROM"]
    if len(base) != 1 or not re.fullmatch(r"\S+:\d+\.\d+\.\d+\S*", base[0]):
        yield f"FROM must name one image with its whole version, got {', '.join(base) or 'none'}"
    user = [value for order, value in orders if order == "USER"]
    if not user or user[-1] in ("root", "0"):
        yield f"USER must be another than root, got {user[-1] if user else 'none'}"
    for order in ("HEALTHCHECK", "ENTRYPOINT", "STOPSIGNAL"):
        if not any(order == there for there, _ in orders):
            yield f"{order} must be there, got none"
    for entry in (value for order, value in orders if order == "ENTRYPOINT"):
        if not entry.startswith('["aaexport", "serve"'):
            yield f"ENTRYPOINT must be a list that begins with aaexport and serve, got {entry}"
    for value in (value for order, value in orders if order == "RUN"):
        if value.count("pip install") != value.count("--no-cache-dir"):
            yield "RUN pip install must leave no cache, --no-cache-dir, got one without"
    for value in (value for order, value in orders if order == "COPY"):
        for name in [word for word in value.split() if not word.startswith("--")][:-1]:
            if not (root / name).exists():
                yield f"COPY must name what is there, got {name}"


def _linted(root: Path) -> Iterator[Check]:
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        return
    done = subprocess.run(
        [hadolint, "--no-color", "--no-fail", CONTAINERFILE], cwd=root, capture_output=True, text=True, check=False
    )
    faults = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    yield found("hadolint", faults, "nothing to complain of")


TARGET = Target(files, check)
