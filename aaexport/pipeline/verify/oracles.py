"""Subject → what says which outputs are right: the definition in float64, and PyTorch's own float32 beside it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import nn

from aaexport.capture.input_name import INPUT_NAME
from aaexport.nn.memory import BYTES_IN_FLOAT64, require_memory, require_memory_for_weights
from aaexport.parity import Array
from aaexport.pipeline.subject.subject import Subject, with_decomposition
from aaexport.runners.base import Arrays, Port, Runner
from aaexport.runners.torch import TorchRunner

NUDGE = 4  # units in the last place of each input, where float32 is all there is


def oracles(subject: Subject) -> tuple[Callable[[], Runner], Runner]:
    """What opens the one that computes in float64, and the one that computes in float32.

    Of our own networks that is the paper's decomposition, in float32 too: a fault in another one, exported or not,
    must not pass for PyTorch's own error. Somebody else's module is run untouched; where it is not there, its golden
    vectors answer.
    """
    if subject.golden is not None:
        exact, single = subject.golden.runners(subject.input_shape)
        return lambda: exact, single
    own = with_decomposition(subject.module, "skew") if subject.original is None else None
    module = subject.original if own is None else own
    assert module is not None
    of_module = partial(torch_runner, subject, module)
    return partial(of_module, torch.float64), of_module(torch.float32, owns=own is not None)


def require_memory_for_float64(subject: Subject) -> None:
    """ArgumentError if the memory does not hold the weights, or one image's attention, as the definition has them."""
    require_memory(subject.module, subject.input_shape, bytes_a_number=BYTES_IN_FLOAT64)
    require_memory_for_weights(subject.module)


class Rebuilt:
    """A runner that is opened when it is asked, and again if it is asked after it was released."""

    def __init__(self, open_runner: Callable[[], Runner]) -> None:
        self._open = open_runner
        self._runner: Runner | None = None

    def infer(self, feeds: Arrays) -> dict[str, Array]:
        """The runner's outputs."""
        if self._runner is None:
            self._runner = self._open()
        return self._runner.infer(feeds)

    def release(self) -> None:
        """Lets go of what the runner holds."""
        self._runner = None


def torch_runner(subject: Subject, module: nn.Module, dtype: torch.dtype, *, owns: bool = False) -> TorchRunner:
    """The module, which is the subject's or a variant of it, with the subject's outputs; `owns` as of TorchRunner."""
    names = ((INPUT_NAME,), subject.output_names)
    shape = subject.input_shape
    return TorchRunner(subject.runnable(module), *names, input_shape=shape, dtype=dtype, shares=True, owns=owns)


def in_float32_only(single: Runner) -> tuple[Runner, Runner]:
    """As `oracles`, where float32 is the best there is."""
    return single, Nudged(single)


def nudged(array: Array, units: int, rng: np.random.Generator, scale: float | None = None) -> Array:
    """Every number `units` in the last place off, up or down: of its own size, or of `scale`."""
    signs = rng.choice([-units, units], array.shape).astype(np.float32)
    size = np.abs(array) if scale is None else np.float32(scale)
    with np.errstate(invalid="ignore"):  # infinity stays what it is, or becomes NaN: not finite either way
        moved: Array = array + signs * np.finfo(np.float32).eps * size
    return moved


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
        rng = np.random.default_rng(0)
        return self._runner.infer({name: nudged(array, NUDGE, rng) for name, array in feeds.items()})

    def __enter__(self) -> Nudged:
        return self

    def __exit__(self, *_: object) -> None:
        """The runner is its owner's."""
