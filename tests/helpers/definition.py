"""2-D relative attention as its formula reads, in float64: what every decomposition and every layer must equal.

Nothing is imported from aaexport: this is the second, independent reading of Bello et al. 2019, section 3.2.1.
"""

import math

import numpy as np
import torch
from torch.nn import functional


def attention(q, k, v, rel_height=None, rel_width=None):
    """out(h, w) = Σ softmax over (i, j) of q(h, w)·(k(i, j) + r_height[i − h] + r_width[j − w]) / √dkh · v(i, j).

    q, k (M, dkh, H, W), v (M, dvh, H, W), tables (2H − 1, dkh) and (2W − 1, dkh) whose middle row is offset 0,
    or None for no relative terms. → (M, H·W, dvh), a row a query, float64.
    """
    q, k, v = (_array(tensor) for tensor in (q, k, v))
    count, key_depth, height, width = q.shape
    if rel_height is None:
        rel_height, rel_width = np.zeros((2 * height - 1, key_depth)), np.zeros((2 * width - 1, key_depth))
    rel_height, rel_width = _array(rel_height), _array(rel_width)
    positions = [(row, column) for row in range(height) for column in range(width)]
    out = np.zeros((count, height, width, v.shape[1]))
    for m in range(count):
        for h, w in positions:
            logits = [
                q[m, :, h, w]
                @ (k[m, :, i, j] + rel_height[height - 1 + (i - h)] + rel_width[width - 1 + (j - w)])
                / math.sqrt(key_depth)
                for i, j in positions
            ]
            weights = [math.exp(logit - max(logits)) for logit in logits]
            for (i, j), weight in zip(positions, weights, strict=True):
                out[m, h, w] += weight / math.fsum(weights) * v[m, :, i, j]
    return torch.from_numpy(out).flatten(1, 2)


def attention_at_once(q, k, v, rel_height=None, rel_width=None):
    """The same without loops, so that larger maps take no minutes, and differentiable.

    Every query has keys of its own, k(i, j) + r_height[i − h] + r_width[j − w]: (M, H, W, H, W, dkh).
    """
    height, width = q.shape[2:]
    keys = k.permute(0, 2, 3, 1)[:, None, None].expand(-1, height, width, -1, -1, -1)
    if rel_height is not None:
        rows, columns = torch.arange(height), torch.arange(width)
        keys = keys + rel_height[height - 1 + rows[None, :] - rows[:, None]][:, None, :, None]
        keys = keys + rel_width[width - 1 + columns[None, :] - columns[:, None]][:, None, :]
    logits = torch.einsum("mdhw,mhwijd->mhwij", q, keys) / math.sqrt(q.shape[1])
    weights = logits.flatten(3).softmax(dim=3).view_as(logits)
    return torch.einsum("mhwij,mdij->mhwd", weights, v).flatten(1, 2)


def up_to_whole(size, step):
    return math.ceil(size / step)


def reference(layer, x, attend=attention):
    """concat[Conv(x), MHA(x)] from the layer's weights alone, with the loops of the definition."""

    def convolved(convolution, value, stride):
        kernel = convolution.weight.shape[-1]
        return functional.conv2d(
            value, convolution.weight, convolution.bias, stride=stride, padding=(kernel - 1) // 2
        )

    pooled = x
    if layer.attention_downsample == 2:
        pooled = functional.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
    qkv = convolved(layer.qkv, pooled, layer.stride)
    q, k, v = qkv[:, : layer.dk], qkv[:, layer.dk : 2 * layer.dk], qkv[:, 2 * layer.dk :]
    dkh, dvh = layer.dk // layer.num_heads, layer.dv // layer.num_heads
    heads = [
        attend(
            q[:, head * dkh : (head + 1) * dkh],
            k[:, head * dkh : (head + 1) * dkh],
            v[:, head * dvh : (head + 1) * dvh],
            layer.rel_height,
            layer.rel_width,
        )
        for head in range(layer.num_heads)
    ]
    if layer.head_layout == "permuted":  # else channels are last in memory, and read as if they came first
        heads = [head.transpose(1, 2).contiguous() for head in heads]
    heads = [head.view(len(x), dvh, *q.shape[2:]) for head in heads]
    attended = convolved(layer.projection, torch.cat(heads, dim=1), 1)
    if layer.attention_downsample == 2:
        size = [up_to_whole(side, layer.stride) for side in x.shape[2:]]
        attended = functional.interpolate(attended, size=size, mode="bilinear", align_corners=False)
    if layer.dv == layer.out_channels:
        return attended
    return torch.cat([convolved(layer.conv, x, layer.stride), attended], dim=1)


def _array(tensor):
    return np.asarray(tensor.detach() if isinstance(tensor, torch.Tensor) else tensor, dtype=np.float64)
