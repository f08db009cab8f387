"""PyTorch, eager: the module itself as a runner, in its own precision or in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from aaexport.device import parse_device
from aaexport.errors import AaexportError, ProviderError, RunnerError, first_line, out_of_memory
from aaexport.nn.copies import copied, copied_apart
from aaexport.nn.outputs import tensors_of
from aaexport.runners.alive import Alive
from aaexport.runners.base import Array, Arrays, Port
from aaexport.runners.in_blocks import InBlocks
from aaexport.runners.tf32 import torch_products

# How the names of operators begin that are made of `_fft_r2c`, `_fft_c2r`, `_fft_c2c`; inference mode has them whole.
OF_TRANSFORMS = ("fft_", "stft", "istft")


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
        owns: whether the module is nobody else's, and is taken itself.
        channels_last: whether images and weights lie in memory with the channels last.
        autocast: whether torch computes in float16 what it holds for safe; answers come in float32 all the same.

    Attributes:
        block: bytes above which no tensor is to be held that is made of far smaller ones (`in_blocks`); None for
            PyTorch's own way.
        images: how many are computed at a time, where they have no part in each other's answers; None for all.
        whole: why it was computed PyTorch's own way in spite of that; None where it was not.

    Raises:
        ProviderError: torch cannot use `device` here.
    """

    block: int | None = None
    images: int | None = None
    whole: str | None = None

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
        owns: bool = False,
        channels_last: bool = False,
        autocast: bool = False,
    ) -> None:
        kind, index = parse_device(device)
        if kind == "cuda" and not torch.cuda.is_available():
            told = f"PyTorch {torch.__version__} finds no CUDA device; install a build of it for CUDA"
            raise ProviderError(f"device must be one that works here, got {device!r}: {told}")
        self.device = torch.device(kind) if kind == "cpu" else torch.device(kind, index)
        self.dtype = dtype
        self.module = module if owns else copied(module) if shares else copied_apart(module)
        self.module.eval()  # which need not return the module
        self.module.to(self.device, dtype)
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self._autocast = autocast
        if channels_last:
            self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch leaves it out
        self.output_names = output_names
        numpy_dtype = np.dtype(str(dtype).removeprefix("torch."))
        self.inputs = tuple(Port(name, numpy_dtype, (None, *input_shape)) for name in input_names)
        self._taken_apart: set[str] = set()  # names of operators, by `InBlocks`
        self._takes_fast_path = False  # which no file is made from
        self._held = ExitStack()
        if tf32 is not None:
            self._held.enter_context(torch_products(tf32))

    @property
    def label(self) -> str:
        """For people."""
        return f"PyTorch eager {self.manner}"

    @property
    def manner(self) -> str:
        """Where it computes, in which type and how."""
        ways = {"channels last": self._format == torch.channels_last, "autocast to float16": self._autocast}
        told = "".join(f", {way}" for way, taken in ways.items() if taken)
        return f"{self.device} {str(self.dtype).removeprefix('torch.')}{told}"

    def infer(self, feeds: Arrays) -> dict[str, Array]:
        """Runs the module; copying to the host waits for the device, so nothing is left to be done afterwards."""
        missing = [port.name for port in self.inputs if port.name not in feeds]
        if missing:
            raise RunnerError(f"inputs must be fed, missing {', '.join(missing)}")
        answers = [self._answers(part) for part in self._parts(feeds)]
        if len(answers) == 1:
            return answers[0]
        return {name: np.concatenate([each[name] for each in answers]) for name in answers[0]}

    def _parts(self, feeds: Arrays) -> list[Arrays]:
        """As many images as may be computed at a time."""
        count = len(feeds[self.inputs[0].name])
        step = self.images or count
        if step >= count:
            return [feeds]
        return [{name: array[n : n + step] for name, array in feeds.items()} for n in range(0, count, step)]

    @torch.inference_mode()
    def _answers(self, feeds: Arrays) -> dict[str, Array]:
        try:
            with _fast_path(on=self._takes_fast_path):
                tensors = self._outputs(feeds)
        except AaexportError:
            raise  # our layers' own complaint about the shape is the clearest there is
        # Whatever the module raises.
        except Exception as error:
            precision = str(self.dtype).removeprefix("torch.")
            raise RunnerError(f"PyTorch cannot run the module in {precision}: {_why(error)}") from error
        if len(tensors) != len(self.output_names):
            raise RunnerError(f"the module must return {len(self.output_names)} tensors, got {len(tensors)}")
        if self._autocast:
            tensors = [t.float() if t.is_floating_point() else t for t in tensors]
        return {name: t.cpu().numpy() for name, t in zip(self.output_names, tensors, strict=True)}

    def _outputs(self, feeds: Arrays) -> list[Any]:
        if self.block is None or self.whole is not None:
            return self._called(feeds)
        try:
            with InBlocks(self.block) as blocks:
                outputs = self.module(*self._arguments(feeds))
            self._taken_apart |= blocks.taken_apart
            return _finished(outputs)
        # Whatever a stranger's module does to tensors without numbers: it may run all the same.
        except Exception as error:  # noqa: BLE001
            reason = first_line(error)
        answers = self._called(feeds)
        self.whole = reason  # only now: what it refuses in either way says nothing of blocks
        return answers

    def _called(self, feeds: Arrays) -> list[Any]:
        with torch.autocast(self.device.type, torch.float16, enabled=self._autocast):
            return _finished(self.module(*self._arguments(feeds)))

    def _arguments(self, feeds: Arrays) -> list[torch.Tensor]:
        """Copies, because a module may change its input in place, and the array is the caller's."""
        if self.device.type == "cpu":
            tensors = [torch.tensor(feeds[p.name], dtype=self.dtype) for p in self.inputs]
        else:  # one copy, to the device: `torch.tensor` makes one on the host before
            arrays = (np.require(feeds[p.name], requirements=["C", "W"]) for p in self.inputs)
            tensors = [torch.from_numpy(array).to(self.device, self.dtype) for array in arrays]
        return [t.contiguous(memory_format=self._format) if t.dim() == 4 else t for t in tensors]

    def by_fast_path(self, feeds: Arrays) -> dict[str, Array] | None:
        """What comes out where torch takes its fast path through an encoder, which has zeros at padded places.

        None if it would not take one.
        """
        has_one = any(isinstance(layer, nn.TransformerEncoder) for layer in self.module.modules())
        if not has_one or not torch.backends.mha.get_fastpath_enabled():
            return None
        block, self.block, self._takes_fast_path = self.block, None, True
        try:
            return self.infer(feeds)
        finally:
            self.block, self._takes_fast_path = block, False

    def memory(self, feeds: Arrays) -> int:
        """Bytes of the tensors that are alive at most while it answers to such inputs. RunnerError as `infer`."""
        alive = Alive()
        with alive:
            self.infer(feeds)
        return alive.peak

    def with_coarse_kernels(self, feeds: Arrays, off: Mapping[str, float], sign: int) -> dict[str, Array]:
        """The outputs where every result of an operator in `off` is so much too large, or too small, or either.

        Args:
            feeds: as for `infer`.
            off: the name of an operator, as in `aten` → by how much.
            sign: 1 or −1; 0 draws one for each number.
        """
        with _Coarse(off, sign):
            return self.infer(feeds)

    def choices(self, feeds: Arrays) -> dict[str, tuple[Array, int, bool]]:
        """What outputs of positions point at: the scores, the axis, and whether the positions still have it.

        Of outputs that an operator such as topk or argmax itself gave; others are left out.
        """
        parts = [self._chosen(part) for part in self._parts(feeds)]
        names = set.intersection(*(set(part) for part in parts))
        if len(parts) > 1:  # positions along the axis of the images say nothing of those apart
            names = {name for name in names if parts[0][name][1] != 0}
        return {
            name: (np.concatenate([part[name][0] for part in parts]), *parts[0][name][1:]) for name in sorted(names)
        }

    def _chosen(self, feeds: Arrays) -> dict[str, tuple[Array, int, bool]]:
        with _Choices() as seen:
            answers = self._answers(feeds)
        found: dict[str, tuple[Array, int, bool]] = {}
        for name, answer in answers.items():
            for positions, scores, axis in seen.made:
                keeps = positions.ndim == scores.ndim
                if answer.dtype.kind == "i" and np.array_equal(positions, answer):
                    found[name] = (scores, axis, keeps)
        return found

    def operators(self, feeds: Arrays) -> frozenset[str]:
        """The names, as in `aten`, of the operators that the module calls for such inputs. RunnerError as `infer`."""
        with _Calls() as calls:
            self.infer(feeds)
        return frozenset(calls.names | self._taken_apart)

    def __enter__(self) -> TorchRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()
        del self.module


@contextmanager
def _fast_path(*, on: bool) -> Iterator[None]:
    """Whether layers of torch's own take their kernels for all of attention, which torch.export does not see."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(on)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _finished(outputs: Any) -> list[Any]:
    """Its tensors, all of them with numbers: a module may have kept some that it made in blocks."""
    tensors: list[Any] = InBlocks.finished(tensors_of(outputs))
    return tensors


def _why(error: Exception) -> str:
    """The cause, and the remedy where there is one."""
    if (wanted := out_of_memory(error)) is not None:
        return f"the memory does not hold it ({wanted}); ask for smaller images or a smaller batch"
    remedy = "; register tensors of its own with register_buffer" if "dtype" in str(error) else ""
    return first_line(error) + remedy


class _Coarse(TorchDispatchMode):
    """Moves the results of some operators, as a kernel of less accuracy would."""

    def __init__(self, off: Mapping[str, float], sign: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves its types out
        self.off, self.sign = off, sign
        self.generator = torch.Generator().manual_seed(sign % 3)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name.startswith(OF_TRANSFORMS):
            return _taken_apart(self, func, args, kwargs or {})
        result = func(*args, **(kwargs or {}))
        off = self.off.get(name.rstrip("_"))
        if off is None or not isinstance(result, torch.Tensor):
            return result
        if name.startswith("_fft"):
            given, axes, normalization = args[:3]
            return result.add_(self._drawn(result) * (off * _of_fourier(given, axes, normalization, result)))
        scale = args[0].abs() if name == "silu" else 1.0  # x · sigmoid(x)
        return result.add_(self._signs(result) * off * scale)

    def _signs(self, result: torch.Tensor) -> Any:
        """All the same, or drawn for each number; of a complex one the angle is."""
        if self.sign and not result.is_complex():
            return self.sign
        return self.sign * (1 + 1j) / 2**0.5 if self.sign else self._drawn(result)

    def _drawn(self, result: torch.Tensor) -> torch.Tensor:
        """Of a spectrum always: the same everywhere is √n times as much in one place of what it is transformed to."""
        drawn = torch.rand(result.shape, generator=self.generator).to(result.device)
        return torch.exp(2j * torch.pi * drawn) if result.is_complex() else (drawn < 0.5) * 2 - 1


def _taken_apart(mode: TorchDispatchMode, func: Any, args: Any, kwargs: Any) -> Any:
    """What a transform answers, and `mode` sees the operators that it consists of, if it consists of others."""
    with mode:
        result = func.decompose(*args, **kwargs)
    return func(*args, **kwargs) if result is NotImplemented else result


def _of_fourier(given: torch.Tensor, axes: Sequence[int], normalization: int, result: torch.Tensor) -> torch.Tensor:
    """What the error of a transform is measured by: its lengths that are no power of two · √Σ|x|², normalized.

    Half a spectrum is one that is given, or one that comes out: of both, the longer axis is whole.
    """
    lengths = [max(given.shape[axis], result.shape[axis]) for axis in axes]
    halves = any(given.shape[axis] != result.shape[axis] for axis in axes) and given.is_complex()
    norm = given.abs().square().sum(list(axes), keepdim=True).mul(1 + halves).sqrt()
    divided = (1.0, math.prod(lengths) ** -0.5, 1 / math.prod(lengths))[normalization]
    return norm * divided * sum(length for length in lengths if length & (length - 1))


class _Choices(TorchDispatchMode):
    """Keeps what operators that choose positions chose from."""

    # Operator → the place of the axis among its arguments, and whether positions are all that it gives.
    CHOOSING = (
        ("topk", 2), ("sort", 1), ("argsort", 1), ("argmax", 1), ("argmin", 1), ("max", 1), ("min", 1),
        ("kthvalue", 2), ("median", 1), ("mode", 1),
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves its types out
        self.made: list[tuple[Array, Array, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        result = func(*args, **named)
        place = dict(self.CHOOSING).get(func.overloadpacket.__name__)
        operator = func.overloadpacket.__name__
        both = isinstance(result, tuple) and len(result) == 2
        positions = result[1] if both else result if operator.startswith("arg") else None
        if place is None or not isinstance(positions, torch.Tensor) or positions.dtype != torch.int64:
            return result
        scores: torch.Tensor = args[0]
        plain = [one for one in args[1:] if isinstance(one, int) and not isinstance(one, bool)]
        of_all = operator in ("argmax", "argmin")  # unless it is told an axis
        axis = named.get("dim", plain[place - 1] if len(plain) >= place else None if of_all else -1)
        if scores.dim():
            kept = scores.detach().clone().cpu().numpy()
            if axis is None:  # a position in all of them, in a row
                kept, axis = kept.reshape(-1, *[1] * (positions.dim() - 1)), 0
            self.made.append((positions.detach().clone().cpu().numpy(), kept, axis % kept.ndim))
        return result


class _Calls(TorchDispatchMode):
    """Takes down which operators are called."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves its types out
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        if func.overloadpacket.__name__.startswith(OF_TRANSFORMS):
            return _taken_apart(self, func, args, kwargs or {})
        return func(*args, **(kwargs or {}))
