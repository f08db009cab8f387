"""2-D relative attention as its formula reads, in loops and float64: what every decomposition must equal.

Nothing is imported from aaexport: this is the second, independent reading of Bello et al. 2019, section 3.2.1.
"""

import math

import numpy as np
import torch


def attention(q, k, v, rel_height=None, rel_width=None):
    """out(h, w) = Σ softmax over (i, j) of q(h, w)·(k(i, j) + r_height[i − h] + r_width[j − w]) / √dkh · v(i, j).

    q, k (M, dkh, H, W), v (M, dvh, H, W), tables (2H − 1, dkh) and (2W − 1, dkh) whose middle row is offset 0,
    or None for no relative terms. → (M, dvh, H, W), float64.
    """
    q, k, v = (_array(tensor) for tensor in (q, k, v))
    count, key_depth, height, width = q.shape
    if rel_height is None:
        rel_height, rel_width = np.zeros((2 * height - 1, key_depth)), np.zeros((2 * width - 1, key_depth))
    rel_height, rel_width = _array(rel_height), _array(rel_width)
    positions = [(row, column) for row in range(height) for column in range(width)]
    out = np.zeros((count, v.shape[1], height, width))
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
                out[m, :, h, w] += weight / math.fsum(weights) * v[m, :, i, j]
    return torch.from_numpy(out)


def _array(tensor):
    return np.asarray(tensor.detach() if isinstance(tensor, torch.Tensor) else tensor, dtype=np.float64)
