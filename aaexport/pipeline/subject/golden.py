"""What a module answered when it was converted ↔ golden.safetensors, by which its file is judged without it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from aaexport.capture.input_name import INPUT_NAME
from aaexport.errors import FolderError, broken_rule
from aaexport.parity import Array, Case, Scores, Truth
from aaexport.runners.golden import GoldenRunner

SCHEMA = "aaexport.golden/1"
MOST_BYTES = 2**26  # of inputs and answers together: a folder is not to be filled with feature maps


@dataclass(frozen=True)
class Golden:
    """Cases with their truths, and the digest of the weights that gave them.

    `origin` is what else they depend on, where a reader asks for that.
    """

    truths: tuple[Truth, ...]
    weights_digest: str
    warnings: tuple[str, ...] = ()  # of the conversion, on what the truths are worth
    origin: Mapping[str, str] = field(default_factory=dict)

    @property
    def cases(self) -> Iterator[Case]:
        """What was asked."""
        return (truth.case for truth in self.truths)

    @property
    def images(self) -> Array:
        """Every image whose pixels are finite, (N, C, H, W)."""
        return np.concatenate([case.batch for case in self.cases if np.isfinite(case.batch).all()])

    def cases_of(self, batch: int | None) -> Iterator[Case]:
        """Those for a file that takes that many images, put together anew where nothing else was asked; None: any."""
        found = [case for case in self.cases if batch in (None, len(case.batch))]
        if not found and batch is not None:
            images = self.images
            found = [Case(f"random, batch {batch}", images[np.arange(batch) % len(images)], made_up=True)]
        yield from found

    def runners(self, input_shape: tuple[int, int, int]) -> tuple[GoldenRunner, GoldenRunner]:
        """What answers as the module did in float64, and in float32."""
        exact = [(truth.case.batch, truth.expected) for truth in self.truths]
        single = [(truth.case.batch, truth.baseline) for truth in self.truths]
        return GoldenRunner(INPUT_NAME, input_shape, exact), GoldenRunner(INPUT_NAME, input_shape, single)


def worth_keeping(truths: Iterable[Truth]) -> tuple[Truth, ...]:
    """Those by which a file can be judged without the module, smallest first, as many as `MOST_BYTES` hold.

    Numbers that are far too large, or all equal, are left out: whether a difference there is a fault is found out by
    asking the module again, with its inputs nudged.
    """
    steady = [truth for truth in truths if truth.case.kind != "extreme" and not truth.case.degenerate]
    kept: list[Truth] = []
    held = 0
    for truth in sorted(steady, key=_bytes):
        held += _bytes(truth)
        if kept and held > MOST_BYTES:
            break
        kept.append(truth)
    return tuple(kept)


def write_golden(golden: Golden, path: Path) -> None:
    """Writes golden.safetensors, atomically."""
    import torch  # whoever has truths to keep has asked it for them; who reads them need not load it

    from aaexport.weights.safetensors import write_tensors

    arrays: dict[str, Array] = {}
    for number, truth in enumerate(golden.truths):
        arrays[f"{number}.input"] = truth.case.batch
        for name, array in truth.expected.items():
            arrays[f"{number}.expected.{name}"] = array
            arrays[f"{number}.baseline.{name}"] = truth.baseline[name]
        for name, scores in truth.scores.items():
            arrays[f"{number}.scores.{name}"] = scores.numbers
            if scores.moves is not None:
                arrays[f"{number}.moves.{name}"] = scores.moves
        for name, seen in truth.seen.items():
            arrays[f"{number}.seen.{name}"] = seen
    cases = [_case_json(truth) for truth in golden.truths]
    about = {"schema": SCHEMA, "cases": json.dumps(cases), "weights_digest": golden.weights_digest}
    about["warnings"] = json.dumps(golden.warnings)
    if golden.origin:
        about["origin"] = json.dumps(dict(golden.origin))
    # numpy makes a row of a scalar
    tensors = {n: torch.from_numpy(np.ascontiguousarray(a)).reshape(a.shape) for n, a in arrays.items()}
    write_tensors(tensors, path, about)


def read_golden(path: Path) -> Golden:
    """Reads what `write_golden` wrote.

    Raises:
        FolderError: it is not there, not whole, or of another kind.
    """
    remedy = "convert the module again"
    if not path.is_file():
        raise FolderError(f"{path} must be there to judge a file without its module; {remedy}, or give --module")
    try:
        with safe_open(path, framework="np") as file:
            about = file.metadata() or {}
            if about.get("schema") != SCHEMA:
                raise FolderError(broken_rule(str(path), f"have the schema {SCHEMA}", about.get("schema"), remedy))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  it is no dict
        truths = tuple(_truth(n, case, tensors) for n, case in enumerate(json.loads(about["cases"])))
        origin = json.loads(about.get("origin", "{}"))
        return Golden(truths, about["weights_digest"], tuple(json.loads(about["warnings"])), origin)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise FolderError(f"{path} must be a whole file of golden vectors, but: {error}; {remedy}") from error


def _case_json(truth: Truth) -> dict[str, Any]:
    """What is said of a case beside its tensors; what few cases have, only of those."""
    case = truth.case
    about: dict[str, Any] = {"name": case.name, "kind": case.kind, "made_up": case.made_up}
    if truth.kernels:
        about["kernels"] = dict(truth.kernels)
    if truth.scores:
        about["scores"] = {name: [scores.axis, scores.keeps] for name, scores in truth.scores.items()}
    return about


def _truth(number: int, case: dict[str, Any], tensors: dict[str, Array]) -> Truth:
    def side(which: str) -> dict[str, Array]:
        prefix = f"{number}.{which}."
        return {key.removeprefix(prefix): array for key, array in tensors.items() if key.startswith(prefix)}

    batch = tensors[f"{number}.input"]
    asked = Case(case["name"], batch, case["kind"], made_up=case["made_up"])
    numbers, moves = side("scores"), side("moves")
    scores = {
        name: Scores(numbers[name], axis, keeps, moves.get(name))
        for name, (axis, keeps) in case.get("scores", {}).items()
    }
    kernels, seen = case.get("kernels", {}), side("seen")
    return Truth(asked, side("expected"), side("baseline"), kernels=kernels, scores=scores, seen=seen)


def _bytes(truth: Truth) -> int:
    scores = (array for one in truth.scores.values() for array in (one.numbers, one.moves) if array is not None)
    answers = (*truth.expected.values(), *truth.baseline.values(), *scores, *truth.seen.values())
    return truth.case.batch.nbytes + sum(array.nbytes for array in answers)
