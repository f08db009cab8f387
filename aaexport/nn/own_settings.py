"""Whatever torch has been set to → what our own tensors are made under: float32 on the CPU, with gradients as usual.

`torch.set_default_dtype`, `torch.set_default_device`, `with torch.device(…)`, `torch.inference_mode`,
`torch.no_grad` and `torch.autocast` are the caller's; inputs that we draw, networks that we build and answers that we
compare must not change with them. Nor do the caller's random numbers go on by what modules draw meanwhile.

torch counts the cores of the whole machine for its threads; where the process may use fewer, it gets as many.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch

from aaexport.cores import default_threads

CPU = torch.device("cpu")
ASKED_FOR = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # the user's own word on torch's threads


@contextmanager
def own_settings() -> Iterator[None]:
    """The block, or the function that this decorates, runs as in a fresh process; the caller's settings come back."""
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    with ExitStack() as held:
        _keep_randomness(held)
        held.enter_context(torch.inference_mode(False))
        held.enter_context(torch.enable_grad())
        for kind in {"cpu", "cuda", device.type} - {"meta"}:
            if torch.is_autocast_enabled(kind):
                held.enter_context(torch.autocast(kind, enabled=False))
        if device != CPU:
            held.enter_context(CPU)
        held.callback(torch.set_default_dtype, dtype)
        torch.set_default_dtype(torch.float32)
        most = _most_threads()
        if most is not None:
            held.enter_context(torch_threads(most))
        yield


def _keep_randomness(held: ExitStack) -> None:
    """The generators of torch, numpy and Python are as they were when `held` ends."""
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    held.enter_context(torch.random.fork_rng(devices=list(gpus)))
    held.callback(np.random.set_state, np.random.get_state())  # the global one, which modules draw from
    held.callback(random.setstate, random.getstate())


def _most_threads() -> int | None:
    """Where torch has more threads than the process may use cores, and nobody asked for them: as many as those."""
    usable = default_threads()
    if usable is None or usable >= torch.get_num_threads() or any(name in os.environ for name in ASKED_FOR):
        return None
    return usable


@contextmanager
def settings_kept() -> Iterator[None]:
    """What the block sets of torch's defaults, such as the user's module while it is imported, ends with it."""
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:
            torch.set_default_device(None if device == CPU else device)


@contextmanager
def torch_threads(number: int | None) -> Iterator[None]:
    """The block computes on the CPU in so many threads; None leaves their number as it is."""
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
