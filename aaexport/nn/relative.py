"""2-D relative self-attention: its definition and its equals, as pure functions of feature maps.

For query position (h, w) and key position (i, j) of one head (Bello et al. 2019, section 3.2.1):

    logits[(h, w), (i, j)] = s · q(h, w)·( k(i, j) + r_height[i − h + H − 1] + r_width[j − w + W − 1] )
    out(h, w)              = Σ over (i, j) of softmax(logits[(h, w), ·])[(i, j)] · v(i, j)        s = dkh^−½

Every decomposition has the signature `Decomposition` and computes exactly this, by other operators:

    q, k         (M, dkh, H, W)      one feature map a head and image, not scaled; M = B·Nh
    v            (M, dvh, H, W)
    rel_height   (2H − 1, dkh)       embeddings of i − h; None: no relative terms
    rel_width    (2W − 1, dkh)       embeddings of j − w
    → out        (M, N, dvh)         a row a query, row by row of the map; N = H·W

The heads share their embeddings, so heads are to attention what images are to a convolution: M independent ones.
Feature maps come in because that is how the convolutions hold the data; each decomposition decides itself what to
transpose. M appears in no shape, so that an exported graph computes none. With `blocks` > 1 the N queries are
attended in so many blocks, one after the other: no more than a block's logits are ever there.

Tracing and converting an operator takes torch some 20 ms, whatever it computes: none is here that need not be, and
what depends on sizes alone comes from numpy, as one constant.

All but `fused` differ in their logits alone, so that `with_weights` can give away what the softmax makes of them.

To add a decomposition: write the function, put it into `DECOMPOSITIONS` and its logits into `LOGITS`, and add its
name to `aaexport.recipe.DecompositionName`; tests/nn/test_relative.py then holds it to the definition.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from aaexport.nn.index_maps import is_row_or_column, offsets
from aaexport.recipe import DecompositionName

BlockLogits = Callable[[slice], Tensor]  # a block of n queries → (M, n, N)


class Decomposition(Protocol):
    """2-D relative attention over feature maps; shapes in the module's docstring."""

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        rel_height: Tensor | None,
        rel_width: Tensor | None,
        blocks: int = 1,
    ) -> Tensor:
        """Attends."""


def skew(
    q: Tensor, k: Tensor, v: Tensor, rel_height: Tensor | None, rel_width: Tensor | None, blocks: int = 1
) -> Tensor:
    """The paper's own way: logits of every offset, skewed from offsets to positions, tiled over the other axis.

    Slow, and about 25 operators an axis once exported; it is here as the definition that the others must equal.
    """
    return _attended(_skew_logits(q, k, rel_height, rel_width), q, v, blocks)


def _skew_logits(q: Tensor, k: Tensor, rel_height: Tensor | None, rel_width: Tensor | None) -> BlockLogits:
    height, width = q.shape[-2:]
    positions = height * width
    q = _scaled(q)
    tiled = None
    if rel_height is not None and rel_width is not None:
        along_width = _skewed_logits(q.permute(0, 2, 3, 1), rel_width)  # (M, H, W, W): [h, w, j]
        along_width = along_width.unsqueeze(3).expand(-1, -1, -1, height, -1)
        along_height = _skewed_logits(q.permute(0, 3, 2, 1), rel_height)  # (M, W, H, H): [w, h, i]
        along_height = along_height.transpose(1, 2).unsqueeze(4).expand(-1, -1, -1, -1, width)
        tiled = along_width.reshape(-1, positions, positions) + along_height.reshape(-1, positions, positions)
    rows, k = _rows(q), k.flatten(2)

    def logits(block: slice) -> Tensor:
        content = torch.bmm(_part(rows, block), k)
        return content if tiled is None else content + _part(tiled, block)

    return logits


def table(
    q: Tensor, k: Tensor, v: Tensor, rel_height: Tensor | None, rel_width: Tensor | None, blocks: int = 1
) -> Tensor:
    """Relative logits as small products, one axis at a time, added by broadcasting; never tiled.

    The cheapest where maps are large against the depth of a head, because it multiplies no more than it must.
    """
    return _attended(_table_logits(q, k, rel_height, rel_width), q, v, blocks)


def _table_logits(q: Tensor, k: Tensor, rel_height: Tensor | None, rel_width: Tensor | None) -> BlockLogits:
    height, width = q.shape[-2:]
    q = _scaled(q)
    rows, k = _rows(q), k.flatten(2)
    if rel_height is None or rel_width is None:
        return lambda block: torch.bmm(_part(rows, block), k)
    along_height, along_width = _relative_logits(_channels_last(q), rel_height, rel_width)
    along_height = along_height.reshape(-1, height * width, height, 1)  # (M, N, H, 1)
    along_width = along_width.reshape(-1, height * width, 1, width)  # (M, N, 1, W)

    def logits(block: slice) -> Tensor:
        both = _part(along_height, block) + _part(along_width, block)  # (M, n, H, W)
        return torch.bmm(_part(rows, block), k) + both.flatten(2)

    return logits


def shift(
    q: Tensor, k: Tensor, v: Tensor, rel_height: Tensor | None, rel_width: Tensor | None, blocks: int = 1
) -> Tensor:
    """As `table`, but q·k + q·r_height is one product, q·(k + r_height): each row of queries has keys of its own.

    In a block of a few rows these keys are few against the logits, of which one pass less is made.
    """
    return _attended(_shift_logits(q, k, rel_height, rel_width), q, v, blocks)


def _shift_logits(q: Tensor, k: Tensor, rel_height: Tensor | None, rel_width: Tensor | None) -> BlockLogits:
    if rel_height is None or rel_width is None:
        return _table_logits(q, k, None, None)
    depth, height, width = q.shape[1:]
    positions = height * width
    maps = _channels_last(_scaled(q))
    keys = k.flatten(2).unsqueeze(1)  # (M, 1, d, N)
    along_height = _gathered(rel_height).unsqueeze(3).expand(-1, -1, -1, width).reshape(height, depth, positions)
    along_width = _skewed(functional.linear(maps, rel_width))  # (M, H, W, W)

    def logits(block: slice) -> Tensor:
        rows, columns = of_the_map(block, width)
        content = _part(maps, rows, columns) @ (keys + along_height[rows])  # (M, h, w, N)
        count = block.stop - block.start
        across = _part(along_width, rows, columns).reshape(-1, count, 1, width)
        return (content.reshape(-1, count, height, width) + across).flatten(2)

    return logits


def fold(
    q: Tensor, k: Tensor, v: Tensor, rel_height: Tensor | None, rel_width: Tensor | None, blocks: int = 1
) -> Tensor:
    """Relative logits inside the product: [s·q, rel_h, rel_w] · [k, onehot(row), onehot(column)]ᵀ is the whole logit.

    Deeper by H + W, and nothing is ever added to N × N logits: the cheapest for maps up to about 16 × 16.
    """
    return _attended(_fold_logits(q, k, rel_height, rel_width), q, v, blocks)


def _fold_logits(q: Tensor, k: Tensor, rel_height: Tensor | None, rel_width: Tensor | None) -> BlockLogits:
    queries, keys = _folded(q, k, rel_height, rel_width)
    return lambda block: torch.bmm(_part(queries, block), keys)


def fused(
    q: Tensor, k: Tensor, v: Tensor, rel_height: Tensor | None, rel_width: Tensor | None, blocks: int = 1
) -> Tensor:
    """`fold` handed to one attention operator: torch's kernels in training, ONNX `Attention` from opset 23 on.

    In eager mode q, k and v are padded with zeros to one depth, a multiple of 8, because flash kernels want that.
    """
    queries, keys = _folded(q, k, rel_height, rel_width)
    rows, columns, values = queries.unsqueeze(1), keys.transpose(1, 2).unsqueeze(1), _rows(v).unsqueeze(1)
    if not torch.compiler.is_exporting():
        depth = -(-max(rows.shape[-1], v.shape[1]) // 8) * 8
        rows, columns, values = (functional.pad(x, (0, depth - x.shape[-1])) for x in (rows, columns, values))

    def attend(block: slice) -> Tensor:
        part = _part(rows, slice(1), block)
        out = functional.scaled_dot_product_attention(part, columns, values, scale=1.0).squeeze(1)
        return _part(out, slice(out.shape[1]), slice(v.shape[1]))

    return _in_blocks(attend, blocks, q)


DECOMPOSITIONS: dict[DecompositionName, Decomposition] = {
    "skew": skew,
    "table": table,
    "shift": shift,
    "fold": fold,
    "fused": fused,
}
LOGITS: dict[DecompositionName, Callable[[Tensor, Tensor, Tensor | None, Tensor | None], BlockLogits]] = {
    "skew": _skew_logits,
    "table": _table_logits,
    "shift": _shift_logits,
    "fold": _fold_logits,
    "fused": _fold_logits,
}


def with_weights(
    name: DecompositionName,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_height: Tensor | None,
    rel_width: Tensor | None,
    blocks: int = 1,
) -> tuple[Tensor, Tensor]:
    """What the decomposition of that name gives, and the weights that its softmax gave, (M, N, N).

    The weights' rows are queries and their columns keys, both in the order of `_rows`. `fused` is computed as
    `fold`, because its operator keeps its weights to itself.
    """
    logits = LOGITS[name](q, k, rel_height, rel_width)
    weights = []

    def attend(block: slice) -> Tensor:
        weights.append(torch.softmax(logits(block), dim=-1))
        return torch.bmm(weights[-1], _rows(v))

    out = _in_blocks(attend, blocks, q)
    return out, _joined(weights)


def _scaled(q: Tensor) -> Tensor:
    """q·dkh^−½: scaling q scales content and relative logits alike, as in the paper."""
    scale: float = q.shape[1] ** -0.5
    return q * scale


def _rows(x: Tensor) -> Tensor:
    """(M, d, H, W) → (M, H·W, d)."""
    return x.flatten(2).transpose(1, 2)


def _channels_last(x: Tensor) -> Tensor:
    """(M, d, H, W) → (M, H, W, d)."""
    return x.permute(0, 2, 3, 1)


def _part(x: Tensor, *slices: slice) -> Tensor:
    """x[:, *slices]; x itself where that is all of it."""
    for axis, part in enumerate(slices, start=1):
        start, stop = part.start or 0, part.stop
        if (start, stop) != (0, x.shape[axis]):
            x = x.narrow(axis, start, stop - start)
    return x


def _in_blocks(attend: Callable[[slice], Tensor], blocks: int, q: Tensor) -> Tensor:
    """What `attend` makes of each block of queries, (M, n, dvh), together: (M, N, dvh)."""
    height, width = q.shape[-2:]
    return _joined([attend(block) for block in blocks_of_queries(height, width, blocks)])


def blocks_of_queries(height: int, width: int, blocks: int) -> list[slice]:
    """The queries in at least so many blocks: some whole rows of the map each, or a part of one row."""
    largest = -(-height * width // blocks)
    if largest >= width:
        rows = _even_share(height, largest // width)
        return [slice(row * width, min(row + rows, height) * width) for row in range(0, height, rows)]
    columns = _even_share(width, largest)
    starts = [(row, column) for row in range(height) for column in range(0, width, columns)]
    return [slice(row * width + column, row * width + min(column + columns, width)) for row, column in starts]


def _even_share(total: int, largest: int) -> int:
    """The size of parts of `total` that are no larger, as few as possible, and alike but for the last."""
    return -(-total // -(-total // largest))


def of_the_map(block: slice, width: int) -> tuple[slice, slice]:
    """The rows and the columns of the map that a block of queries covers."""
    first, last = block.start // width, (block.stop - 1) // width
    if last > first:
        return slice(first, last + 1), slice(0, width)
    return slice(first, first + 1), slice(block.start - first * width, block.stop - first * width)


def _attended(logits: BlockLogits, q: Tensor, v: Tensor, blocks: int) -> Tensor:
    """softmax(logits)·V, (M, N, dvh)."""
    values = _rows(v)
    return _in_blocks(lambda block: torch.bmm(torch.softmax(logits(block), dim=-1), values), blocks, q)


def _joined(blocks: list[Tensor]) -> Tensor:
    """(M, n, ·) of each block of queries → (M, N, ·)."""
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)


def _folded(q: Tensor, k: Tensor, rel_height: Tensor | None, rel_width: Tensor | None) -> tuple[Tensor, Tensor]:
    """Queries (M, N, D) and keys (M, D, N) whose product is the whole logit, D = dkh + H + W."""
    depth, height, width = q.shape[1:]
    q, k = _scaled(q), k.flatten(2)
    if rel_height is None or rel_width is None:
        return _rows(q), k
    maps = _channels_last(q)
    queries = torch.cat([maps, *_relative_logits(maps, rel_height, rel_width)], dim=-1)
    # Padded and added rather than concatenated: M, the only size that need not be known, then appears nowhere.
    keys = functional.pad(k, (0, 0, 0, height + width)) + _onehots(depth, height, width, k)
    return queries.reshape(-1, height * width, depth + height + width), keys


def _relative_logits(maps: Tensor, rel_height: Tensor, rel_width: Tensor) -> tuple[Tensor, Tensor]:
    """Along the height, (M, H, W, H): [·, i], and the width, (M, H, W, W): [·, j], of scaled queries (M, H, W, dkh).

    The height's are one small product for each row of the map, with the row's table; the width's are products with
    all offsets, and then views: in memory, the wanted part of each column of the map begins one number earlier than
    that of the column before. So q is in one layout for both.
    """
    return maps @ _gathered(rel_height), _skewed(functional.linear(maps, rel_width))


def _skewed(by_offset: Tensor) -> Tensor:
    """[…, a, b] = by_offset[…, a, b − a + L − 1]: (M, K, L, 2L − 1) → (M, K, L, L).

    Row a's part begins at a·(2L − 1) + L − 1 − a, so, from L − 1 on, rows of 2L − 2 numbers begin with it.
    """
    others, length = by_offset.shape[1:3]
    if length == 1:
        return by_offset
    flat = by_offset.flatten(2)[..., length - 1 : length - 1 + length * (2 * length - 2)]
    return flat.reshape(-1, others, length, 2 * length - 2)[..., :length]


def _skewed_logits(q: Tensor, embeddings: Tensor) -> Tensor:
    """[…, a, b] = q[…, a, :]·embeddings[b − a + L − 1] along the last axis of positions.

    q (M, K, L, d), embeddings (2L − 1, d) → (M, K, L, L). The paper's rel_to_abs: after one padding column,
    reading the L rows of 2L numbers again as rows of 2L − 1 shifts each row by one more.
    """
    others, length = q.shape[1:3]
    by_offset = q @ embeddings.transpose(0, 1)  # (M, K, L, 2L − 1)
    flat = functional.pad(by_offset, (0, 1)).flatten(2)  # (M, K, 2L·L)
    flat = functional.pad(flat, (0, length - 1))  # (M, K, (L + 1)·(2L − 1))
    return flat.reshape(-1, others, length + 1, 2 * length - 1)[..., :length, length - 1 :]


def _gathered(embeddings: Tensor) -> Tensor:
    """T[a, :, b] = embeddings[b − a + L − 1]: (2L − 1, d) → (L, d, L)."""
    length = (embeddings.shape[0] + 1) // 2
    offset = offsets(_integers(length, embeddings.device))
    offset = torch.from_numpy(offset) if isinstance(offset, np.ndarray) else offset
    return embeddings[offset].transpose(1, 2)


def _onehots(depth: int, height: int, width: int, like: Tensor) -> Tensor:
    """(depth + H + W, N): zeros, then 1 where a position lies in that row, or in that column, of the map."""
    number = _integers(depth + height + width, like.device) - depth
    found = is_row_or_column(number, _integers(height * width, like.device), height, width)
    onehots: Tensor = torch.from_numpy(found.astype(np.float32)) if isinstance(found, np.ndarray) else found
    return onehots if onehots.dtype == like.dtype else onehots.to(like.dtype)


def _integers(count: int, device: torch.device) -> Any:
    """0 … count − 1: of numpy for the CPU, so that what is computed of them is one constant of an export.

    On another device a tensor, because a copy to it would have to be waited for.
    """
    return np.arange(count) if device.type == "cpu" else torch.arange(count, device=device)
