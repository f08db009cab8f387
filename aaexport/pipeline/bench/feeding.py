"""Samples in a file → what a runner is fed, query by query; and whether its answers are the expected ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aaexport.errors import ArgumentError, broken_rule
from aaexport.runners.base import Array, Port

Answer = Mapping[str, Array]
MOST_KEPT = 256
ANSWERS_AGREE = 1e-2  # of the largest output: TF32 passes, another model does not


class Feeder:
    """Samples by input, in the order of the runner's inputs where their names differ.

    Raises:
        ArgumentError: the runner takes another number of inputs.
    """

    def __init__(self, path: Path, ports: Sequence[Port], *, batched: bool) -> None:
        read = np.load(path, allow_pickle=False)
        arrays: dict[str, Array] = {ports[0].name: read} if isinstance(read, np.ndarray) else dict(read)
        if len(arrays) != len(ports):
            wanted = f"take the {len(arrays)} inputs {', '.join(arrays)}"
            raise ArgumentError(broken_rule("the model", wanted, f"{len(ports)}: {', '.join(p.name for p in ports)}"))
        names = [port.name for port in ports]
        if set(arrays) != set(names):  # another file of the same network may call them otherwise
            arrays = dict(zip(names, arrays.values(), strict=True))
        # Images are kept in float32, and a file in float16 may take them so.
        self.arrays = {port.name: _as_taken(arrays[port.name], port.dtype) for port in ports}
        self.batched = batched

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def feeds(self, samples: Sequence[int]) -> dict[str, Array]:
        """Of one batch; where samples are not stacked, of the one sample. Numbers beyond the last begin again."""
        numbers = np.asarray(samples) % len(self)
        if not self.batched:
            (number,) = numbers
            return {name: array[number, ...] for name, array in self.arrays.items()}
        return {name: np.ascontiguousarray(array[numbers]) for name, array in self.arrays.items()}

    def of_query(self, number: int, batch: int) -> tuple[int, ...]:
        """The samples of the n-th query of a closed loop."""
        return tuple((number * batch + place) % len(self) for place in range(batch))


@dataclass
class Checker:
    """Compares answers with `expected`, by output: entry n is the answer to sample n.

    An answer to a sample without an expected one is not compared.
    """

    expected: Mapping[str, Array]
    batched: bool = True  # whether an answer to several samples has an entry for each; else there is one sample
    checked: int = 0
    wrong: int = 0
    largest_error: float = 0.0

    @classmethod
    def read(cls, path: Path, *, batched: bool) -> Checker:
        """From a .npz that `bench_worker` wrote."""
        return cls(dict(np.load(path, allow_pickle=False)), batched)

    def worth_keeping(self, memory: int) -> int:
        """How many samples' answers are kept for a check, in so many bytes; 0 if there is nothing to compare."""
        count = min((len(array) for array in self.expected.values()), default=0)
        each = sum(array.nbytes for array in self.expected.values()) // max(count, 1)
        return min(MOST_KEPT, memory // max(each, 1)) if count else 0

    def check(self, kept: Iterable[tuple[Sequence[int], Answer | Sequence[Answer | None]]]) -> None:
        """Adds answers, each with its samples: one for all of them, or one for each that is to be compared."""
        known = min((len(array) for array in self.expected.values()), default=0)
        for samples, answer in kept:
            apart = [answer] if isinstance(answer, Mapping) and not self.batched else answer
            if isinstance(apart, Mapping):
                told, whole = list(samples), apart
            else:
                told = [number for number, one in zip(samples, apart, strict=True) if one is not None]
                whole = _stacked([one for one in apart if one is not None])
            if told and all(number < known for number in told):
                error = max(self._error(name, told, whole) for name in self.expected)
                self.checked += 1
                self.wrong += not error <= ANSWERS_AGREE
                self.largest_error = max(self.largest_error, error)

    def take_result(self) -> dict[str, Any]:
        """For the parent, and counts from 0 again. JSON has no infinity: its text stands for it."""
        error = self.largest_error if np.isfinite(self.largest_error) else "Infinity"
        result = {"checked": self.checked, "wrong": self.wrong, "error": error}
        self.checked, self.wrong, self.largest_error = 0, 0, 0.0
        return result

    def _error(self, name: str, samples: list[int], answer: Answer) -> float:
        return relative_error(answer.get(name), self.expected[name][samples])


def _as_taken(array: Array, dtype: np.dtype[Any]) -> Array:
    """Fractions in the type that a port takes them in; all else as it is."""
    return array.astype(dtype, copy=False) if array.dtype.kind == dtype.kind == "f" else array


def _stacked(answers: Sequence[Answer]) -> Answer:
    return {name: np.stack([answer[name] for answer in answers]) for name in answers[0]} if answers else {}


def relative_error(actual: Array | None, expected: Array) -> float:
    """The largest difference ÷ the largest expected number; infinite where they cannot be compared."""
    if actual is None or actual.shape != expected.shape:
        return float("inf")
    largest = max(float(np.abs(expected).max(initial=0)), 1e-6)
    error = np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max(initial=0) / largest
    return float(error) if np.isfinite(error) else float("inf")


def disagreement(path: Path, expected: Path) -> float:
    """The largest difference of two files of answers ÷ the largest expected number, over all outputs."""
    pairs = paired(path, expected)
    if pairs is None:
        return float("inf")
    return max((relative_error(answer, truth) for answer, truth in pairs.values()), default=0.0)


def paired(path: Path, expected: Path) -> dict[str, tuple[Array, Array]] | None:
    """Of two files of answers those to each expected output, by its name; None where the first has fewer outputs.

    Over the samples that both have: how many fit the memory depends on the outputs alone.
    """
    with np.load(path) as answers, np.load(expected) as truths:
        names = list(truths) if set(answers) >= set(truths) else list(answers)  # another file may call them otherwise
        if len(names) < len(truths):
            return None
        found = {}
        for wanted, name in zip(truths, names, strict=False):
            answer, truth = answers[name], truths[wanted]
            count = min(len(answer), len(truth))
            found[wanted] = (answer[:count], truth[:count])
        return found
