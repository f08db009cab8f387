"""nn.Module → torch.export.ExportedProgram, with a dynamic batch or a fixed one."""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy.typing as npt
import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from aaexport.errors import (
    AaexportError,
    ArgumentError,
    ExportError,
    RunnerError,
    broken_rule,
    first_line,
    root_cause,
)

Array = npt.NDArray[Any]
Batch = int | Literal["dynamic"]
INPUT_NAME = "input"
# Of a dynamic batch torch.export sees one example: two images, because it takes sizes 0 and 1 for constants.
EXAMPLE_BATCH = 2


def export_program(module: nn.Module, input_shape: tuple[int, int, int], batch: Batch) -> ExportedProgram:
    """Captures `module` for inputs (batch, *input_shape) of its own floating type.

    The module is captured in the mode it is in: call `module.eval()` first.

    Raises:
        ArgumentError: `batch` is neither 'dynamic' nor a number above 0, or the module refuses the shape.
        ExportError: torch.export cannot capture the module; the text holds its first line.
    """
    if batch != "dynamic" and not (isinstance(batch, int) and batch >= 1):
        raise ArgumentError(broken_rule("batch", "be 'dynamic' or at least 1", batch))
    parameter = next(module.parameters(), torch.empty(0))
    size = EXAMPLE_BATCH if batch == "dynamic" else batch
    shapes = ({0: Dim("batch")} if batch == "dynamic" else None,)
    try:
        example = torch.zeros(size, *input_shape, dtype=parameter.dtype, device=parameter.device)
        with torch.no_grad():
            return torch.export.export(module, (example,), dynamic_shapes=shapes)
    except AaexportError:
        raise  # our layers' own complaint about the shape is clearer than any summary of it
    # torch.export raises whatever the module or its own passes raise: there is no common base.
    except Exception as error:
        cause = root_cause(error)
        if "Constraints violated (batch)" in cause:
            cause = "it works for one batch size only; export that one with --batch N"
        raise ExportError(f"torch.export cannot capture {type(module).__name__}: {cause}") from error


@contextmanager
def fast_tracing() -> Iterator[None]:
    """Takes a fifth off the time of tracing and converting; changes nothing in the result.

    Tracing makes millions of small objects that live to its end: looking through them for garbage finds none.
    Every operator is traced a few times only, so torch's cache of traced results costs more than it saves.
    """
    import torch._dynamo.config as tracing

    collecting = gc.isenabled()
    gc.disable()
    try:
        with tracing.patch(fake_tensor_cache_enabled=False):
            yield
    finally:
        if collecting:
            gc.enable()


def output_nodes(program: ExportedProgram) -> tuple[str, ...]:
    """The names of the nodes of its graph that are its outputs."""
    return tuple(output.arg.name for output in program.graph_signature.output_specs)


@torch.no_grad()
def tensors_inside(program: ExportedProgram, images: Array, names: Collection[str]) -> dict[str, Array]:
    """Runs the program on `images` and returns the tensors that the nodes `names` of its graph compute.

    Raises:
        RunnerError: PyTorch cannot run it on these images.
    """
    recorder = _Recorder(program.module(), frozenset(names))
    try:
        recorder.run(torch.from_numpy(images))
    # Whatever the module's operators raise.
    except Exception as error:
        raise RunnerError(f"PyTorch cannot run the traced module: {first_line(error)}") from error
    return recorder.recorded


class _Recorder(torch.fx.Interpreter):
    """Keeps copies of what the wanted nodes compute; the rest is freed as soon as nobody needs it."""

    def __init__(self, module: torch.fx.GraphModule, wanted: frozenset[str]) -> None:
        super().__init__(module)
        self.wanted = wanted
        self.recorded: dict[str, Array] = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        """As the base class, and keeps the result if it is wanted."""
        result = super().run_node(n)
        if n.name in self.wanted and isinstance(result, torch.Tensor):
            self.recorded[n.name] = result.numpy().copy()
        return result
