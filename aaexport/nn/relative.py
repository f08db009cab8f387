"""2-D relative self-attention: its definition and its equals, as pure functions of feature maps.

For query position (h, w) and key position (i, j) of one head (Bello et al. 2019, section 3.2.1):

    logits[(h, w), (i, j)] = s · q(h, w)·( k(i, j) + r_height[i − h + H − 1] + r_width[j − w + W − 1] )
    out(h, w)              = Σ over (i, j) of softmax(logits[(h, w), ·])[(i, j)] · v(i, j)        s = dkh^−½

Every decomposition has the signature `Decomposition` and computes exactly this, by other operators:

    q, k         (M, dkh, H, W)      one feature map a head and image, not scaled; M = B·Nh
    v            (M, dvh, H, W)
    rel_height   (2H − 1, dkh)       embeddings of i − h; None: no relative terms
    rel_width    (2W − 1, dkh)       embeddings of j − w
    → out        (M, dvh, H, W)

The heads share their embeddings, so heads are to attention what images are to a convolution: M independent ones.
Feature maps come in and go out because that is how the convolutions around them hold the data; each decomposition
decides itself what to transpose. M appears in no shape, so that an exported graph computes none.

To add a decomposition: write the function, put it into `DECOMPOSITIONS`, and add its name to
`aaexport.recipe.DecompositionName`; tests/test_relative.py then holds it to the definition.
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
    logits = _content_logits(q, k)  # (M, H·W, H·W)
    if rel_height is not None and rel_width is not None:
        along_width = _skewed_logits(q.permute(0, 2, 3, 1), rel_width)  # (M, H, W, W): [h, w, j]
        along_width = along_width.unsqueeze(3).expand(-1, -1, -1, height, -1)
        along_height = _skewed_logits(q.permute(0, 3, 2, 1), rel_height)  # (M, W, H, H): [w, h, i]
        along_height = along_height.transpose(1, 2).unsqueeze(4).expand(-1, -1, -1, -1, width)
        logits = logits + along_width.reshape(logits.shape) + along_height.reshape(logits.shape)
    return _attend(logits, v)


def table(q: Tensor, k: Tensor, v: Tensor, rel_height: Tensor | None, rel_width: Tensor | None) -> Tensor:
    """Relative embeddings gathered into one table an axis beforehand; the relative logits are batched products.

    The tables T_height[h, :, i] = r_height[i − h + H − 1] and T_width[w, :, j] depend on weights alone, so an
    exporter folds them into constants. The logits are added by broadcasting, never tiled.
    """
    height, width = q.shape[-2:]
    q = _scaled(q)
    logits = _content_logits(q, k)  # (M, H·W, H·W)
    if rel_height is not None and rel_width is not None:
        along_height = q.permute(0, 2, 3, 1) @ _gathered(rel_height)  # (M, H, W, H): [h, w, i]
        along_width = q.permute(0, 3, 2, 1) @ _gathered(rel_width)  # (M, W, H, W): [w, h, j]
        along_height = along_height.reshape(-1, height * width, height, 1)
        along_width = along_width.transpose(1, 2).reshape(-1, height * width, 1, width)
        logits = logits.reshape(-1, height * width, height, width) + along_height + along_width
        logits = logits.flatten(2)
    return _attend(logits, v)


DECOMPOSITIONS: dict[DecompositionName, Decomposition] = {"skew": skew, "table": table}


def _scaled(q: Tensor) -> Tensor:
    """q·dkh^−½: scaling q scales content and relative logits alike, as in the paper."""
    scale: float = q.shape[1] ** -0.5
    return q * scale


def _content_logits(q: Tensor, k: Tensor) -> Tensor:
    """QKᵀ, (M, H·W, H·W)."""
    return torch.bmm(q.flatten(2).transpose(1, 2), k.flatten(2))


def _attend(logits: Tensor, v: Tensor) -> Tensor:
    """softmax(logits)·V as feature maps, (M, dvh, H, W)."""
    depth, height, width = v.shape[1:]
    out = torch.bmm(torch.softmax(logits, dim=-1), v.flatten(2).transpose(1, 2))  # (M, H·W, dvh)
    return out.transpose(1, 2).reshape(-1, depth, height, width)


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
    position = torch.arange(length, device=embeddings.device)
    offset = position[None, :] - position[:, None] + length - 1  # (L, L): [a, b]
    return embeddings[offset.flatten()].reshape(length, length, -1).transpose(1, 2)
