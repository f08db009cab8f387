"""PyTorch, eager: the module itself as a runner, in its own precision or in float64."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from aaexport.device import parse_device
from aaexport.errors import AaexportError, ProviderError, RunnerError, first_line, out_of_memory
from aaexport.nn.copies import copied, copied_apart
from aaexport.runners.base import Array, Arrays, Port
from aaexport.runners.tf32 import torch_products


class TorchRunner:
    """A copy of a module in evaluation mode.

    Args:
        module: is not changed.
        input_names, output_names: of its arguments and of what it returns, in their order.
        input_shape: (channels, height, width).
        dtype: what it computes in.
        device: `cpu`, `cuda` or `cuda:N`.
        tf32: on CUDA, whether float32 products may be computed in TF32, until the runner is left; None leaves torch's
            own defaults, which are not onnxruntime's.
        shares: whether the copy may read the memory of the module's parameters, which nobody then may write.

    Raises:
        ProviderError: torch cannot use `device` here.
    """

    def __init__(
        self,
        module: nn.Module,
        input_names: tuple[str, ...],
        output_names: tuple[str, ...],
        *,
        input_shape: tuple[int, int, int],
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        tf32: bool | None = None,
        shares: bool = False,
    ) -> None:
        kind, index = parse_device(device)
        if kind == "cuda" and not torch.cuda.is_available():
            raise ProviderError(f"device must be one that works here, got {device!r}: torch finds no CUDA device")
        self.device = torch.device(kind) if kind == "cpu" else torch.device(kind, index)
        self.dtype = dtype
        self.module = (copied(module) if shares else copied_apart(module)).eval().to(self.device, dtype)
        self.output_names = output_names
        numpy_dtype = np.dtype(str(dtype).removeprefix("torch."))
        self.inputs = tuple(Port(name, numpy_dtype, (None, *input_shape)) for name in input_names)
        self._held = ExitStack()
        if tf32 is not None:
            self._held.enter_context(torch_products(tf32))

    @property
    def label(self) -> str:
        """For people."""
        return f"PyTorch eager {self.device} {str(self.dtype).removeprefix('torch.')}"

    @torch.inference_mode()
    def infer(self, feeds: Arrays) -> dict[str, Array]:
        """Runs the module; copying to the host waits for the device, so nothing is left to be done afterwards."""
        missing = [port.name for port in self.inputs if port.name not in feeds]
        if missing:
            raise RunnerError(f"inputs must be fed, missing {', '.join(missing)}")
        # Copies, because a module may change its input in place, and the array is the caller's.
        arguments = [torch.tensor(feeds[p.name], dtype=self.dtype, device=self.device) for p in self.inputs]
        try:
            outputs = self.module(*arguments)
        except AaexportError:
            raise  # our layers' own complaint about the shape is the clearest there is
        # Whatever the module raises.
        except Exception as error:
            precision = str(self.dtype).removeprefix("torch.")
            raise RunnerError(f"PyTorch cannot run the module in {precision}: {_why(error)}") from error
        tensors = list(outputs.values()) if isinstance(outputs, dict) else outputs
        tensors = tensors if isinstance(tensors, list | tuple) else [tensors]
        if len(tensors) != len(self.output_names):
            raise RunnerError(f"the module must return {len(self.output_names)} tensors, got {len(tensors)}")
        return {name: t.cpu().numpy() for name, t in zip(self.output_names, tensors, strict=True)}

    def operators(self, feeds: Arrays) -> frozenset[str]:
        """The names, as in `aten`, of the operators that the module calls for such inputs. RunnerError as `infer`."""
        with _Calls() as calls:
            self.infer(feeds)
        return frozenset(calls.names)

    def __enter__(self) -> TorchRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()
        del self.module


def _why(error: Exception) -> str:
    """The cause, and the remedy where there is one."""
    if (wanted := out_of_memory(error)) is not None:
        return f"the memory does not hold it ({wanted}); ask for smaller images or a smaller batch"
    remedy = "; register tensors of its own with register_buffer" if "dtype" in str(error) else ""
    return first_line(error) + remedy


class _Calls(TorchDispatchMode):
    """Takes down which operators are called."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves its types out
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))
