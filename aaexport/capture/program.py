"""nn.Module → torch.export.ExportedProgram, with a dynamic batch or a fixed one."""

from __future__ import annotations

import builtins
import gc
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy.typing as npt
import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import ConstantArgument

from aaexport.capture.failures import quiet_torch, ties_the_batch, why_it_cannot_be_captured
from aaexport.capture.heads import give_heads
from aaexport.capture.limits import fault_of
from aaexport.errors import AaexportError, ArgumentError, ExportError, RunnerError, broken_rule, first_line
from aaexport.nn.outputs import Flattened, without_flattening
from aaexport.recipe import Batch

Array = npt.NDArray[Any]
# Of a dynamic batch torch.export sees one example: two images, because it takes sizes 0 and 1 for constants.
EXAMPLE_BATCH = 2


def export_program(module: nn.Module, input_shape: tuple[int, int, int], batch: Batch) -> ExportedProgram:
    """Captures `module` for inputs (batch, *input_shape) of its own floating type.

    The module is captured in the mode it is in: call `module.eval()` first.

    Raises:
        ArgumentError: `batch` is neither 'dynamic' nor a number above 0, or the module refuses the shape.
        ExportError: torch.export cannot capture the module, or it returns something else than tensors; the text
            names the layer, the line of its source and the remedy.
    """
    if batch != "dynamic" and not (isinstance(batch, int) and batch >= 1):
        raise ArgumentError(broken_rule("batch", "be 'dynamic' or at least 1", batch))
    theirs = without_flattening(module)
    name = type(theirs).__name__
    parameter = next(module.parameters(), torch.empty(0))
    size = EXAMPLE_BATCH if batch == "dynamic" else batch
    shapes = ({0: Dim("batch")} if batch == "dynamic" else None,)
    example = torch.zeros(size, *input_shape, dtype=parameter.dtype, device=parameter.device)

    def capture() -> ExportedProgram:
        with torch.no_grad(), without_gradients(module), warnings.catch_warnings():
            # What hooks keep of one call for its end: whether it reaches another call is seen by running the file.
            warnings.filterwarnings("ignore", "The tensor attributes? .* assigned during export", UserWarning)
            return torch.export.export(module, (example.clone(),), dynamic_shapes=shapes)

    @torch.no_grad()
    def run() -> object:
        return module(example.clone())

    try:
        with quiet_torch():
            program = _captured(capture)
    except AaexportError:
        raise  # our layers' own complaint about the shape is clearer than any summary of it
    # torch.export raises whatever the module or its own passes raise: there is no common base.
    except Exception as error:
        with quiet_torch():
            why = why_it_cannot_be_captured(theirs, error, run, capture)
        raise ExportError(f"torch.export cannot capture {name}: {why}") from error
    _require_tensors(program, name)
    give_heads(program)
    if (fault := fault_of(program, "" if theirs is module else Flattened.INSIDE)) is not None:
        raise ExportError(f"{name} cannot be written as ONNX: {fault}")
    return program


def _captured(capture: Callable[[], ExportedProgram]) -> ExportedProgram:
    """What `capture` gives; where it ties the batch to the example, once more with lengths that are sizes."""
    try:
        return capture()
    except Exception as error:
        if not ties_the_batch(error):
            raise
        try:
            with _lengths_as_sizes():
                return capture()
        except Exception:  # noqa: BLE001  # len(…) was not the cause, or not the only one: the first error tells
            raise error from None


@contextmanager
def _lengths_as_sizes() -> Iterator[None]:
    """`len(x)` of a tensor is x.shape[0], as everywhere else; Python alone would make a number of a dynamic size."""
    plain = builtins.len

    def length(held: Any) -> Any:
        return held.shape[0] if isinstance(held, torch.Tensor) and held.dim() else plain(held)

    builtins.len = length
    try:
        yield
    finally:
        builtins.len = plain


@contextmanager
def without_gradients(module: nn.Module) -> Iterator[None]:
    """No parameter requires a gradient: a module that switches gradients on may then still modify views in place."""
    wanting = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in wanting:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanting:
            parameter.requires_grad_(True)


def _require_tensors(program: ExportedProgram, name: str) -> None:
    """torch.export takes numbers and strings for constants, with which the conversion to ONNX fails."""
    outputs = [output.arg for output in program.graph_signature.output_specs]
    constants = {type(output.value).__name__ for output in outputs if isinstance(output, ConstantArgument)}
    if others := sorted(constants - {"NoneType"}):
        remedy = "return a tensor, or a tuple, list or dict of tensors"
        raise ExportError(f"{name} must return tensors, got {' and '.join(others)} too; {remedy}")


def load_tracing() -> None:
    """Loads what the first capture would: for who sets aside for the garbage collector what was loaded."""
    import torch._dynamo.config
    import torch.export._trace  # noqa: F401  with what torch.export.export loads by itself


@contextmanager
def fast_tracing() -> Iterator[None]:
    """Takes a fifth off the time of tracing and converting; changes nothing in the result.

    Tracing makes millions of small objects that live to its end: looking through them for garbage finds none.
    Every operator is traced a few times only, so torch's cache of traced results costs more than it saves.
    """
    collecting = gc.isenabled()
    gc.disable()  # before the import too, which makes as many that stay
    try:
        import torch._dynamo.config as tracing

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
