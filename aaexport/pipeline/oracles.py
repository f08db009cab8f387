"""Subject → what says which outputs are right: the definition in float64, and PyTorch's own float32 beside it."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from aaexport.parity import Array
from aaexport.pipeline.subject import Subject, with_decomposition
from aaexport.program import INPUT_NAME
from aaexport.runners.base import Arrays, Port, Runner
from aaexport.runners.torch import TorchRunner

NUDGE = 4  # units in the last place of each input, where float32 is all there is


def oracles(subject: Subject) -> tuple[Runner, Runner]:
    """What computes in float64, and what in float32.

    Of our own networks that is the paper's decomposition, in float32 too: a fault in another one, exported or not,
    must not pass for PyTorch's own error. Somebody else's module is run untouched; where it is not there, its golden
    vectors answer.
    """
    if subject.golden is not None:
        return subject.golden.runners(subject.input_shape)
    if subject.original is None:
        module = with_decomposition(subject.module, "skew")
        return torch_runner(subject, module, torch.float64), torch_runner(subject, module, torch.float32)
    exact = torch_runner(subject, subject.original, torch.float64)
    single = torch_runner(subject, subject.original, torch.float32)
    return exact, single


def torch_runner(subject: Subject, module: nn.Module, dtype: torch.dtype) -> TorchRunner:
    """The module, which is the subject's or a variant of it, with the subject's outputs."""
    names = ((INPUT_NAME,), subject.output_names)
    return TorchRunner(subject.runnable(module), *names, input_shape=subject.input_shape, dtype=dtype)


def in_float32_only(single: Runner) -> tuple[Runner, Runner]:
    """As `oracles`, where float32 is the best there is."""
    return single, Nudged(single)


class Nudged:
    """A runner whose inputs are rounded once more: how far its answers move is what its own rounding is worth.

    That stands for the error in float32 of a module that does not run in float64, and so has no better definition
    than itself.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    @property
    def label(self) -> str:
        """For people."""
        return f"{self._runner.label}, inputs nudged"

    @property
    def inputs(self) -> tuple[Port, ...]:
        """Those of the runner."""
        return self._runner.inputs

    def infer(self, feeds: Arrays) -> dict[str, Array]:
        """What comes out for inputs that are a few units in the last place off."""
        rng, eps = np.random.default_rng(0), np.finfo(np.float32).eps
        nudged = {}
        for name, array in feeds.items():
            signs = rng.choice([-NUDGE, NUDGE], array.shape).astype(np.float32)
            with np.errstate(invalid="ignore"):  # infinity stays what it is, or becomes NaN: spoilt either way
                nudged[name] = array + signs * eps * np.abs(array)
        return self._runner.infer(nudged)

    def __enter__(self) -> Nudged:
        return self

    def __exit__(self, *_: object) -> None:
        """The runner is its owner's."""
