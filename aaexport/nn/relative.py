"""2-D relative self-attention: its definition and its equals, as pure functions of feature maps.

For query position (h, w) and key position (i, j) of one head (Bello et al. 2019, section 3.2.1):

    logits[(h, w), (i, j)] = s · q(h, w)·( k(i, j) + r_height[i − h + H − 1] + r_width[j − w + W − 1] )
    out(h, w)              = Σ over (i, j) of softmax(logits[(h, w), ·])[(i, j)] · v(i, j)        s = dkh^−½

Every decomposition has the signature `Decomposition` and computes exactly this, by other operators:

    q, k         (B, Nh, dkh, H, W)     one feature map a head, not scaled
    v            (B, Nh, dvh, H, W)
    rel_height   (2H − 1, dkh)          embeddings of i − h, shared by the heads; None: no relative terms
    rel_width    (2W − 1, dkh)          embeddings of j − w
    → out        (B, Nh, dvh, H, W)

Feature maps come in and go out because that is how the convolutions around them hold the data: each
decomposition decides itself what to transpose. The batch size appears nowhere, so that an exported graph
computes no shapes. To add a decomposition: write the function, put it into `DECOMPOSITIONS`, and add its name
to `aaexport.recipe.DecompositionName`; tests/test_relative.py then holds it to the definition.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from aaexport.recipe import DecompositionName


class Decomposition(Protocol):
    """2-D relative attention over feature maps; shapes in the module's docstring."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, rel_height: Tensor | None, rel_width: Tensor | None
    ) -> Tensor:
        """Attends."""


def skew(q: Tensor, k: Tensor, v: Tensor, rel_height: Tensor | None, rel_width: Tensor | None) -> Tensor:
    """The paper's own way: logits of every offset, skewed from offsets to positions, tiled over the other axis.

    Slow, and about 25 operators an axis once exported; it is here as the definition that the others must equal.
    """
    height, width = q.shape[-2:]
    q = _scaled(q)
    logits = _content_logits(q, k)  # (B, Nh, H·W, H·W)
    if rel_height is not None and rel_width is not None:
        q = q.permute(0, 1, 3, 4, 2)  # (B, Nh, H, W, dkh)
        along_width = _skewed_logits(q, rel_width)  # (B, Nh, H, W, W): [h, w, j]
        along_width = along_width.unsqueeze(4).expand(-1, -1, -1, -1, height, -1)
        along_height = _skewed_logits(q.transpose(2, 3), rel_height)  # (B, Nh, W, H, H): [w, h, i]
        along_height = along_height.transpose(2, 3).unsqueeze(5).expand(-1, -1, -1, -1, -1, width)
        logits = logits + along_width.reshape(logits.shape) + along_height.reshape(logits.shape)
    return _attend(logits, v)


def table(q: Tensor, k: Tensor, v: Tensor, rel_height: Tensor | None, rel_width: Tensor | None) -> Tensor:
    """Relative embeddings gathered into one table an axis beforehand; the relative logits are batched products.

    The tables T_height[h, :, i] = r_height[i − h + H − 1] and T_width[w, :, j] depend on weights alone, so an
    exporter folds them into constants. The logits are added by broadcasting, never tiled.
    """
    height, width = q.shape[-2:]
    q = _scaled(q)
    logits = _content_logits(q, k)  # (B, Nh, H·W, H·W)
    if rel_height is not None and rel_width is not None:
        q = q.permute(0, 1, 3, 4, 2)  # (B, Nh, H, W, dkh)
        along_height = q @ _gathered(rel_height)  # (B, Nh, H, W, H)
        along_width = (q.transpose(2, 3) @ _gathered(rel_width)).transpose(2, 3)  # (B, Nh, H, W, W)
        logits = _unflatten(logits, 3, height, width)
        logits = logits + along_height.flatten(2, 3).unsqueeze(4) + along_width.flatten(2, 3).unsqueeze(3)
        logits = logits.flatten(3)
    return _attend(logits, v)


DECOMPOSITIONS: dict[DecompositionName, Decomposition] = {"skew": skew, "table": table}


def _scaled(q: Tensor) -> Tensor:
    """q·dkh^−½: scaling q scales content and relative logits alike, as in the paper."""
    scale: float = q.shape[2] ** -0.5
    return q * scale


def _content_logits(q: Tensor, k: Tensor) -> Tensor:
    """QKᵀ, (B, Nh, H·W, H·W)."""
    logits: Tensor = q.flatten(3).transpose(2, 3) @ k.flatten(3)
    return logits


def _attend(logits: Tensor, v: Tensor) -> Tensor:
    """softmax(logits)·V as feature maps, (B, Nh, dvh, H, W)."""
    out = torch.softmax(logits, dim=-1) @ v.flatten(3).transpose(2, 3)  # (B, Nh, H·W, dvh)
    return _unflatten(out.transpose(2, 3), 3, v.shape[-2], v.shape[-1])


def _skewed_logits(q: Tensor, embeddings: Tensor) -> Tensor:
    """[…, a, b] = q[…, a, :]·embeddings[b − a + L − 1] along the last axis of positions.

    q (B, Nh, M, L, d), embeddings (2L − 1, d) → (B, Nh, M, L, L). The paper's rel_to_abs: after one padding
    column, reading the L rows of 2L numbers again as rows of 2L − 1 shifts each row by one more.
    """
    length = q.shape[3]
    by_offset = q @ embeddings.transpose(0, 1)  # (B, Nh, M, L, 2L − 1)
    flat = functional.pad(by_offset, (0, 1)).flatten(3)  # (B, Nh, M, 2L·L)
    flat = functional.pad(flat, (0, length - 1))  # (B, Nh, M, (L + 1)·(2L − 1))
    return _unflatten(flat, 3, length + 1, 2 * length - 1)[..., :length, length - 1 :]


def _gathered(embeddings: Tensor) -> Tensor:
    """T[a, :, b] = embeddings[b − a + L − 1]: (2L − 1, d) → (L, d, L)."""
    length = (embeddings.shape[0] + 1) // 2
    position = torch.arange(length, device=embeddings.device)
    offset = position[None, :] - position[:, None] + length - 1  # (L, L): [a, b]
    return _unflatten(embeddings[offset.flatten()], 0, length, length).transpose(1, 2)


def _unflatten(x: Tensor, dim: int, rows: int, columns: int) -> Tensor:
    """Splits one dimension into two. Unlike a reshape it never names the batch, and torch leaves it untyped."""
    split: Tensor = x.unflatten(dim, (rows, columns))
    return split
