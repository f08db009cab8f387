"""2-D relative attention as the public PyTorch implementations write it: the side that aaexport is compared with."""

import torch


def naive(q, k, v, rel_height, rel_width, blocks=1):
    """The paper's formulas, step by step: einsum, a column of zeros, reshape, slice, repeat, transpose."""
    maps, depth, height, width = q.shape
    q = q * depth**-0.5
    flat_q, flat_k, flat_v = (x.reshape(maps, x.shape[1], height * width) for x in (q, k, v))
    logits = torch.matmul(flat_q.transpose(1, 2), flat_k)
    by_position = q.permute(0, 2, 3, 1)
    along_width = relative_logits(by_position, rel_width, height)  # [h, i, w, j]
    along_height = relative_logits(by_position.transpose(1, 2), rel_height, width)  # [w, j, h, i]
    logits = logits + along_width.permute(0, 1, 3, 2, 4).reshape(logits.shape)
    logits = logits + along_height.permute(0, 3, 1, 4, 2).reshape(logits.shape)
    return torch.matmul(torch.softmax(logits, dim=-1), flat_v.transpose(1, 2))


def relative_logits(q, embeddings, repeats):
    """(maps, K, L, d) → (maps, K, repeats, L, L)."""
    maps, others, length, _ = q.shape
    by_offset = torch.einsum("mkld,od->mklo", q, embeddings)
    by_offset = by_offset.reshape(-1, others, length, 2 * length - 1)
    zeros = torch.zeros((maps, others, length, 1), dtype=q.dtype, device=q.device)
    flat = torch.cat([by_offset, zeros], dim=3).reshape(maps, others, length * 2 * length)
    flat = torch.cat([flat, zeros[:, :, : length - 1, 0]], dim=2)
    skewed = flat.reshape(maps, others, length + 1, 2 * length - 1)[:, :, :length, length - 1 :]
    return skewed.unsqueeze(2).repeat(1, 1, repeats, 1, 1)
