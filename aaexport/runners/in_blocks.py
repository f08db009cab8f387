"""PyTorch's operators as a module calls them → the same numbers without any tensor that is far larger than what it is
made of: attention in blocks of queries, whoever wrote it.

A product of queries and keys, or a sum that broadcasts small terms, is not computed when it is called for. It stands
there as how it is computed, and so does whatever is made of it number by number, by another view, or by a softmax.
Where something small is made of it again, as of weights and values, that is computed for some rows at a time
(`by_rows`). All else is computed as PyTorch does it: an operator that is not known here is given whole tensors.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_iter, tree_map_only

from aaexport.runners.by_rows import KNOWN, PRODUCTS, VIEWS, Made, Unfit, aten, bytes_of, computed, turned_once

LARGER = 2  # times as large as all that it is made of: what is worth not to be held
OUTER = 4  # a product of tokens with tokens has so many times more of them than each has features
# They read numbers as they lie in memory, whatever the axes.
OF_MEMORY = (aten.as_strided.default, aten.as_strided_copy.default, aten._reshape_alias.default)


class NotInBlocksError(Exception):
    """Something is written into that was to be read later."""


class _Later(Tensor):
    """A tensor without numbers, that is known by how it is computed.

    A module may keep it for another time, when there are no blocks: then its numbers are computed.
    """

    made: Made
    blocks: InBlocks
    aliases: weakref.WeakValueDictionary[int, _Later]
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # as torch's own do

    @staticmethod
    def __new__(cls, made: Made, blocks: InBlocks, device: torch.device) -> _Later:
        like = made.like
        return torch.Tensor._make_wrapper_subclass(
            cls, like.size(), strides=like.stride(), dtype=like.dtype, device=device
        )

    def __init__(self, made: Made, blocks: InBlocks, device: torch.device) -> None:
        self.made = made
        self.blocks = blocks
        self.aliases = weakref.WeakValueDictionary({id(self): self})

    @property
    def data(self) -> Tensor:
        """As of a tensor. NotInBlocksError if it is to have the memory of another, which no operator tells."""
        return self.detach()

    @data.setter
    def data(self, other: Tensor) -> None:
        raise NotInBlocksError("what was to be computed later is to have another tensor's memory")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        kwargs = kwargs or {}
        if func in OF_MEMORY or any(isinstance(one, _Later) for one in _written_by(func, args, kwargs)):
            raise NotInBlocksError(f"{func} reads or writes the memory of what was to be computed later")
        return func(*InBlocks.finished(args), **InBlocks.finished(kwargs))


_waiting: weakref.WeakValueDictionary[int, _Later] = weakref.WeakValueDictionary()  # all that there are


class InBlocks(TorchDispatchMode):
    """Within it no tensor above `most` bytes is held that is made of far smaller ones, where that can be.

    Attributes:
        whole: bytes of the largest tensor that had to be held whole although it was to be computed later.
        taken_apart: names, as in `aten`, of the operators in whose place those were called that they are made of.
    """

    def __init__(self, most: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves its types out
        self.most = most
        self.whole = 0
        self.taken_apart: set[str] = set()
        self._fast: list[bool] = []  # it is entered again within itself

    def __enter__(self) -> InBlocks:
        # Layers of torch's own have a kernel for all of attention, which has the whole map inside.
        self._fast.append(torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        torch.backends.mha.set_fastpath_enabled(self._fast.pop())
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    @staticmethod
    def finished(outputs: Any) -> Any:
        """What a module returned, or calls an operator with, with the numbers of all tensors in it."""
        return tree_map_only(_Later, lambda later: later.blocks._held(later.made), outputs)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        later = [one for one in tree_iter((args, kwargs)) if isinstance(one, _Later)]
        if func is aten._fused_sdp_choice.default and later:
            return 0  # by products and a softmax: the others want the whole mask
        if func not in KNOWN and func._can_decompose():
            self.taken_apart.add(func.overloadpacket.__name__)
            with self:
                return func.decompose(*args, **kwargs)
        if func._schema.is_mutable:
            return self._written(func, args, kwargs)
        if func in OF_MEMORY and any(self._held(one.made).stride() != one.stride() for one in later):
            raise NotInBlocksError(f"{func} reads the memory of what was to be computed later")
        made = self._made(func, args, kwargs, later)
        if made is None:
            return func(*self.finished(args), **self.finished(kwargs))
        return self._put_off(made, args) if bytes_of(made) > self.most else self._computed(made)

    def _made(self, func: Any, args: Any, kwargs: Any, later: Sequence[_Later]) -> Made | None:
        """How the result is computed from its rows; None where nothing is known, or gained."""
        if func not in KNOWN and torch.Tag.pointwise not in func.tags:
            return None
        if [str(one.type) for one in func._schema.returns] != ["Tensor"]:
            return None
        if func is aten._to_copy.default and kwargs.keys() - {"dtype", "memory_format", "non_blocking"}:
            return None
        if not later and not self._is_far_larger(func, args, kwargs):
            return None
        return turned_once(_as_made(func, args, kwargs))

    def _is_far_larger(self, func: Any, args: Any, kwargs: Any) -> bool:
        """Whether it makes a tensor above `most` of far smaller ones.

        Products of which one factor is a layer's weights are left to PyTorch.
        """
        tensors = [one for one in tree_iter((args, kwargs)) if isinstance(one, Tensor)]
        if func in PRODUCTS:
            one, other = tensors[-2:]
            if one.dim() == 2 and OUTER * one.shape[1] >= min(len(one), other.shape[1]):
                return False
            numbers = one.shape[:-1].numel() * other.shape[-1]
        elif func in KNOWN or not tensors:
            return False
        else:
            numbers = math.prod(torch.broadcast_shapes(*(one.shape for one in tensors)))
        size = numbers * max(one.element_size() for one in tensors)
        return size > max(self.most, LARGER * sum(bytes_of(one) for one in tensors))

    def _put_off(self, made: Made, args: Any) -> _Later:
        devices = {part.device for part in made.all() if isinstance(part, Tensor) and part.dim()}
        later = _Later(made, self, devices.pop() if len(devices) == 1 else torch.device("cpu"))
        if made.operator in VIEWS and isinstance(args[0], _Later):
            later.aliases = args[0].aliases
            later.aliases[id(later)] = later
        _waiting[id(later)] = later
        return later

    def _written(self, func: Any, args: Any, kwargs: Any) -> Any:
        """An operator that writes into one of its arguments."""
        target = args[0] if args else None
        written = _written_by(func, args, kwargs)
        if not any(isinstance(one, _Later) for one in written):
            self._require_unread(written)
            return func(*self.finished(args), **self.finished(kwargs))
        plain = _without_writing(func)
        is_plain = plain is not None and torch.Tag.pointwise in plain.tags
        if not is_plain or not isinstance(target, _Later) or len(target.aliases) > 1 or _is_there(target.made):
            raise NotInBlocksError(f"{func} writes into what was to be computed later")
        made = _as_made(plain, args, kwargs)
        if made.like.shape != target.shape:
            raise NotInBlocksError(f"{func} writes {tuple(made.like.shape)} into {tuple(target.shape)}")
        if made.like.dtype != target.dtype:
            made = Made(aten._to_copy.default, (made,), {"dtype": target.dtype}, made.like.to(target.dtype))
        target.made = made
        return target

    def _require_unread(self, written: Iterable[Tensor]) -> None:
        places = {_place(one) for one in written}
        for later in list(_waiting.values()) if places else ():
            if any(isinstance(one, Tensor) and _place(one) in places for one in later.made.all()):
                raise NotInBlocksError("something is written into that is to be read later")

    def _held(self, made: Made) -> Tensor:
        """All its numbers, by which it is known from now on."""
        if made.numbers is None:
            if made.operator in VIEWS:  # of the same memory, as PyTorch has it
                source, *rest = made.args
                made.numbers = made.operator(self._held(source) if isinstance(source, Made) else source, *rest)
            else:
                self.whole = max(self.whole, bytes_of(made))
                made.numbers = self._computed(made)
            made.args, made.kwargs = (), {}  # which nobody asks for any more
        return made.numbers

    def _computed(self, made: Made) -> Tensor:
        try:
            return computed(made, self.most)
        except Unfit as unfit:
            largest = max(bytes_of(one) for one in made.all())
            small = [one for one in unfit.causes if one.numbers is None and LARGER * bytes_of(one) < largest]
            if small and small[0] is not made:
                self._held(small[0])
                return self._computed(made)
            args, kwargs = tree_map_only(Made, self._held, (made.args, made.kwargs))
            result: Tensor = made.operator(*args, **kwargs)
            return result


def _is_there(made: Made) -> bool:
    """Whether it is a tensor with numbers, or a view of one, which others may see."""
    while made.numbers is None:
        if made.operator not in VIEWS:
            return False
        if isinstance(made.args[0], Tensor):
            return True
        made = made.args[0]
    return True


def _written_by(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors into which the operator writes."""
    arguments = {argument.name: argument for argument in func._schema.arguments}
    given = dict(zip(arguments, args, strict=False)) | kwargs
    writes = (value for name, value in given.items() if (info := arguments[name].alias_info) and info.is_write)
    return [one for one in tree_iter(list(writes)) if isinstance(one, Tensor)]


def _as_made(operator: Any, args: Any, kwargs: Any) -> Made:
    like = _shaped(operator, args, kwargs)
    args, kwargs = tree_map_only(_Later, lambda later: later.made, (args, kwargs))
    return Made(operator, args, kwargs, like)


def _shaped(operator: Any, args: Any, kwargs: Any) -> Tensor:
    """What it gives, without numbers; whoever watches what operators do is not told of it."""
    with _disable_current_modes():
        args, kwargs = tree_map_only(Tensor, _like, (args, kwargs))
        like: Tensor = operator(*args, **kwargs)
        return like


def _like(tensor: Tensor) -> Tensor:
    """Of the same shape, strides and type, without numbers."""
    if isinstance(tensor, _Later):
        return tensor.made.like
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _without_writing(operator: Any) -> Any:
    """`add` for `add_`; None where there is no such."""
    name = operator.overloadpacket.__name__
    packet = getattr(aten, name.removesuffix("_"), None) if name.endswith("_") else None
    return getattr(packet, operator._overloadname, None)


def _place(tensor: Tensor) -> int:
    place: int = tensor.untyped_storage()._cdata
    return place
