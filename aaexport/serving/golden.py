"""golden.safetensors → questions with their answers, read without PyTorch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aaexport.errors import FolderError
from aaexport.runners.base import Array

MOST_QUERIES = 8  # the smallest: a watchdog asks them every few seconds
MOST_BYTES = 2**22  # of the inputs of all of them


@dataclass(frozen=True, eq=False)
class Query:
    """Inputs by name, and what PyTorch answered in float32; their first dimension is the batch."""

    name: str
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]

    @property
    def batch(self) -> int:
        """Images in it."""
        return len(next(iter(self.inputs.values())))

    @property
    def is_by_image(self) -> bool:
        """Whether every output has an entry for each image."""
        return all(array.ndim and len(array) == self.batch for array in self.outputs.values())

    def at_batch(self, batch: int) -> Query | None:
        """Its images repeated or left out until there are so many; None where an answer is of the whole batch."""
        if self.batch == batch:
            return self
        return self.rows([number % self.batch for number in range(batch)]) if self.is_by_image else None

    def rows(self, rows: Sequence[int]) -> Query:
        """Of these images; only where every output has an entry for each."""
        chosen = np.asarray(rows)
        inputs = {name: array[chosen] for name, array in self.inputs.items()}
        return Query(self.name, inputs, {name: array[chosen] for name, array in self.outputs.items()})


def parts(queries: Sequence[Query], most: int | None) -> Iterator[Query]:
    """The questions, each cut into batches of at most `most` where its answers can be."""
    for query in queries:
        if most is None or query.batch <= most or not query.is_by_image:
            yield query
            continue
        for begin in range(0, query.batch, most):
            yield query.rows(range(begin, min(begin + most, query.batch)))


def golden_queries(path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> tuple[Query, ...]:
    """The questions of a golden.safetensors of either kind, smallest first; none if there is no such file.

    Training writes inputs and outputs by their names; the conversion of a module writes numbered cases, of which
    those are taken whose numbers are all finite. `inputs` and `outputs` are the ONNX file's names.

    Raises:
        FolderError: it is not whole.
    """
    if not path.is_file():
        return ()
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            about = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  it is no dict
        cases = json.loads(about["cases"]) if "cases" in about else None
        asked = [_plain(tensors, inputs, outputs)] if cases is None else _numbered(tensors, cases, inputs, outputs)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise FolderError(f"{path} must be a whole file of golden vectors, but: {error}; convert anew") from error
    return _least([query for query in asked if query is not None])


def _plain(tensors: Mapping[str, Array], inputs: Sequence[str], outputs: Sequence[str]) -> Query | None:
    return _query("golden vectors", {name: tensors.get(name) for name in inputs}, tensors, outputs)


def _numbered(
    tensors: Mapping[str, Array], cases: Sequence[Mapping[str, Any]], inputs: Sequence[str], outputs: Sequence[str]
) -> list[Query | None]:
    found = []
    for number, case in enumerate(cases):
        prefix = f"{number}.baseline."
        answers = {key.removeprefix(prefix): array for key, array in tensors.items() if key.startswith(prefix)}
        # A module that was brought along has one input.
        asked = {name: tensors.get(f"{number}.input") for name in inputs}
        found.append(_query(str(case["name"]), asked, answers, outputs))
    return found


def _query(
    name: str, asked: Mapping[str, Array | None], answers: Mapping[str, Array], outputs: Sequence[str]
) -> Query | None:
    """None where an input, every output or a finite number is missing."""
    known = {output: answers[output] for output in outputs if output in answers}
    whole = {key: array for key, array in asked.items() if array is not None}
    if len(whole) < len(asked) or not known:
        return None
    finite = all(np.isfinite(array).all() for array in (*whole.values(), *known.values()))
    return Query(name, whole, known) if finite else None


def _least(queries: Sequence[Query]) -> tuple[Query, ...]:
    def size(query: Query) -> int:
        return sum(array.nbytes for array in query.inputs.values())

    kept: list[Query] = []
    held = 0
    for query in sorted(queries, key=size)[:MOST_QUERIES]:
        held += size(query)
        if kept and held > MOST_BYTES:
            break
        kept.append(query)
    return tuple(kept)
