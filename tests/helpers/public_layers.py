"""Attention-augmented layers in the ways in which public PyTorch code writes them, each small, one class a way.

Written anew; what differs between them is what is known to differ in the wild: which axes are kept, what is repeated
and how, when the queries are scaled, what is added to what, and whether the heads' outputs are permuted or only
reshaped.
"""

import torch
from torch import nn
from torch.nn import functional


def padded_skew(by_offset):
    """(…, L, 2L − 1) → (…, L, L), by a column of zeros, reading it again as rows one shorter, and a slice."""
    *others, length, _ = by_offset.shape
    column = torch.zeros(*others, length, 1).to(by_offset)
    flat = torch.cat([by_offset, column], dim=-1).reshape(*others, length * 2 * length)
    flat = torch.cat([flat, torch.zeros(*others, length - 1).to(by_offset)], dim=-1)
    return flat.reshape(*others, length + 1, 2 * length - 1)[..., :length, length - 1 :]


class Layer(nn.Module):
    """Convolutions and tables; attention of (B, Nh, d, H, W) is the subclasses'."""

    heads, dkh, dvh = 2, 4, 2

    def __init__(self, channels=3, size=(3, 4), kernel=1):
        super().__init__()
        dk, dv = self.heads * self.dkh, self.heads * self.dvh
        self.size = size
        self.beside = nn.Conv2d(channels, 4, 3, padding=1)
        self.qkv = nn.Conv2d(channels, 2 * dk + dv, kernel, padding=kernel // 2)
        self.out = nn.Conv2d(dv, dv, 1)
        self.rows, self.columns = (nn.Parameter(torch.randn(2 * length - 1, self.dkh)) for length in size)

    @property
    def depths(self):
        return [self.heads * self.dkh, self.heads * self.dkh, self.heads * self.dvh]

    def forward(self, x):
        attended = self.attention(*torch.split(self.qkv(x), self.depths, dim=1))
        return torch.cat([self.beside(x), self.out(attended)], dim=1)

    def by_head(self, x):
        batch, channels, height, width = x.size()
        return torch.reshape(x, (batch, self.heads, channels // self.heads, height, width))

    def relative(self, by_position, table):
        """(B, Nh, K, L, d) → (B, Nh, K, K, L, L): every offset, skewed, and repeated as often as there are others."""
        _, heads, others, length, _ = by_position.size()
        by_offset = torch.einsum("bhxyd,md->bhxym", by_position, table)
        skewed = padded_skew(by_offset.reshape(-1, heads * others, length, 2 * length - 1))
        return skewed.reshape(-1, heads, others, length, length).unsqueeze(3).repeat(1, 1, 1, others, 1, 1)


class Unpermuted(Layer):
    """Scaled in place after the heads are split; heads' outputs (N, dvh) read on as (dvh, N); square maps only."""

    def attention(self, q, k, v):
        batch, _, height, width = q.size()
        q, k, v = self.by_head(q), self.by_head(k), self.by_head(v)
        q *= self.dkh**-0.5
        flat_q, flat_k, flat_v = (x.reshape(batch, self.heads, x.shape[2], height * width) for x in (q, k, v))
        logits = torch.matmul(flat_q.transpose(2, 3), flat_k)
        by_position = torch.transpose(q, 2, 4).transpose(2, 3)
        across = self.relative(by_position, self.columns).transpose(3, 4)
        down = self.relative(by_position.transpose(2, 3), self.rows)
        down = down.transpose(2, 4).transpose(4, 5).transpose(3, 5)
        logits += down.reshape(-1, self.heads, height * width, height * width)
        logits += across.reshape(-1, self.heads, height * width, height * width)
        attended = torch.matmul(functional.softmax(logits, dim=-1), flat_v.transpose(2, 3))
        attended = torch.reshape(attended, (batch, self.heads, self.dvh, height, width))
        return torch.reshape(attended, (batch, self.heads * self.dvh, height, width))


class KeysFirst(Unpermuted):
    """Its convolution yields keys before queries, and queries are scaled before the heads are split."""

    def forward(self, x):
        k, q, v = torch.split(self.qkv(x), self.depths, dim=1)
        q = q * self.dkh**-0.5 / self.dkh**-0.5
        return torch.cat([self.beside(x), self.out(self.attention(q, k, v))], dim=1)


class Permuted(Layer):
    """Permutations in one go, and of the heads' outputs too; maps of any form."""

    def attention(self, q, k, v):
        batch, _, height, width = q.size()
        q, k, v = self.by_head(q), self.by_head(k), self.by_head(v)
        q = q * self.dkh**-0.5
        flat_q, flat_k, flat_v = (x.reshape(batch, self.heads, x.shape[2], -1) for x in (q, k, v))
        logits = torch.matmul(flat_q.transpose(2, 3), flat_k)
        by_position = q.permute(0, 1, 3, 4, 2).contiguous()
        across = self.relative(by_position, self.columns).permute(0, 1, 2, 4, 3, 5).contiguous()
        down = self.relative(by_position.transpose(2, 3), self.rows).permute(0, 1, 4, 2, 5, 3).contiguous()
        logits = logits + across.view(-1, self.heads, height * width, height * width)
        logits = logits + down.view(-1, self.heads, height * width, height * width)
        attended = torch.matmul(functional.softmax(logits, dim=-1), flat_v.transpose(2, 3))
        attended = attended.transpose(2, 3).contiguous().view(batch, self.heads, self.dvh, height, width)
        return attended.view(batch, self.heads * self.dvh, height, width)


class Expanded(Layer):
    """Positions flattened at once; einsums everywhere; expanded, not repeated; both axes added before the logits."""

    def relative(self, by_position, table):
        by_offset = torch.einsum("b h x y d, r d -> b h x y r", by_position, table)
        batch, heads, others, length, _ = by_offset.shape
        skewed = padded_skew(by_offset.reshape(batch, heads * others, length, 2 * length - 1))
        skewed = skewed.reshape(batch, heads, others, length, length).unsqueeze(3)
        return skewed.expand(-1, -1, -1, others, -1, -1)

    def attention(self, q, k, v):
        height, width = self.size
        batch = q.shape[0]
        q, k, v = (self.by_head(x).flatten(3).transpose(2, 3) for x in (q, k, v))
        q = q * self.dkh**-0.5
        by_position = q.reshape(batch, self.heads, height, width, self.dkh)
        across = self.relative(by_position, self.columns).permute(0, 1, 2, 4, 3, 5).flatten(4).flatten(2, 3)
        down = (
            self.relative(by_position.transpose(2, 3), self.rows).permute(0, 1, 4, 2, 5, 3).flatten(4).flatten(2, 3)
        )
        logits = torch.einsum("b h i d, b h j d -> b h i j", q, k) + (across + down)
        attended = torch.einsum("b h i j, b h j d -> b h i d", logits.softmax(dim=-1), v)
        return attended.transpose(2, 3).reshape(batch, -1, height, width)


class ContentScaled(Layer):
    """Heads are images; only q·k is scaled; skewed by padding a flat tensor; both axes summed before a reshape."""

    def relative(self, by_position, table, order):
        maps, others, length, _ = by_position.shape
        by_offset = (by_position @ table.transpose(-1, -2)).reshape(-1, length, 2 * length - 1)
        flat = functional.pad(functional.pad(by_offset, [0, 1]).flatten(1), [0, length - 1])
        skewed = flat.reshape(-1, length + 1, 2 * length - 1)[:, :length, length - 1 :]
        return skewed.reshape(maps, others, 1, length, length).expand(-1, -1, others, -1, -1).permute(order)

    def attention(self, q, k, v):
        batch, _, height, width = q.shape
        positions = height * width
        q = q.reshape(batch * self.heads, self.dkh, -1).transpose(-1, -2)
        k = k.reshape(batch * self.heads, self.dkh, -1)
        v = v.reshape(batch * self.heads, self.dvh, -1).transpose(-1, -2)
        by_position = q.reshape(-1, height, width, self.dkh)
        across = self.relative(by_position, self.columns, (0, 1, 3, 2, 4))
        down = self.relative(by_position.transpose(1, 2), self.rows, (0, 3, 1, 4, 2))
        logits = (q @ k) * self.dkh**-0.5 + (down + across).reshape(-1, positions, positions)
        attended = logits.softmax(dim=-1) @ v
        return attended.transpose(-1, -2).reshape(batch, -1, height, width)


class ChannelsFirst(Layer):
    """Queries and values stay maps of channels: relative logits by one einsum of them, the values' product too."""

    def relative(self, maps, table):
        by_offset = torch.einsum("bhdxy,md->bhxym", maps, table)
        return padded_skew(by_offset)

    def logits(self, q, k, relative):
        return torch.einsum("bnci,bncj->bnij", q.flatten(3), k.flatten(3)) + relative.flatten(4).flatten(2, 3)

    def attended(self, weights, v):
        return torch.einsum("bnqk,bnvk->bnvq", weights, v.flatten(3))

    def attention(self, q, k, v):
        q, k, v = self.by_head(q), self.by_head(k), self.by_head(v)
        q = q * self.dkh**-0.5
        across = self.relative(q, self.columns).unsqueeze(4).expand(-1, -1, -1, -1, self.size[0], -1)
        down = self.relative(q.transpose(3, 4), self.rows).permute(0, 1, 3, 2, 4).unsqueeze(5)
        weights = self.logits(q, k, across + down).softmax(dim=-1)
        return self.attended(weights, v).reshape(q.shape[0], -1, *self.size)


class RelativeToKeys(ChannelsFirst):
    """Looks like the others, but its relative logits are products of the keys."""

    def attention(self, q, k, v):
        q, k, v = self.by_head(q), self.by_head(k), self.by_head(v)
        across = self.relative(k, self.columns).unsqueeze(4).expand(-1, -1, -1, -1, self.size[0], -1)
        down = self.relative(k.transpose(3, 4), self.rows).permute(0, 1, 3, 2, 4).unsqueeze(5)
        return self.attended(self.logits(q, k, across + down).softmax(dim=-1), v).reshape(q.shape[0], -1, *self.size)


class SixAxes(ChannelsFirst):
    """Logits and weights of positions and positions: nothing is ever flattened but for the softmax."""

    def logits(self, q, k, relative):
        six = torch.einsum("bndhw,bndij->bnhwij", q, k) + relative
        return six.reshape(*six.shape[:2], six.shape[2] * six.shape[3], -1)

    def attended(self, weights, v):
        by_position = weights.reshape(*weights.shape[:2], *self.size, *self.size)
        attended = torch.einsum("bnhwij,bnijd->bhwnd", by_position, v.permute(0, 1, 3, 4, 2))
        return attended.flatten(3).permute(0, 3, 1, 2)


class SideBySide(nn.Module):
    """One layer of each kind: one export tells of all."""

    def __init__(self, kinds):
        super().__init__()
        self.layers = nn.ModuleList(kind(size=(3, 3) if issubclass(kind, Unpermuted) else (3, 2)) for kind in kinds)

    def forward(self, x):
        return torch.cat([layer(x[..., : layer.size[1]]).flatten(2) for layer in self.layers], dim=2)
