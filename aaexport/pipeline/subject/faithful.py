"""A module and its copies → whether they answer alike, and always alike: what no file could stand for is refused.

Everything here is judged by copies of the user's module, in float64 and in float32. So a copy is compared with the
module itself, on several images, after the module has been used: a hook may have kept something of the call before.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from aaexport.capture.at_work import trains
from aaexport.capture.draws import ANEW, first_draw, where_it_draws
from aaexport.capture.failures import TORCHSCRIPT, why_it_cannot_run
from aaexport.errors import AaexportError, ModuleError, RunnerError, first_few, first_line
from aaexport.nn.copies import copied, copied_apart
from aaexport.nn.outputs import tensors_of
from aaexport.nn.used_up import endless

SAME = 1e-5  # of the largest number: a copy runs the same kernels on the same numbers
NAMED = 3
HUGE = 1e30
INSIDE = "convert the one that you mean"
FIRST = "run it once on images of your own, and give it its weights then"
KEPT = "keep what hooks and functions hand on in attributes of the module, not in variables of a class or a file"


@dataclass(frozen=True)
class Answers:
    """What a module answers to some batches of images, and how far it moves from call to call, of the largest."""

    batches: tuple[Tensor, ...]
    outputs: tuple[Any, ...]
    moved: float


def own_copy(module: nn.Module, *, shares: bool = False) -> nn.Module:
    """A copy of somebody's module, whose weights may share the memory of its. ModuleError if there can be none."""
    require_whole(module)
    try:
        return copied(module) if shares else copied_apart(module)
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
        if trains(layer):
            what = f"{path or 'the module'} ({type(layer).__name__}) must be in evaluation mode after eval()"
            raise ModuleError(f"{what}, got training mode; is there a train() that is overridden?")


@contextmanager
def leaving_weights_alone(module: nn.Module) -> Iterator[None]:
    """ModuleError if what runs within makes parameters, or changes them: those of the file would be made up."""
    before = _weights(module)
    yield
    after = _weights(module)
    name = type(module).__name__
    if made := [path for path in after if path not in before]:
        rule = f"{name} must have all its weights before it runs"
        raise ModuleError(f"{rule}, got {first_few(made, NAMED)} made by the first images; {FIRST}")
    if changed := [path for path in after if repr(after[path]) != repr(before[path])]:
        rule = f"{name} must leave its weights alone when it runs in evaluation mode"
        raise ModuleError(f"{rule}, got others in {first_few(changed, NAMED)} after the first images; {FIRST}")


@torch.no_grad()
def why_not_the_copy(module: nn.Module, error: RunnerError, images: Tensor) -> AaexportError:
    """What is to be said of a copy that raised `error`: of the copy, if the caller's own module does run."""
    try:
        with undisturbed(module):
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
    outputs = tuple(answer(module, images) for images in batches)
    moved = _difference(outputs[0], answer(module, batches[0]))
    if moved > SAME:
        rule = "the model must answer the same images with the same output, got others the second time"
        why = _what_it_keeps(module, batches[0]) or where_it_draws(module, lambda: answer(module, batches[0]))
        raise ModuleError(f"{rule}; {why}")
    return Answers(batches, outputs, moved)


def _what_it_keeps(module: nn.Module, images: Tensor) -> str | None:
    """What it goes on from in the next call; None where it answers otherwise from the same state too."""
    answers = []
    for _ in range(2):
        with undisturbed(module):
            answers.append(answer(module, images))
    if _difference(*answers) > SAME:
        return None
    before = _kept_by(module)
    answer(module, images)
    after = _kept_by(module)
    names = [name for name in after if name not in before or not _is_as_before(before[name], after[name])]
    kept = f" ({first_few(names, NAMED)})" if names else ""
    return f"it goes on from what it kept of the call before{kept}; {ANEW}"


def _kept_by(module: nn.Module) -> dict[str, list[Any]]:
    """What every layer holds beside its parts and parameters, by name; of containers what is in them."""
    own = vars(nn.Module())
    found = {}
    for path, layer in module.named_modules():
        for name, held in {**vars(layer), **layer._buffers}.items():
            if name not in own:
                parts = _contents(held) if isinstance(held, dict | list | set | deque) else [held]
                found[f"{path}.{name}".removeprefix(".")] = [
                    part.detach().clone() if isinstance(part, Tensor) else part for part in parts
                ]
    return found


def _is_as_before(before: list[Any], after: list[Any]) -> bool:
    """Told by numbers of tensors, and of all else by identity."""
    return len(before) == len(after) and all(
        _distance(one, other) == 0 if isinstance(one, Tensor) and isinstance(other, Tensor) else one is other
        for one, other in zip(before, after, strict=True)
    )


@torch.no_grad()
def require_faithful(
    answers: Answers, module: nn.Module, copy: nn.Module, unused: nn.Module, *, wrapped: bool = False
) -> None:
    """ModuleError unless the caller's own module, which is left as it was, answers as its `copy` does.

    Args:
        answers: the copy's, on the CPU.
        module: the caller's, on any device.
        copy: without the wrappers that may be around the module and its layers.
        unused: another copy, which has not run yet.
        wrapped: whether there were any.
    """
    if wrapped and type(module).forward is nn.Module.forward:  # such a wrapper only keeps the module
        return
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    if device.type != "cpu":  # whose kernels round otherwise: both are asked there
        count, channels, height, width = answers.batches[0].shape
        answers = answers_of(copy.to(device), (channels, height, width), count)
        copy.cpu()
    name, remedy = type(module).__name__, INSIDE if wrapped else _remedy(module)
    try:
        with undisturbed(module):
            outputs = [answer(module, images) for images in answers.batches]
    except Exception as error:
        why = why_it_cannot_run(module, error)
        raise ModuleError(f"{name} must run as its copy does, but: {why}; {remedy}") from error
    if not _are_alike(answers, outputs) and (iterator := _asked_for_ever(module, answers)) is not None:
        what = f"it goes on with {iterator} where the call before ended"
        raise ModuleError(f"the answers of {name} must not depend on the calls before; {what}; {ANEW}")
    if not _are_alike(answers, outputs) and _would_answer(unused, answers, outputs):
        rule = f"the answers of {name} must not depend on which images come first"
        raise ModuleError(f"{rule}, got others after an image of zeros; {FIRST}")
    if not wrapped and not _are_alike(answers, outputs) and (drawn := _drawn_at_first(module, answers)):
        raise ModuleError(f"{name} must have all its numbers before it runs; {drawn}")
    _require_alike(answers, outputs, f"{name} without its wrappers" if wrapped else f"a copy of {name}", remedy)


def _asked_for_ever(module: nn.Module, answers: Answers) -> str | None:
    """The iterator without an end that the answers depend on, as it is told."""
    with undisturbed(module):
        return endless(module, lambda: answer(module, answers.batches[0]))


def _drawn_at_first(module: nn.Module, answers: Answers) -> str | None:
    """Where a copy draws random numbers at its first call, if that makes every copy another one."""
    outputs: list[Any] = []
    try:
        made = copied(module)
        made.eval()
        drawn = first_draw(made, lambda: outputs.append(answer(made, answers.batches[0])))
    except Exception:  # noqa: BLE001  # whatever a stranger's module raises: the cause is another one then
        return None
    return drawn if _difference(answers.outputs[0], outputs[0]) > SAME else None


def _would_answer(unused: nn.Module, answers: Answers, outputs: list[Any]) -> bool:
    """Whether a copy that has not run yet gives these outputs."""
    try:
        fresh = [answer(unused, images) for images in answers.batches]
    except Exception:  # noqa: BLE001  # whatever a stranger's module raises: the cause is another one then
        return False
    return _are_alike(Answers(answers.batches, tuple(fresh), answers.moved), outputs)


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
            f"a copy of {type(module).__name__} must run as it does itself, but: {why}; {_remedy(module)}"
        ) from error
    rest = Answers(answers.batches[1:], answers.outputs[1:], answers.moved)
    _require_alike(rest, outputs, f"a copy of {type(module).__name__}", _remedy(module))


def _remedy(module: nn.Module) -> str:
    """What may be done about copies that are something else."""
    for layer in module.modules():
        own = getattr(type(layer), "__deepcopy__", None)
        if own is not None and not (getattr(own, "__module__", None) or "torch").startswith("torch"):
            return f"let the __deepcopy__ of {type(layer).__name__} copy all that it has"
    return KEPT


def answer(module: nn.Module, images: Tensor) -> Any:
    """What it returns for a copy of the images, computed where it is; compiled code is left aside."""
    parameter = next(module.parameters(), None)
    with ExitStack() as stack:
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        return _kept(module(images.clone() if parameter is None else images.to(parameter.device, copy=True)))


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """In evaluation mode within; afterwards every layer has the mode, attributes and numbers that it had.

    Its own `train()` is not asked to go back: it may undo what was not done, as where weights are merged into others.
    """
    layers = list(module.modules())
    attributes = [(vars(layer), dict(vars(layer))) for layer in layers]
    contents = [(held, _contents(held)) for held in _containers([vars(layer) for layer in layers])]
    tensors = [(tensor, tensor.detach().clone()) for tensor in (*module.parameters(), *module.buffers())]
    try:
        module.eval()
        yield
    finally:
        for held, before in contents:
            _refill(held, before)
        for own, kept in attributes:
            own.clear()
            own.update(kept)
        for tensor, values in tensors:
            _put_back(tensor, values)


def _containers(waiting: list[Any]) -> list[Any]:
    """All dicts, lists, sets and deques that can be reached through such alone, but not the given ones."""
    found: dict[int, Any] = {}
    given = {id(held) for held in waiting}
    while waiting:
        held = waiting.pop()
        for part in held.values() if isinstance(held, dict) else held:
            if isinstance(part, dict | list | set | deque) and id(part) not in found and id(part) not in given:
                found[id(part)] = part
                waiting.append(part)
    return list(found.values())


def _contents(held: Any) -> list[Any]:
    """What it holds, of a dict keys and values by turns."""
    return [part for pair in held.items() for part in pair] if isinstance(held, dict) else list(held)


def _refill(held: Any, before: list[Any]) -> None:
    """As it was; it is told by identity, as tensors cannot be compared by `==`."""
    now = _contents(held)
    if len(now) == len(before) and all(one is other for one, other in zip(now, before, strict=True)):
        return
    held.clear()
    if isinstance(held, dict):
        held.update(zip(before[::2], before[1::2], strict=True))
    else:
        (held.update if isinstance(held, set) else held.extend)(before)


def _put_back(tensor: Tensor, values: Tensor) -> None:
    with torch.inference_mode(tensor.is_inference()), torch.no_grad():
        if tensor.shape != values.shape:
            tensor.data = values
        elif not torch.equal(tensor, values):
            tensor.copy_(values)


def _kept(output: Any) -> list[Any]:
    """Copies of the tensors in it, on the CPU, and whatever else it holds."""
    return [one.detach().cpu().clone() if isinstance(one, Tensor) else one for one in tensors_of(output)]


def _require_alike(answers: Answers, outputs: list[Any], whose: str, remedy: str) -> None:
    if not _are_alike(answers, outputs):
        worst = _worst(answers, outputs)
        told = f"{worst:.1e} of the largest beside them" if worst < HUGE else "altogether"
        raise ModuleError(f"{whose} must compute what it does itself, got outputs that are {told} off; {remedy}")


def _are_alike(answers: Answers, outputs: list[Any]) -> bool:
    return _worst(answers, outputs) <= max(SAME, 4 * answers.moved)


def _worst(answers: Answers, outputs: list[Any]) -> float:
    return max(_difference(one, other) for one, other in zip(answers.outputs, outputs, strict=True))


def _difference(one: list[Any], other: list[Any]) -> float:
    """The largest of all tensors, as a part of the largest number beside it; infinite if they cannot be compared."""
    if len(one) != len(other):
        return float("inf")
    return max((_distance(*pair) for pair in zip(one, other, strict=True)), default=0.0)


def _distance(one: Any, other: Any) -> float:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return 0.0  # what is no tensor is refused elsewhere, by name
    if one.shape != other.shape or one.dtype != other.dtype or one.layout != other.layout:
        return float("inf")
    if one.layout != torch.strided:
        one, other = one.to_dense(), other.to_dense()
    if not (one.is_floating_point() or one.is_complex()):
        return 0.0 if torch.equal(one, other) else float("inf")
    same = (one == other) | (one.isnan() & other.isnan())
    if same.all():
        return 0.0
    apart = torch.where(same, 0.0, (one - other).abs().double().nan_to_num(nan=float("inf")))
    return float((apart / _size_beside(one))[~same].max())


def _size_beside(values: Tensor) -> Tensor:
    """For every number the largest of its channel, of its column …, whichever is the smallest.

    One huge number, such as what a mask fills in, or boxes in pixels, must hide no score beside it.
    """
    size = torch.where(values.isfinite(), values.abs().double(), 0.0)
    axes = range(1, size.dim())
    along = [size.amax(tuple(set(range(size.dim())) - {axis}), keepdim=True) for axis in axes]
    return torch.stack(torch.broadcast_tensors(size.amax(), *along)).amin(0)


def _weights(module: nn.Module) -> dict[str, float]:
    """The sum of each parameter, by which a change of it is seen."""
    return {name: float(parameter.detach().sum(dtype=torch.float64)) for name, parameter in module.named_parameters()}


def _uncopyable(module: nn.Module, error: Exception) -> ModuleError:
    if isinstance(error, AaexportError):
        return ModuleError(str(error))
    cause = f"{type(error).__name__}: {first_line(error)}"
    remedy = "write a __deepcopy__ for what it holds, or make that in forward"
    return ModuleError(f"{type(module).__name__} must be copied to be judged, but: {cause}; {remedy}")
