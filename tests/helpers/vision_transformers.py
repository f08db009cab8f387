"""Attention of tokens as vision transformers write it: plain, and with decomposed relative positions as in SAM."""

import torch
from torch import nn
from torch.nn import functional

SAM_B = {"size": 1024, "dim": 768, "depth": 12, "heads": 12, "window": 14, "whole": (2, 5, 8, 11), "out": 256}


class PlainAttention(nn.Module):
    """softmax(q·kᵀ)·v of all tokens, by matrix products, or by PyTorch's operator (`fused`)."""

    def __init__(self, dim, heads, *, fused=False):
        super().__init__()
        self.heads, self.fused = heads, fused
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if self.fused:
            attended = functional.scaled_dot_product_attention(q, k, v)
        else:
            attended = (q * (dim // self.heads) ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        return self.proj(attended.transpose(1, 2).reshape(batch, tokens, dim))


class Tokens(nn.Module):
    """Images (batch, 3, H, W) → patches → one attention → a map."""

    def __init__(self, attention, dim=16, patch=4):
        super().__init__()
        self.embed = nn.Conv2d(3, dim, patch, patch)
        self.attention = attention

    def forward(self, x):
        maps = self.embed(x)
        tokens = self.attention(maps.flatten(2).transpose(1, 2))
        return tokens.transpose(1, 2).reshape(maps.shape)


def gathered(table, length):
    """(length, length, depth): for each query and key along an axis, the embedding of the offset between them."""
    place = torch.arange(length)
    return table[place[:, None] - place[None, :] + length - 1]


class DecomposedAttention(nn.Module):
    """Of maps (batch, height, width, dim): relative positions along rows and columns, as SAM and ViTDet add them."""

    def __init__(self, dim, heads, side, *, fused=False):
        super().__init__()
        self.heads, self.fused, self.scale = heads, fused, (dim // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(0.1 * torch.randn(2 * side - 1, dim // heads))
        self.rel_pos_w = nn.Parameter(0.1 * torch.randn(2 * side - 1, dim // heads))

    def forward(self, x):
        batch, height, width, dim = x.shape
        qkv = self.qkv(x).reshape(batch, height * width, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.reshape(3, batch * self.heads, height * width, -1).unbind(0)
        queries = q.reshape(batch * self.heads, height, width, -1)
        rel_h = torch.einsum("bhwc,hkc->bhwk", queries, gathered(self.rel_pos_h, height))
        rel_w = torch.einsum("bhwc,wkc->bhwk", queries, gathered(self.rel_pos_w, width))
        shape = (batch * self.heads, height, width, height, width)
        tokens = (batch * self.heads, height * width, height * width)
        if self.fused:  # of three dimensions, as in timm's samvit
            bias = (rel_h[..., :, None] + rel_w[..., None, :]).reshape(tokens)
            attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        else:
            logits = (q * self.scale) @ k.transpose(-2, -1)
            logits = (logits.view(shape) + rel_h[..., :, None] + rel_w[..., None, :]).view(tokens)
            attended = logits.softmax(dim=-1) @ v
        attended = attended.view(batch, self.heads, height, width, -1).permute(0, 2, 3, 1, 4)
        return self.proj(attended.reshape(batch, height, width, dim))


class Block(nn.Module):
    """Attention in windows of the map, or of all of it (`window` 0), and two linear layers."""

    def __init__(self, dim, heads, side, window, *, fused=False):
        super().__init__()
        self.window = window
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn = DecomposedAttention(dim, heads, window or side, fused=fused)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x):
        attended = self.norm1(x)
        attended = self._in_windows(attended) if self.window else self.attn(attended)
        x = x + attended
        return x + self.mlp(self.norm2(x))

    def _in_windows(self, x):
        batch, height, width, dim = x.shape
        side = self.window
        x = functional.pad(x, (0, 0, 0, -width % side, 0, -height % side))
        rows, columns = x.shape[1] // side, x.shape[2] // side
        x = x.view(batch, rows, side, columns, side, dim).permute(0, 1, 3, 2, 4, 5)
        x = self.attn(x.reshape(-1, side, side, dim)).view(batch, rows, columns, side, side, dim)
        x = x.permute(0, 1, 3, 2, 4, 5).reshape(batch, rows * side, columns * side, dim)
        return x[:, :height, :width]


class LayerNorm2d(nn.Module):
    """Over the channels of a map."""

    def __init__(self, channels):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        x = x - x.mean(1, keepdim=True)
        x = x / torch.sqrt(x.pow(2).mean(1, keepdim=True) + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class SamEncoder(nn.Module):
    """The image encoder of SAM: images (batch, 3, size, size) → (batch, out, size / patch, size / patch)."""

    def __init__(self, size, dim, depth, heads, window, whole, out, *, patch=16, fused=False):
        super().__init__()
        side = size // patch
        self.patch_embed = nn.Conv2d(3, dim, patch, patch)
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, side, side, dim))
        self.blocks = nn.Sequential(
            *(Block(dim, heads, side, 0 if each in whole else window, fused=fused) for each in range(depth))
        )
        self.neck = nn.Sequential(
            nn.Conv2d(dim, out, 1, bias=False),
            LayerNorm2d(out),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
            LayerNorm2d(out),
        )

    def forward(self, x):
        x = self.patch_embed(x).permute(0, 2, 3, 1) + self.pos_embed
        return self.neck(self.blocks(x).permute(0, 3, 1, 2))


def tiny_sam(**more):
    """Of 8 × 8 tokens, in windows of 3, which do not divide them, and as a whole; 2 heads of 4."""
    torch.manual_seed(0)
    return SamEncoder(32, 8, 2, 2, 3, (1,), 6, patch=4, **more).eval()
