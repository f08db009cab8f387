"""What the convolution of q, k and v gives → the heads' outputs, tile by tile, with a backward pass of its own.

The same attention as `aaexport.nn.relative` has, for eager mode on a CPU, where training lives on the caches:

- A tile is some images, some heads of one image, or some queries of one head: no more logits than the caches hold.
  They are made, used and forgotten; the backward pass makes them again, which costs less than memory that was just
  taken from the system, and so the N × N weights of a layer are never there, in neither pass.
- Maps stay as the convolution wrote them, channel by channel: nothing is transposed, v times the weights has v's few
  channels as its rows, and the three gradients are written into one tensor, as the convolution wants it.
- One product of q with both tables has the relative logits of every offset; those of positions are views of it.

With P the weights, O = P·V the output and ∂ a gradient: ∂V = Pᵀ·∂O and ∂logits = P ∘ (∂O·Vᵀ − Σ(∂O ∘ O)), where the
sum, one number a query, is one more channel of the product (Dao et al. 2022, FlashAttention, appendix B).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad
from torch.nn import Parameter
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from aaexport.nn.choice import AttentionSizes
from aaexport.nn.relative import blocks_of_queries, of_the_map, table

TILE = 2**18  # logits for each thread: a megabyte of float32


def can_be_tiled(qkv: Tensor, *tables: Tensor | None) -> bool:
    """Whether `attended_in_tiles` may compute it: on the CPU, by floats of one type, and nobody looks on.

    Compilers, exporters, tracers, autocast, `torch.func` and forward-mode derivatives want operators that they know.
    """
    inputs = [qkv, *(tensor for tensor in tables if tensor is not None)]
    one_type = qkv.dtype in (torch.float32, torch.float64) and all(tensor.dtype == qkv.dtype for tensor in inputs)
    return qkv.device.type == "cpu" and one_type and not _looked_at(inputs)


def _looked_at(inputs: list[Tensor]) -> bool:
    return (
        torch.compiler.is_compiling()
        or torch.compiler.is_exporting()
        or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        or torch.is_autocast_enabled("cpu")
        or torch._C._are_functorch_transforms_active()  # what torch.autograd.Function asks itself
        or is_in_torch_dispatch_mode()
        or any(_is_more_than_a_tensor(tensor) for tensor in inputs)
    )


def _is_more_than_a_tensor(x: Tensor) -> bool:
    return (
        type(x) not in (Tensor, Parameter)
        or torch._C._functorch.is_legacy_batchedtensor(x)  # of `is_grads_batched`, which activates no transform
        or forward_ad.unpack_dual(x).tangent is not None
    )


def attended_in_tiles(
    qkv: Tensor, rel_height: Tensor | None, rel_width: Tensor | None, sizes: AttentionSizes
) -> Tensor:
    """The heads of qkv (B, 2·dk + dv, H, W), which has q, k and v one after the other: (B·Nh, N, dvh)."""
    tables = None if rel_height is None or rel_width is None else torch.cat([rel_height, rel_width])
    out: Tensor = _Tiled.apply(qkv, tables, sizes)  # type: ignore[no-untyped-call]
    return out.reshape(-1, sizes.dvh, sizes.positions).transpose(1, 2)


class _Tiled(Function):
    """(qkv, both tables in one or None, sizes) → (B, dv, N)."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, tables: Tensor | None, sizes: AttentionSizes) -> Tensor:
        work = _Work(qkv, tables, sizes)
        out = qkv.new_empty(len(qkv), sizes.num_heads, sizes.dvh, sizes.positions)
        for tile in work.tiles:
            weights = work.weights(tile, work.queries(tile))
            _write_product(_part(out, tile, tile.queries), work.values(tile), weights.transpose(1, 2))
        out = out.flatten(1, 2)
        ctx.sizes = sizes
        ctx.save_for_backward(qkv, tables, out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (gradient,), (qkv, tables, out) = gradients, ctx.saved_tensors
        with torch.autocast("cpu", enabled=False):  # as it was in the forward pass
            if torch.is_grad_enabled() or _looked_at([gradient]):  # also where the forward pass was alone
                return _differentiable(qkv, tables, ctx.sizes, gradient)
            return *_gradients(_Work(qkv, tables, ctx.sizes), out, gradient.contiguous()), None


def _gradients(work: _Work, out: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
    """Of qkv and the tables, for the gradient of the output (B, dv, N)."""
    sizes = work.sizes
    of_qkv = torch.empty_like(work.qkv)
    of_q, of_k, of_v = _split(of_qkv, sizes)
    gradient, out = (x.unflatten(1, (sizes.num_heads, sizes.dvh)) for x in (gradient, out))
    of_tables = None if work.tables is None else torch.zeros_like(work.tables)
    for tile in work.tiles:
        q = work.queries(tile)
        weights = work.weights(tile, q)
        of_out = _part(gradient, tile, tile.queries).flatten(0, 1)  # (m, dvh, n)
        of_logits = work.gradient_of_logits(tile, weights, of_out, _part(out, tile, tile.queries).flatten(0, 1))
        here = torch.bmm(work.keys(tile), of_logits.transpose(1, 2))  # of q·scale, (m, dkh, n)
        if work.tables is not None and of_tables is not None:
            by_offset = work.summed_by_offset(tile, of_logits)
            here.baddbmm_(work.each(work.tables.t(), tile), by_offset.transpose(1, 2))
            of_tables += torch.bmm(q, by_offset).sum(0).t()
        there = _part(of_q, tile, tile.queries)
        torch.mul(here.view(there.shape), work.scale, out=there)
        first = tile.queries.start == 0
        _write_product(_part(of_k, tile), q, of_logits, add=not first)
        _write_product(_part(of_v, tile), of_out, weights, add=not first)
    return of_qkv, of_tables


def _differentiable(
    qkv: Tensor, tables: Tensor | None, sizes: AttentionSizes, gradient: Tensor
) -> tuple[Tensor | None, Tensor | None, None]:
    """The same gradients by operators that know their own gradients, and what else may be done with them."""
    lengths = [2 * sizes.height - 1, 2 * sizes.width - 1]
    on = torch.is_grad_enabled()  # then somebody wants the gradient's gradient
    with torch.enable_grad():
        q, k, v = (x.reshape(-1, x.shape[2], sizes.height, sizes.width) for x in _split(qkv, sizes))
        rel_height, rel_width = (None, None) if tables is None else tables.split(lengths)
        out = table(q, k, v, rel_height, rel_width).transpose(1, 2).reshape(gradient.shape)
    wanted = [x for x in (qkv, tables) if x is not None and x.requires_grad]
    found = dict(zip(map(id, wanted), torch.autograd.grad(out, wanted, gradient, create_graph=on), strict=True))
    return found.get(id(qkv)), found.get(id(tables)), None


@dataclass(frozen=True)
class _Tile:
    """Images, heads and queries whose logits are there together."""

    images: slice
    heads: slice
    queries: slice

    @property
    def count(self) -> int:
        """m: maps, one a head and image."""
        return len(range(self.images.start, self.images.stop)) * len(range(self.heads.start, self.heads.stop))

    @property
    def length(self) -> int:
        """n: queries."""
        return len(range(self.queries.start, self.queries.stop))

    def on_the_map(self, width: int) -> tuple[slice, slice]:
        """The rows and the columns that the queries lie in."""
        return of_the_map(self.queries, width)


class _Work:
    """What both passes make of q, k, v and the tables, and the buffers that they make it in."""

    def __init__(self, qkv: Tensor, tables: Tensor | None, sizes: AttentionSizes) -> None:
        self.qkv, self.tables, self.sizes = qkv.contiguous(), tables, sizes
        self.q, self.k, self.v = _split(self.qkv, sizes)
        self.scale: float = sizes.dkh**-0.5
        self.tiles = _tiles(sizes, len(qkv))
        queries = max((tile.count * tile.length for tile in self.tiles), default=0)
        self.offsets = 2 * (sizes.height + sizes.width - 1)  # rows of both tables
        # Taken once: memory of such a size is new from the system every time, and dear to touch.
        self._logits, self._weights = (qkv.new_empty(queries * sizes.positions) for _ in range(2))
        self._by_offset, self._sums = (qkv.new_zeros(queries * self.offsets * (tables is not None)) for _ in range(2))
        self._ones, self._minus_one = qkv.new_ones(sizes.width), qkv.new_full((1, 1, 1), -1.0)
        self._summed: slice | None = None  # the queries whose places in `_sums` are written

    def queries(self, tile: _Tile) -> Tensor:
        """Scaled, (m, dkh, n)."""
        return (_part(self.q, tile, tile.queries) * self.scale).flatten(0, 1)

    def keys(self, tile: _Tile) -> Tensor:
        """(m, dkh, N)."""
        return _part(self.k, tile).flatten(0, 1)

    def values(self, tile: _Tile) -> Tensor:
        """(m, dvh, N)."""
        return _part(self.v, tile).flatten(0, 1)

    def weights(self, tile: _Tile, q: Tensor) -> Tensor:
        """softmax(q·k + relative logits), (m, n, N), in a buffer that the next tile takes."""
        logits, weights = (self._shaped(buffer, tile) for buffer in (self._logits, self._weights))
        rows = q.transpose(1, 2)
        if self.tables is None:
            torch.bmm(rows, self.keys(tile), out=logits)
        else:
            by_offset = self._shaped(self._by_offset, tile, self.offsets)
            torch.bmm(rows, self.each(self.tables.t(), tile), out=by_offset)
            height, width = self.by_position(tile, by_offset)
            torch.add(height.unsqueeze(4), width.unsqueeze(3), out=self._on_the_map(tile, logits))
            logits.baddbmm_(rows, self.keys(tile))
        return torch.softmax(logits, dim=-1, out=weights)

    def gradient_of_logits(self, tile: _Tile, weights: Tensor, gradient: Tensor, out: Tensor) -> Tensor:
        """(m, n, N), for the gradient (m, dvh, n) of the tile's output; in the buffer that the logits were in."""
        mean = (gradient * out).sum(1, keepdim=True)
        rows = torch.cat([gradient, mean], dim=1).transpose(1, 2)
        minus = self._minus_one.expand(tile.count, 1, self.sizes.positions)
        of_logits = self._shaped(self._logits, tile)
        torch.bmm(rows, torch.cat([self.values(tile), minus], dim=1), out=of_logits)
        return of_logits.mul_(weights)

    def summed_by_offset(self, tile: _Tile, of_logits: Tensor) -> Tensor:
        """(m, n, 2H − 1 + 2W − 1): for each query and row of a table, the sum over the positions that it is for."""
        if self._summed not in (None, tile.queries):
            self._sums.zero_()  # other queries have other offsets; where none is, a zero stays
        self._summed = tile.queries
        by_offset = self._shaped(self._sums, tile, self.offsets)
        height, width = self.by_position(tile, by_offset)
        height.copy_(torch.mv(of_logits.view(-1, self.sizes.width), self._ones).view(height.shape))
        width.copy_(self._on_the_map(tile, of_logits).sum(3))
        return by_offset

    def by_position(self, tile: _Tile, by_offset: Tensor) -> tuple[Tensor, Tensor]:
        """Views of (m, n, 2H − 1 + 2W − 1): (m, h, w, H), [·, i] for i − h, and (m, h, w, W), [·, j] for j − w.

        A query's part begins one number earlier than that of the query before, along that axis.
        """
        height, width = self.sizes.height, self.sizes.width
        (rows, columns), offsets = tile.on_the_map(width), by_offset.shape[2]
        high, wide = rows.stop - rows.start, columns.stop - columns.start
        each, row = tile.length * offsets, wide * offsets
        tall = (tile.count, high, wide, height), (each, row - 1, offsets, 1), height - 1 - rows.start
        broad = (tile.count, high, wide, width), (each, row, offsets - 1, 1), 2 * height + width - 2 - columns.start
        return by_offset.as_strided(*tall), by_offset.as_strided(*broad)

    def each(self, matrix: Tensor, tile: _Tile) -> Tensor:
        """The matrix for each map of the tile."""
        return matrix.expand(tile.count, -1, -1)

    def _shaped(self, buffer: Tensor, tile: _Tile, depth: int | None = None) -> Tensor:
        """(m, n, depth), N by default."""
        depth = self.sizes.positions if depth is None else depth
        return buffer.as_strided((tile.count, tile.length, depth), (tile.length * depth, depth, 1))

    def _on_the_map(self, tile: _Tile, logits: Tensor) -> Tensor:
        """(m, n, N) as (m, h, w, H, W)."""
        rows, columns = tile.on_the_map(self.sizes.width)
        high, wide = rows.stop - rows.start, columns.stop - columns.start
        return logits.view(-1, high, wide, self.sizes.height, self.sizes.width)


def _tiles(sizes: AttentionSizes, images: int) -> list[_Tile]:
    """Each block of queries, of all images and heads, before the next one."""
    logits = TILE * torch.get_num_threads()
    at_once = max(logits // sizes.logits, 1)
    heads = min(max(logits // sizes.positions**2, 1), sizes.num_heads)
    return [
        _Tile(slice(image, min(image + at_once, images)), slice(head, min(head + heads, sizes.num_heads)), queries)
        for queries in blocks_of_queries(sizes.height, sizes.width, -(-(sizes.positions**2) // logits))
        for image in range(0, images, at_once)
        for head in range(0, sizes.num_heads, heads)
    ]


def _split(qkv: Tensor, sizes: AttentionSizes) -> list[Tensor]:
    """(B, 2·dk + dv, H, W) → q, k and v as (B, Nh, ·, N), views where qkv is contiguous."""
    depths = [sizes.dkh, sizes.dkh, sizes.dvh]
    parts = qkv.flatten(2).split([sizes.num_heads * depth for depth in depths], dim=1)
    return [part.unflatten(1, (sizes.num_heads, depth)) for part, depth in zip(parts, depths, strict=True)]


def _part(x: Tensor, tile: _Tile, positions: slice | None = None) -> Tensor:
    """The tile's part of (B, Nh, d, N), of some positions; little is done where that is all of an axis."""
    x = x[tile.images]
    if (tile.heads.start, tile.heads.stop) != (0, x.shape[1]):
        x = x[:, tile.heads]
    if positions is not None and (positions.start, positions.stop) != (0, x.shape[3]):
        x = x[..., positions]
    return x


def _write_product(there: Tensor, a: Tensor, b: Tensor, *, add: bool = False) -> None:
    """The product of each map, (m, d, n), into its place of (images, heads, d, n)."""
    if len(there) == 1:  # then the maps are heads, which lie one after the other
        there = there[0]
        torch.baddbmm(there, a, b, out=there) if add else torch.bmm(a, b, out=there)
    elif add:
        there += torch.bmm(a, b).view(there.shape)
    else:
        there.copy_(torch.bmm(a, b).view(there.shape))
