"""Copies of a module that can be set and moved apart from it, and take no second memory for its parameters.

`copy.deepcopy` takes functions for values: a hook or a forward whose closure holds parts of the module goes on with
the original's in the copy, and so do weak references. And it gives up at one lock, open file or tensor that was
computed, however little they have to do with what the module computes. The copies made here have functions over
their own parts, and share what nobody can copy. Whether a copy computes the same is seen by running it
(`aaexport.pipeline.subject.faithful`).
"""

from __future__ import annotations

import copy
import functools
import types
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from aaexport.nn.used_up import instead_of, is_used_up

Memo = dict[int, Any]
PLAIN = (type(None), bool, int, float, complex, str, bytes, type, torch.dtype, torch.device, torch.Size)


def copied(module: nn.Module) -> nn.Module:
    """A copy of `module` with parameters of its own over the memory of the given ones, and its own buffers.

    What is set on it, or where it is moved to, does not reach the given module; writing into a parameter would.
    """
    return copied_by(module, shared_parameters(module))


def copied_apart(module: nn.Module) -> nn.Module:
    """A copy of `module` that shares no memory with it."""
    return copied_by(module, uncopyable(module))


def seen_through(module: nn.Module) -> nn.Module:
    """A copy of `module` with its very parameters and buffers: what is loaded into one is loaded into both."""
    tensors = (*module.parameters(), *module.buffers())
    return copied_by(module, uncopyable(module) | {id(tensor): tensor for tensor in tensors})


def copied_by(module: nn.Module, memo: Memo) -> nn.Module:
    """A copy of `module` in which whatever has its id in `memo` is replaced by what stands there.

    Layers are copied also where their own `__deepcopy__` gives the layer itself back.
    """
    given = dict(memo)
    made: nn.Module = copy.deepcopy(module, memo)
    layers = {id(layer) for layer in module.modules()}
    if kept := [layer for layer in made.modules() if id(layer) in layers]:
        memo.clear()
        memo.update(given)
        blank = {id(layer): type(layer).__new__(type(layer)) for layer in kept}
        memo.update(blank)
        for layer in kept:
            state = {name: value for name, value in vars(layer).items() if name != "_compiled_call_impl"}
            vars(blank[id(layer)]).update(copy.deepcopy(state, memo))
        made = copy.deepcopy(module, memo)
    return _Mender(memo).mended(made) if memo.get(id(module)) is made else made


def shared_parameters(module: nn.Module) -> Memo:
    """A memo for `copied_by`, by which copies have their own parameters over the memory of the given ones.

    Their own, because `to` and `requires_grad_` would reach the given module through shared ones.
    """
    memo = uncopyable(module)
    for parameter in module.parameters():
        if type(parameter) is nn.Parameter and id(parameter) not in memo:
            memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
    return memo


def uncopyable(module: nn.Module) -> Memo:
    """What `copy.deepcopy` refuses of all that the module holds, by id → what a copy has instead.

    Tensors that were computed, or made in inference mode, become plain ones of the same numbers; locks, files and
    Python modules are shared; of iterators nothing can be taken (`used_up`).
    """
    memo: Memo = {}
    for held in held_by(module):
        if isinstance(held, Tensor):
            if not held.is_leaf or held.is_inference():
                memo[id(held)] = _plain(held)
        elif is_used_up(held):
            memo[id(held)] = instead_of(held, module)
        elif not _can_be_copied(held):
            memo[id(held)] = held
    return memo


def _plain(tensor: Tensor) -> Tensor:
    """The same numbers, in a tensor that can be copied, traced and given gradients."""
    with torch.inference_mode(False):
        values = tensor.detach().clone()
    return nn.Parameter(values, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else values


def _can_be_copied(held: Any) -> bool:
    if isinstance(held, (types.ModuleType, weakref.WeakMethod, *weakref.ProxyTypes)):
        return False
    if isinstance(held, CONTAINERS) or hasattr(type(held), "__deepcopy__"):
        return True
    try:
        held.__reduce_ex__(4)
    except Exception:  # noqa: BLE001  # whatever an object of a stranger's raises where it cannot be taken apart
        return False
    return True


FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, functools.partial)
CONTAINERS = (nn.Module, dict, list, tuple, set, frozenset, deque, weakref.ref, *FUNCTIONS)


def held_by(root: Any) -> Iterator[Any]:
    """Everything that can be reached from `root` but by weak references, each once; itself too."""
    seen: dict[int, Any] = {}
    waiting = [root]
    while waiting:
        held = waiting.pop()
        if isinstance(held, PLAIN) or id(held) in seen:
            continue
        seen[id(held)] = held
        yield held
        waiting.extend(_parts(held))


def _parts(held: Any) -> list[Any]:
    """What an object holds directly."""
    if isinstance(held, dict):
        return [*held.keys(), *held.values(), *_attributes(held).values()]
    if isinstance(held, list | tuple | set | frozenset | deque):
        return [*held, *_attributes(held).values()]
    if isinstance(held, types.FunctionType):
        defaults = (*(held.__defaults__ or ()), *(held.__kwdefaults__ or {}).values())
        return [*_in_cells(held), *defaults, *vars(held).values()]
    if isinstance(held, types.MethodType):
        return [held.__self__, held.__func__]
    if isinstance(held, functools.partial):
        return [held.func, *held.args, *held.keywords.values()]
    if isinstance(held, types.BuiltinFunctionType):
        return [held.__self__]  # `list.append` of a list; a module's own functions have the module there
    if isinstance(held, (Tensor, types.ModuleType, weakref.ref, *weakref.ProxyTypes)):
        return []
    return list(_attributes(held).values())


def _attributes(held: Any) -> dict[str, Any]:
    """Those of its own, in `__dict__` or in slots."""
    if isinstance(held, type):
        return {}
    names = [name for kind in type(held).__mro__ for name in _slots(kind)]
    found = {name: getattr(held, name) for name in names if hasattr(held, name)}
    own = getattr(held, "__dict__", None)
    return found | (dict(own) if isinstance(own, dict) else {})


def _slots(kind: type) -> tuple[str, ...]:
    named = vars(kind).get("__slots__", ())
    names = (named,) if isinstance(named, str) else tuple(named)
    return tuple(name for name in names if name not in ("__dict__", "__weakref__") and not name.startswith("__"))


def _in_cells(function: types.FunctionType) -> list[Any]:
    """What its closure holds; a variable that is not set yet holds nothing."""
    found = []
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:
            continue
    return found


class _Mender:
    """Goes through a copy and makes functions and weak references that still hold the original's parts anew."""

    def __init__(self, memo: Memo) -> None:
        self._memo = memo
        self._known: dict[int, tuple[Any, Any]] = {}  # with the object itself, which keeps its id from being reused
        self._cells: dict[int, tuple[Any, Any]] = {}
        self._made_ids: set[int] = set()
        self._made_of = 0  # entries of the memo that `_made_ids` is of

    def mended(self, held: Any) -> Any:
        """`held`, changed in place where that can be, or what stands for it in the copy."""
        if isinstance(held, (*PLAIN, Tensor, types.ModuleType)):
            return held
        if id(held) not in self._known:
            self._known[id(held)] = (held, held)  # for what holds itself
            self._known[id(held)] = (held, self._mended(held))
        return self._known[id(held)][1]

    def _mended(self, held: Any) -> Any:
        if isinstance(held, types.FunctionType):
            return self._function(held) if self._holds_originals(held) else held
        if isinstance(held, types.MethodType):
            return types.MethodType(self.mended(held.__func__), self._own(held.__self__))
        if isinstance(held, types.BuiltinFunctionType):
            own = self._own(held.__self__)
            return held if own is held.__self__ else getattr(own, held.__name__)
        if isinstance(held, weakref.WeakMethod):
            method = held()
            if method is None:
                return held
            return weakref.WeakMethod(types.MethodType(method.__func__, self._own(method.__self__)))
        if type(held) is functools.partial:
            arguments = [self.mended(one) for one in held.args]
            return functools.partial(
                self.mended(held.func), *arguments, **{name: self.mended(one) for name, one in held.keywords.items()}
            )
        if type(held) is weakref.ref:
            own = self._memo.get(id(held()))
            return held if own is None else weakref.ref(own)
        if isinstance(held, tuple):
            parts = [self.mended(one) for one in held]
            if all(new is old for new, old in zip(parts, held, strict=True)):
                return held
            return type(held)(*parts) if hasattr(held, "_fields") else type(held)(parts)
        self._in_place(held)
        return held

    def _own(self, held: Any) -> Any:
        """What the copy has for something of the original's, or what stands for it if it is the copy's."""
        own = self._memo.get(id(held))
        return self.mended(held) if own is None else own

    def _in_place(self, held: Any) -> None:
        """Of what was made for the copy alone; whatever else there is may be anybody's, and stays as it is."""
        if self._memo.get(id(held)) is held or id(held) not in self._made():
            return
        if isinstance(held, dict):
            for name, value in list(held.items()):
                if (new := self.mended(value)) is not value:
                    held[name] = new
        elif isinstance(held, list | deque):
            for index, value in enumerate(list(held)):
                if (new := self.mended(value)) is not value:
                    held[index] = new
        elif isinstance(held, set):
            parts = [self.mended(value) for value in held]
            held.clear()
            held.update(parts)
        for name, value in _attributes(held).items():
            if (new := self.mended(value)) is value:
                continue
            if name in getattr(held, "__dict__", ()):
                held.__dict__[name] = new
            else:
                object.__setattr__(held, name, new)

    def _made(self) -> set[int]:
        """The ids of all that was copied; copies of functions add to it."""
        if self._made_of != len(self._memo):
            self._made_of = len(self._memo)
            self._made_ids = {id(made) for made in self._memo.values()}
        return self._made_ids

    def _function(self, old: types.FunctionType) -> types.FunctionType:
        cells = tuple(self._cell(cell) for cell in old.__closure__ or ())
        new = types.FunctionType(old.__code__, old.__globals__, old.__name__, None, cells)
        self._known[id(old)] = (old, new)  # before its cells are filled: it may hold itself
        self._known[id(new)] = (new, new)
        for name in functools.WRAPPER_ASSIGNMENTS:
            setattr(new, name, getattr(old, name))
        vars(new).update(self._copied(vars(old)))
        new.__defaults__ = self._copied(old.__defaults__)
        new.__kwdefaults__ = self._copied(old.__kwdefaults__)
        for before, cell in zip(old.__closure__ or (), cells, strict=True):
            self._fill(before, cell)
        return new

    def _cell(self, old: types.CellType) -> types.CellType:
        """Functions of one scope share its variables, and so do their copies."""
        if id(old) not in self._cells:
            self._cells[id(old)] = (old, types.CellType())
        return self._cells[id(old)][1]  # type: ignore[no-any-return]

    def _fill(self, old: types.CellType, new: types.CellType) -> None:
        try:
            new.cell_contents  # noqa: B018  # raises where nothing is in it yet
        except ValueError:
            try:
                new.cell_contents = self._copied(old.cell_contents)
            except ValueError:  # the variable is not set yet
                return

    def _copied(self, held: Any) -> Any:
        return self.mended(copy.deepcopy(held, self._memo))

    def _holds_originals(self, function: types.FunctionType) -> bool:
        """Whether it reaches anything that the copy has its own of."""
        reached = (held() if isinstance(held, weakref.ref) else held for held in held_by(function))
        return any(self._memo.get(id(held), held) is not held for held in reached)
