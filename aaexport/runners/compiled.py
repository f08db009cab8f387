"""PyTorch, compiled: an eager runner whose module is what `torch.compile` makes of it."""

from __future__ import annotations

from types import TracebackType
from typing import Any, cast

import torch
from torch import nn
from torch._dynamo.exc import TorchDynamoException

from aaexport.errors import RunnerError, first_line
from aaexport.runners.base import Array, Arrays
from aaexport.runners.torch import TorchRunner


class CompiledRunner:
    """Compiled as one graph: a part that stayed eager would not be seen in a latency.

    `mode` is one of `torch.compile`, such as `max-autotune`; None for its default. The first query of a shape
    compiles; it takes seconds to minutes, and a C++ compiler.
    """

    def __init__(self, eager: TorchRunner, mode: str | None = None) -> None:
        self.eager, self.mode = eager, mode
        options: Any = {} if mode is None else {"mode": mode}
        eager.module = cast(nn.Module, torch.compile(eager.module, fullgraph=True, **options))
        self.inputs = eager.inputs

    @property
    def label(self) -> str:
        """For people."""
        mode = "" if self.mode is None else f" {self.mode}"
        return f"torch.compile{mode} {self.eager.manner}"

    def infer(self, feeds: Arrays) -> dict[str, Array]:
        """Runs the module, and compiles it before if it must. RunnerError if there is nothing to compile with."""
        try:
            return self.eager.infer(feeds)
        except RunnerError as error:
            cause = error.__cause__
            if not isinstance(cause, TorchDynamoException):
                raise
            what = first_line(cause)
            remedy = "install one such as g++, or " if "C++ compiler" in what or "C compiler" in what else ""
            remedy += "leave compile out of the comparison"
            raise RunnerError(f"torch.compile must compile the network, but: {what}; {remedy}") from error

    def __enter__(self) -> CompiledRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.eager.__exit__(kind, error, trace)
