"""How a tensor is computed, as a tree of operators → its numbers, by as many rows at a time as the memory holds.

The rows of a tensor are what its first axes count, so many of them as hold a given number of places together. They
keep their order in whatever view is made of it; rows of a sum or a softmax come of the same rows of its terms, and
rows of a product of rows of its first factor. Where that is not so, `Unfit` is raised: fewer and larger rows, as
those of one matrix each, may do.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_iter, tree_map_only

aten = torch.ops.aten
Shape = tuple[int, ...]
PRODUCTS = (aten.bmm.default, aten.baddbmm.default, aten.mm.default, aten.addmm.default)
SAME_ORDER = (
    aten.view.default, aten._unsafe_view.default, aten.unsqueeze.default,
    aten.squeeze.dim, aten.squeeze.dims, aten.squeeze.default, aten.alias.default, aten.detach.default,
)  # fmt: skip
TURNED = (aten.permute.default, aten.transpose.int, aten.t.default)
VIEWS = (*SAME_ORDER, *TURNED, aten.expand.default)
COPIES = (aten.clone.default, aten._to_copy.default)
SOFTMAXES = (aten._softmax.default, aten._log_softmax.default, aten._safe_softmax.default)
REDUCTIONS = (aten.sum.dim_IntList, aten.mean.dim, aten.amax.default, aten.amin.default, aten.logsumexp.default)
KNOWN = (*PRODUCTS, *VIEWS, *COPIES, *SOFTMAXES, *REDUCTIONS)  # beside what works number by number


class Unfit(Exception):  # noqa: N818  it is no error: other rows may do
    """Rows of this kind say nothing of rows of what they are made of.

    Attributes:
        causes: of what they say nothing; with its numbers there, they may do.
    """

    def __init__(self, *causes: Made) -> None:
        super().__init__()
        self.causes = causes


@dataclass(eq=False)
class Made:
    """How a tensor is computed: by `operator` of `args` and `kwargs`, in which there are others of this kind.

    Attributes:
        like: of its shape, strides and type, on the device `meta`.
        numbers: the tensor, once it had to be there as a whole.
    """

    operator: Any
    args: Any
    kwargs: Any
    like: Tensor
    numbers: Tensor | None = None

    @property
    def shape(self) -> Shape:
        """As of a tensor."""
        return tuple(self.like.shape)

    def parts(self) -> list[Any]:
        """The tensors, and what stands for such, that it is made of."""
        if self.numbers is not None:
            return [self.numbers]
        return [one for one in tree_iter((self.args, self.kwargs)) if isinstance(one, Tensor | Made)]

    def all(self) -> Iterator[Any]:
        """Itself and whatever it is made of, down to tensors that are there, each once."""
        waiting: list[Any] = [self]
        seen: set[int] = set()
        while waiting:
            one = waiting.pop()
            if id(one) not in seen:
                seen.add(id(one))
                yield one
                waiting += one.parts() if isinstance(one, Made) else []


def computed(made: Made, most: int) -> Tensor:
    """Its numbers, without holding more than about `most` bytes of any other tensor. Unfit if no rows do."""
    everything = list(made.all())
    uses = Counter(id(part) for one in everything if isinstance(one, Made) for part in one.parts())
    causes: list[Made] = []
    shared = frozenset(key for key, count in uses.items() if count > 1)
    for rows in sorted(set(accumulate(made.shape[:-1], lambda one, other: one * other)), reverse=True):
        largest = max(bytes_of(one) for one in everything if isinstance(one, Made)) // rows
        step = min(rows, max(1, most // max(largest, 1)))
        try:
            return _by_rows(made, rows, step, shared)
        except Unfit as unfit:
            causes += unfit.causes
    raise Unfit(*causes)


def bytes_of(one: Any) -> int:
    """Of a tensor, or of what stands for one."""
    like: Tensor = one.like if isinstance(one, Made) else one
    return like.numel() * like.element_size()


def turned_once(made: Made) -> Made:
    """The same of axes that were turned before: as einsum does, there and back again."""
    source = made.args[0]
    if made.operator not in TURNED or not isinstance(source, Made):
        return made
    if source.operator not in TURNED or source.numbers is not None:
        return made
    axes = [_axes(source)[axis] for axis in _axes(made)]
    return Made(aten.permute.default, (source.args[0], axes), {}, made.like)


def _by_rows(made: Made, rows: int, step: int, shared: frozenset[int]) -> Tensor:
    result: Tensor | None = None
    for first in range(0, rows, step):
        last = min(first + step, rows)
        part = _Block(first, last, rows, shared, {}).of(made)
        if result is None:
            result = part.new_empty(rows, *part.shape[1:])
        result[first:last] = part
    assert result is not None
    return result.reshape(made.shape)


@dataclass(frozen=True)
class _Block:
    """Rows `first` to `last` of `rows`; what several read, whose ids are `shared`, is kept in `known`."""

    first: int
    last: int
    rows: int
    shared: frozenset[int]
    known: dict[int, Tensor]

    def of(self, one: Any) -> Tensor:
        """These rows of it, in the order of its numbers: (last − first, …)."""
        if isinstance(one, Made) and one.numbers is not None:
            one = one.numbers
        if isinstance(one, Tensor):
            return self._taken(one, tuple(one.shape))
        if id(one) in self.known:
            return self.known[id(one)]
        rule = next((rule for operators, rule in _RULES if one.operator in operators), _pointwise)
        try:
            part = rule(one, _cut(one.shape, self.rows), self)
        except Unfit as unfit:
            raise Unfit(*unfit.causes, one) from None
        if id(one) in self.shared:
            self.known[id(one)] = part
        return part

    def broadcast(self, one: Any, shape: Shape) -> Tensor:
        """Of what is broadcast to `shape`; the axes that are no rows may be of size 1 still."""
        if not one.shape and isinstance(one, Tensor):
            return one
        own = (1,) * (len(shape) - len(one.shape)) + tuple(one.shape)
        cut = _cut(shape, self.rows)
        if isinstance(one, Made) and one.numbers is not None:
            one = one.numbers
        if math.prod(own[:cut]) == self.rows:
            return self.of(one).reshape(-1, *own[cut:])
        if isinstance(one, Made):
            raise Unfit(one)
        return self._taken(one.reshape(own), shape)

    def _taken(self, tensor: Tensor, shape: Shape) -> Tensor:
        """Of a tensor that is there, and whose first axes are broadcast to those of `shape`."""
        cut = _cut(shape, self.rows)
        if tensor.is_contiguous() and tuple(tensor.shape[:cut]) == shape[:cut]:
            return tensor.reshape(self.rows, *tensor.shape[cut:])[self.first : self.last]
        if cut == 0:
            return tensor.unsqueeze(0)
        places = torch.unravel_index(torch.arange(self.first, self.last, device=tensor.device), shape[:cut])
        return tensor.expand(*shape[:cut], *tensor.shape[cut:])[places]


def _pointwise(made: Made, cut: int, block: _Block) -> Tensor:
    def part(one: Any) -> Any:
        return block.broadcast(one, made.shape)

    args, kwargs = tree_map_only((Tensor, Made), part, (made.args, made.kwargs))
    result: Tensor = made.operator(*args, **kwargs)
    return result


def _same_order(made: Made, cut: int, block: _Block) -> Tensor:
    return block.of(made.args[0]).reshape(-1, *made.shape[cut:])


def _copied(made: Made, cut: int, block: _Block) -> Tensor:
    return _same_order(made, cut, block).to(made.like.dtype)


def _turned(made: Made, cut: int, block: _Block) -> Tensor:
    source, axes = made.args[0], _axes(made)
    if [axis for axis in axes if source.shape[axis] != 1] == [a for a in range(len(axes)) if source.shape[a] != 1]:
        return _same_order(made, cut, block)
    if axes[:cut] != list(range(cut)):
        raise Unfit
    part = block.of(source).reshape(-1, *source.shape[cut:])
    return part.permute(0, *(axis - cut + 1 for axis in axes[cut:]))


def _axes(made: Made) -> list[int]:
    """Which of its source's each of the axes is."""
    count = len(made.shape)
    if made.operator is aten.permute.default:
        return [axis % count for axis in made.args[1]]
    axes = list(range(count))
    one, other = (0, count - 1) if made.operator is aten.t.default else (axis % count for axis in made.args[1:3])
    axes[one], axes[other] = axes[other], axes[one]
    return axes


def _expanded(made: Made, cut: int, block: _Block) -> Tensor:
    return block.broadcast(made.args[0], made.shape).expand(-1, *made.shape[cut:])


def _softmax(made: Made, cut: int, block: _Block) -> Tensor:
    axis = made.args[1] % len(made.shape)
    if axis < cut:
        raise Unfit
    part = block.of(made.args[0]).reshape(-1, *made.shape[cut:])
    result: Tensor = made.operator(part, axis - cut + 1, *made.args[2:])
    return result


def _reduced(made: Made, cut: int, block: _Block) -> Tensor:
    source, given = made.args[0], made.args[1] if len(made.args) > 1 else None
    axes = [axis % len(source.shape) for axis in (given if isinstance(given, list | tuple) else ())]
    inner = _cut(source.shape, block.rows)
    if not axes or min(axes) < inner:
        raise Unfit
    part = block.of(source).reshape(-1, *source.shape[inner:])
    result: Tensor = made.operator(part, [axis - inner + 1 for axis in axes], *made.args[2:], **made.kwargs)
    return result.reshape(-1, *made.shape[cut:])


def _product(made: Made, cut: int, block: _Block) -> Tensor:
    """Rows of a product are rows of its first factor times the second; or they are matrices, of both factors."""
    one, other = made.args[-2:]
    if len(made.shape) == 3 and block.rows == made.shape[0]:
        result = torch.bmm(*(block.of(factor).reshape(-1, *factor.shape[1:]) for factor in (one, other)))
    elif isinstance(other, Made) or block.rows != math.prod(made.shape[:-1]):
        raise Unfit
    else:
        part = block.of(one).reshape(-1, one.shape[-1])
        result = part @ other if other.dim() == 2 else _by_matrices(part, other, block.first, made.shape[-2])
    if len(made.args) == 2:
        return result
    beta, alpha = made.kwargs.get("beta", 1), made.kwargs.get("alpha", 1)
    result = result if alpha == 1 else result * alpha
    return result if beta == 0 else result + block.broadcast(made.args[0], made.shape) * beta


def _by_matrices(part: Tensor, matrices: Tensor, first: int, each: int) -> Tensor:
    """Rows from `first` on, of which `each` have a second factor of their own."""
    place, end = first, first + len(part)
    results = []
    while place < end:
        number = place // each
        stop = min(end, (number + 1) * each)
        results.append(part[place - first : stop - first] @ matrices[number])
        place = stop
    return results[0] if len(results) == 1 else torch.cat(results)


_Rule = Callable[[Made, int, _Block], Tensor]
_RULES: tuple[tuple[tuple[Any, ...], _Rule], ...] = (
    (PRODUCTS, _product),
    (SAME_ORDER, _same_order),
    (TURNED, _turned),
    ((aten.expand.default,), _expanded),
    (COPIES, _copied),
    (SOFTMAXES, _softmax),
    (REDUCTIONS, _reduced),
)


def _cut(shape: Sequence[int], rows: int) -> int:
    """How many of the first axes hold `rows` places together. Unfit if none do."""
    numbers = 1
    for cut, size in enumerate(shape):
        if numbers == rows:
            return cut
        numbers *= size
    if numbers == rows:
        return len(shape)
    raise Unfit
