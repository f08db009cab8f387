"""What every target makes and finds: files by their paths, and checks by their names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from aaexport.deployment.settings import DeploySettings
from aaexport.errors import DeploymentError, FolderError, broken_rule, parameter
from aaexport.serving.facts import ModelFacts
from aaexport.serving.repository import Files

README = "README.md"
BESIDE = 256  # MiB: of the server, and of a session of a small model


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: `found` says what was seen, or what is wrong."""

    name: str
    passed: bool
    found: str


@dataclass(frozen=True)
class Target:
    """Where a model is deployed to.

    Attributes:
        files: what is written, by paths in the artefact's folder; None where that takes more than a model's facts.
        check: what lies in such a folder → what is found there; it never raises for what it finds.
    """

    files: Callable[[ModelFacts, DeploySettings], Files] | None
    check: Callable[[Path], Iterator[Check]]


def found(name: str, faults: list[str], seen: str) -> Check:
    """A check that lists its faults, or says what it saw where there are none."""
    return Check(name, not faults, "; ".join(faults) if faults else seen)


def require_golden(facts: ModelFacts, what_for: str) -> None:
    """FolderError where nobody knows an answer of the model's."""
    if not facts.golden:
        remedy = "train it, or convert its module again, which writes golden.safetensors"
        raise FolderError(broken_rule("model", f"have golden vectors for {what_for}", "none", remedy))


def require_memory(memory: int, shared: int) -> None:
    """DeploymentError if a container of so many MiB has no room beside so many for tensors, which count as its."""
    if memory < shared + BESIDE:
        rule = f"be at least {shared + BESIDE} MiB, of which {shared} are for the tensors of whole batches"
        raise DeploymentError(broken_rule("memory", rule, memory, f"or give a smaller {parameter('max_batch')}"))


def readme(system: str, facts: ModelFacts, port: int, first: str, then: str) -> str:
    """What a folder says of itself in five lines: what it is, and how it comes to run there, in two."""
    model = f"It holds `{facts.name}`; the SHA-256 of its ONNX file is `{facts.onnx_sha256}`."
    proof = (
        f"`aaexport verify MODEL --url http://127.0.0.1:{port}` proves what answers; `aaexport deploy --check .` "
        "tells whether this folder is as it was written, and fit for its use."
    )
    return "\n\n".join((f"# {facts.name} for {system}", model, first, then, proof)) + "\n"
