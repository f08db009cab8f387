"""(PyTorch in float32, a truth) → the truth with what a right file may do otherwise, measured on the module itself.

A kernel of known accuracy moves the outputs as far as such an error moves them in PyTorch; and of outputs that are
positions it is looked up what they point at. Neither is taken from the file, which must bring no excuse of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from aaexport.capture.input_name import INPUT_NAME
from aaexport.parity import KERNELS, Array, Scores, Truth
from aaexport.parity.finiteness import kinds
from aaexport.pipeline.verify.oracles import nudged
from aaexport.runners.base import Runner
from aaexport.runners.torch import TorchRunner

EPS = float(np.finfo(np.float32).eps)
NUDGES = 4  # times that the inputs are rounded otherwise, to see how far scores move
ANOTHER = 0.01  # of a score: one that moves further has become another, as where it is masked


class Excuses:
    """Of one module; golden vectors, which cannot be asked, give none beyond those that they remember."""

    def __init__(self, single: Runner) -> None:
        self._single = single if isinstance(single, TorchRunner) else None
        self._known: dict[int, Truth] = {}  # by the identity of their cases, which several batches have one name of
        self._operators: frozenset[str] | None = None

    def of(self, truth: Truth) -> Truth:
        """The truth with them, asked for once a case."""
        if self._single is None:
            return truth
        if (key := id(truth.case)) not in self._known:
            kernels, seen = self._kernels(truth)
            self._known[key] = replace(truth, kernels=kernels, seen=seen, scores=self._scores(truth))
        known = self._known[key]
        return replace(truth, kernels=known.kernels, scores=known.scores, seen=joined(truth.seen, known.seen))

    def operators(self, batch: Array) -> frozenset[str]:
        """Those of torch that the module calls, named as in `aten`; none where that is not known."""
        if self._operators is None:
            single = self._single
            self._operators = frozenset() if single is None else single.operators({INPUT_NAME: batch})
        return self._operators

    def _kernels(self, truth: Truth) -> tuple[dict[str, float], dict[str, Array]]:
        """How far each output moves when kernels are off by as much as is known of them: all up, all down, or either.

        And what becomes of its numbers, where some are not finite any more, or some that were not are.
        """
        assert self._single is not None
        used = self.operators(truth.case.batch)
        off = {name: units * EPS for name, (units, _) in KERNELS.items() if name in used}
        moved: dict[str, float] = {}
        seen: dict[str, Array] = {}
        for sign in (1, -1, 0) if off else ():
            answers = self._single.with_coarse_kernels({INPUT_NAME: truth.case.batch}, off, sign)
            for name, array in answers.items():
                if array.dtype.kind == "f" and array.shape == truth.baseline[name].shape:
                    moved[name] = max(moved.get(name, 0.0), _largest_apart(array, truth.baseline[name]))
                    before, after = kinds(truth.baseline[name]), kinds(array)
                    if (before != after).any() and np.isfinite(truth.case.batch).all():
                        seen[name] = seen.get(name, before) | after
        return moved, seen

    def _scores(self, truth: Truth) -> dict[str, Scores]:
        assert self._single is not None
        if not any(array.dtype.kind == "i" for array in truth.baseline.values()):
            return {}
        chosen = self._single.choices({INPUT_NAME: truth.case.batch})
        moves = {name: np.zeros(numbers.shape, numbers.dtype) for name, (numbers, _, _) in chosen.items()}
        rng = np.random.default_rng(0)
        for _ in range(NUDGES if chosen else 0):
            others = self._single.choices({INPUT_NAME: nudged(truth.case.batch, 1, rng)})
            for name in moves.keys() & others.keys():
                numbers, again = chosen[name][0], others[name][0]
                if numbers.dtype.kind == "f" and numbers.shape == again.shape:
                    moves[name] = np.maximum(moves[name], _moved(numbers, again))
        return {name: Scores(*how, moves[name]) for name, how in chosen.items()}


def joined(one: Mapping[str, Array], other: Mapping[str, Array]) -> dict[str, Array]:
    """What was `seen` of each output in either."""
    both = one.keys() & other.keys()
    return {**one, **other, **{name: one[name] | other[name] for name in both}}


def _moved(numbers: Array, again: Array) -> Array:
    """How far each number moved, but for those that became others."""
    with np.errstate(invalid="ignore", over="ignore"):  # infinity − infinity, and a mask of the least number
        apart = np.abs(numbers - again)
        same = apart <= ANOTHER * np.maximum(np.abs(numbers), np.abs(again))
    return np.asarray(np.where(same & np.isfinite(apart), apart, 0))


def _largest_apart(one: Array, other: Array) -> float:
    with np.errstate(invalid="ignore"):  # infinity − infinity
        apart = np.abs(one.astype(np.float64) - other)
    return float(apart[np.isfinite(apart)].max(initial=0.0))
