"""A module that answers the same images otherwise each time → where it draws random numbers, in one line."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from aaexport.capture.failures import Place, newly_made, place_of
from aaexport.nn.used_up import endless

ONCE = "make it once, in __init__"
DRAWN_ONCE = "draw them once, in __init__, as a parameter or buffer"
ANEW = "begin every call anew, as a file keeps nothing"
IN_EVALUATION = "is there a dropout that does not know of evaluation, or other randomness?"


def where_it_draws(module: nn.Module, run: Callable[[], object]) -> str:
    """The layer and the line that draw first, what they draw, and the remedy.

    Numbers that are not PyTorch's are told by the first layer whose output is another the second time.
    """
    with _Draws(module) as draws:
        run()
    if draws.place is not None:
        if draws.made is not None:
            what = f"it makes a new {draws.made} at every call, with new random weights; {ONCE}"
        else:
            what = f"it draws new random numbers at every call ({draws.operator}); {_remedy(draws.operator)}"
        return f"{draws.place}: {what}"
    if (iterator := endless(module, run)) is not None:
        return f"it goes on with {iterator} where the call before ended; {ANEW}"
    layer = _first_that_changes(module, run)
    return IN_EVALUATION if layer is None else f"{layer} answers otherwise each time; {IN_EVALUATION}"


def first_draw(module: nn.Module, run: Callable[[], object]) -> str | None:
    """The same for what a module draws at its first call and keeps; None where it draws nothing."""
    with _Draws(module) as draws:
        run()
    if draws.place is None:
        return None
    what = f"it draws random numbers ({draws.operator})" if draws.made is None else f"it makes a new {draws.made}"
    return f"{draws.place}: {what} at its first call; {DRAWN_ONCE if draws.made is None else ONCE}"


def _remedy(operator: str) -> str:
    if "dropout" in operator or operator.startswith("bernoulli"):
        return "give a dropout training=self.training, so that it knows of evaluation"
    return DRAWN_ONCE


class _Draws(TorchDispatchMode):
    """Looks at who is running when the first random number is drawn."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves its types out
        self.module = module
        self.place: Place | None = None
        self.made: str | None = None
        self.operator = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.place is None and torch.Tag.nondeterministic_seeded in func.tags:
            frames = list(traceback.walk_stack(sys._getframe(1)))[::-1]
            self.place = place_of(self.module, frames)
            self.made = newly_made(self.module, frames)
            self.operator = func.overloadpacket.__name__
        return func(*args, **(kwargs or {}))


def _first_that_changes(module: nn.Module, run: Callable[[], object]) -> str | None:
    """`path (Class)` of the first layer to answer that answers otherwise when all is run again."""
    answers: list[list[tuple[str, Tensor]]] = []
    names: dict[nn.Module, str] = {
        layer: f"{path} ({type(layer).__name__})" for path, layer in module.named_modules() if path
    }

    def note(layer: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            answers[-1].append((names[layer], output.detach().clone()))

    hooks = [layer.register_forward_hook(note) for layer in names]
    try:
        for _ in range(2):
            answers.append([])
            run()
    finally:
        for hook in hooks:
            hook.remove()
    for (name, one), (_, other) in zip(answers[0], answers[1], strict=False):
        if one.shape != other.shape or not torch.equal(one.nan_to_num(), other.nan_to_num()):
            return name
    return None
