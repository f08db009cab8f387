"""A module and its copies → whether they answer alike, and always alike: what no file could stand for is refused.

Everything here is judged by copies of the user's module, in float64 and in float32. So a copy is compared with the
module itself, on several images, after the module has been used: a hook may have kept something of the call before.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parameter import is_lazy

from aaexport.capture.draws import where_it_draws
from aaexport.capture.failures import TORCHSCRIPT, why_it_cannot_run
from aaexport.errors import AaexportError, ModuleError, RunnerError, first_few, first_line
from aaexport.nn.copies import copied, copied_apart
from aaexport.nn.outputs import tensors_of

SAME = 1e-5  # of the largest number: a copy runs the same kernels on the same numbers
NAMED = 3
HUGE = 1e30
KEPT = "keep what hooks and functions hand on in attributes of the module, not in variables of a class or a file"


@dataclass(frozen=True)
class Answers:
    """What a module answers to some batches of images, and how far it moves from call to call, of the largest."""

    batches: tuple[Tensor, ...]
    outputs: tuple[Any, ...]
    moved: float


def own_copy(module: nn.Module) -> nn.Module:
    """A copy of somebody's module that shares no memory with it. ModuleError if there can be none."""
    require_whole(module)
    try:
        return copied_apart(module)
    except Exception as error:
        raise _uncopyable(module, error) from error


def require_whole(module: nn.Module) -> None:
    """ModuleError for TorchScript, and for parameters or buffers that are not there yet."""
    name = type(module).__name__
    for path, layer in module.named_modules():
        if isinstance(layer, torch.jit.ScriptModule):
            at = f"{path} ({type(layer).__name__})" if path else name
            raise ModuleError(f"{name} cannot be converted: {at}: {TORCHSCRIPT[0]}; {TORCHSCRIPT[1]}")
    state = [*module.named_parameters(), *module.named_buffers()]
    if lazy := [path for path, tensor in state if is_lazy(tensor)]:
        remedy = "run it once on an image, module(torch.zeros(1, C, H, W)), and give it its weights then"
        raise ModuleError(f"{name} must have all its weights, got none yet for {first_few(lazy, NAMED)}; {remedy}")


def require_evaluation(module: nn.Module) -> None:
    """ModuleError for a normalization or dropout that is in training mode after `eval()`."""
    for path, layer in module.named_modules():
        if layer.training and isinstance(layer, _BatchNorm | _DropoutNd) and getattr(layer, "p", 1):
            what = f"{path or 'the module'} ({type(layer).__name__}) must be in evaluation mode after eval()"
            raise ModuleError(f"{what}, got training mode; is there a train() that is overridden?")


@contextmanager
def leaving_weights_alone(module: nn.Module) -> Iterator[None]:
    """ModuleError if what runs within makes parameters, or changes them: those of the file would be made up."""
    before = _weights(module)
    yield
    after = _weights(module)
    name, remedy = type(module).__name__, "run it once on images of your own, and give it its weights then"
    if made := [path for path in after if path not in before]:
        rule = f"{name} must have all its weights before it runs"
        raise ModuleError(f"{rule}, got {first_few(made, NAMED)} made by the first images; {remedy}")
    if changed := [path for path in after if repr(after[path]) != repr(before[path])]:
        rule = f"{name} must leave its weights alone when it runs in evaluation mode"
        raise ModuleError(f"{rule}, got others in {first_few(changed, NAMED)} after the first images; {remedy}")


@torch.no_grad()
def why_not_the_copy(module: nn.Module, error: RunnerError, images: Tensor) -> AaexportError:
    """What is to be said of a copy that raised `error`: of the copy, if the caller's own module does run."""
    try:
        with undisturbed(module), torch.random.fork_rng(devices=[]):
            answer(module, images)
    except Exception:  # noqa: BLE001  # whatever a stranger's module raises: it is told of the copy already
        return error
    rule = f"a copy of {type(module).__name__} must run as it does itself"
    return ModuleError(f"{rule}, but: {str(error).partition(': ')[2]}; {KEPT}")


@torch.no_grad()
def answers_of(module: nn.Module, shape: tuple[int, int, int], batch: int) -> Answers:
    """What `module` answers to two random batches.

    Raises:
        ModuleError: it answers one of them otherwise the second time.
    """
    generator = torch.Generator().manual_seed(0)
    batches = tuple(torch.randn(batch, *shape, generator=generator) for _ in range(2))
    with torch.random.fork_rng(devices=[]):
        outputs = tuple(answer(module, images) for images in batches)
        moved = _difference(outputs[0], answer(module, batches[0]))
        if moved > SAME:
            rule = "the model must answer the same images with the same output, got others the second time"
            raise ModuleError(f"{rule}; {where_it_draws(module, lambda: answer(module, batches[0]))}")
    return Answers(batches, outputs, moved)


@torch.no_grad()
def require_faithful(answers: Answers, module: nn.Module, *, inside: bool = False) -> None:
    """ModuleError unless the caller's own module, which is left as it was, gives the `answers` of its copy.

    `inside`: they are of what was inside the module, a wrapper, which may have no forward of its own.
    """
    if inside and type(module).forward is nn.Module.forward:
        return
    with undisturbed(module), torch.random.fork_rng(devices=[]):
        outputs = [answer(module, images) for images in answers.batches]
    whose = f"the module inside {type(module).__name__}" if inside else f"a copy of {type(module).__name__}"
    _require_alike(answers, outputs, whose, "convert the one that you mean" if inside else KEPT)


@torch.no_grad()
def require_copyable(answers: Answers, module: nn.Module) -> None:
    """ModuleError unless a copy over the same weights, as files are made and judged by, answers as `module`."""
    try:
        made = copied(module)
    except Exception as error:
        raise _uncopyable(module, error) from error
    try:
        outputs = [answer(made, images) for images in answers.batches[1:]]
    except Exception as error:
        why = why_it_cannot_run(made, error)
        raise ModuleError(
            f"a copy of {type(module).__name__} must run as it does itself, but: {why}; {KEPT}"
        ) from error
    rest = Answers(answers.batches[1:], answers.outputs[1:], answers.moved)
    _require_alike(rest, outputs, f"a copy of {type(module).__name__}", KEPT)


def answer(module: nn.Module, images: Tensor) -> Any:
    """What it returns for a copy of the images, computed where it is; compiled code is left aside."""
    parameter = next(module.parameters(), None)
    with ExitStack() as stack:
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        return _kept(module(images.clone() if parameter is None else images.to(parameter.device, copy=True)))


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """In evaluation mode within; afterwards every layer has the mode, the attributes and the buffers that it had."""
    layers = list(module.modules())
    modes = [layer.training for layer in layers]
    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    attributes = [_attributes(layer) for layer in layers]
    module.eval()
    try:
        yield
    finally:
        module.train(modes[0])
        for layer, mode, held in zip(layers, modes, attributes, strict=True):
            vars(layer).clear()
            vars(layer).update(held)
            layer.training = mode
        for buffer, values in buffers:
            with torch.inference_mode(buffer.is_inference()):
                buffer.copy_(values)


def _attributes(layer: nn.Module) -> dict[str, Any]:
    """Those of a layer, and copies of the dicts that its parameters, buffers and layers are in."""
    own = {"_parameters", "_buffers", "_modules"}
    return {name: dict(value) if name in own else value for name, value in vars(layer).items()}


def _kept(output: Any) -> list[Any]:
    """Copies of the tensors in it, on the CPU, and whatever else it holds."""
    return [one.detach().cpu().clone() if isinstance(one, Tensor) else one for one in tensors_of(output)]


def _require_alike(answers: Answers, outputs: list[Any], whose: str, remedy: str) -> None:
    worst = max(_difference(one, other) for one, other in zip(answers.outputs, outputs, strict=True))
    if worst > max(SAME, 4 * answers.moved):
        rule = f"{whose} must compute what it does itself"
        raise ModuleError(f"{rule}, got outputs that are {_shown(worst)} off; {remedy}")


def _shown(difference: float) -> str:
    return f"{difference:.1e} of the largest" if difference < HUGE else "altogether"


def _difference(one: list[Any], other: list[Any]) -> float:
    """The largest of all tensors, as a part of the tensor's largest number; infinite where there is no such thing."""
    if len(one) != len(other):
        return float("inf")
    return max((_distance(*pair) for pair in zip(one, other, strict=True)), default=0.0)


def _distance(one: Any, other: Any) -> float:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return 0.0  # what is no tensor is refused elsewhere, by name
    if one.shape != other.shape or one.dtype != other.dtype:
        return float("inf")
    if not (one.is_floating_point() or one.is_complex()):
        return 0.0 if torch.equal(one, other) else float("inf")
    apart = torch.where((one == other) | (one.isnan() & other.isnan()), 0.0, (one - other).abs().double())
    scale = float(one[one.isfinite()].abs().max()) if one.isfinite().any() else 1.0
    largest = float(apart.nan_to_num(nan=float("inf")).max()) if apart.numel() else 0.0
    return largest / scale if scale else largest and float("inf")


def _weights(module: nn.Module) -> dict[str, float]:
    """The sum of each parameter, by which a change of it is seen."""
    return {name: float(parameter.detach().sum(dtype=torch.float64)) for name, parameter in module.named_parameters()}


def _uncopyable(module: nn.Module, error: Exception) -> ModuleError:
    if isinstance(error, AaexportError):
        return ModuleError(str(error))
    cause = f"{type(error).__name__}: {first_line(error)}"
    remedy = "write a __deepcopy__ for what it holds, or make that in forward"
    return ModuleError(f"{type(module).__name__} must be copied to be judged, but: {cause}; {remedy}")
