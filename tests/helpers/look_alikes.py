"""Layers and networks of other people, rebuilt to their names, shapes and arithmetic; torch is all they need.

Each is what its public source computes, told in other words: tests hold the adapters to them, and export them.
"""

import torch
from mynets import AugmentedConv as ReferenceConv
from mynets import relative_logits
from torch import nn

# leaderj1001/Attention-Augmented-Conv2d; its layer and its network are in examples/08_bring_your_own_model


class InPaperConv(ReferenceConv):
    """`AugmentedConv` of in_paper_attention_augmented_conv: 1×1 queries, new random tables at every call."""

    def __init__(self, in_channels, out_channels, kernel_size, dk, dv, Nh, relative):  # noqa: N803
        super().__init__(in_channels, out_channels, kernel_size, dk, dv, Nh)
        self.relative = relative
        self.conv_out = nn.Conv2d(in_channels, out_channels - dv, kernel_size, padding=1)
        self.qkv_conv = nn.Conv2d(in_channels, 2 * dk + dv, 1)

    def tables(self, q):
        depth, height, width = q.shape[2:]
        return (torch.randn(2 * side - 1, depth, dtype=q.dtype, device=q.device) for side in (height, width))


# LegenDong/attention-augmented.pytorch


class AugmentedLayer(nn.Module):
    """`AugmentedLayer`: 1×1 queries, tables of two lengths, heads permuted as in the paper."""

    def __init__(self, in_channels, out_channels, kernel_size, padding, dk, dv, Nh, relative=True, fh=None, fw=None):  # noqa: N803
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size, self.padding = kernel_size, padding
        self.dk, self.dv, self.Nh = dk, dv, Nh
        self.relative, self.fh, self.fw = relative, fh, fw
        self.conv_layer = nn.Conv2d(in_channels, out_channels - dv, kernel_size, padding=padding)
        self.qkv_layer = nn.Conv2d(in_channels, 2 * dk + dv, 1)
        self.attn_layer = nn.Conv2d(dv, dv, 1)
        if relative:
            self.key_rel_w = nn.Parameter(torch.randn(2 * fw - 1, dk // Nh) + dk**-0.5)
            self.key_rel_h = nn.Parameter(torch.randn(2 * fh - 1, dk // Nh) + dk**-0.5)

    def forward(self, x):
        batch, _, height, width = x.shape
        q, k, v = (part.reshape(batch, self.Nh, -1, height, width)
                   for part in self.qkv_layer(x).split([self.dk, self.dk, self.dv], dim=1))  # fmt: skip
        q *= (self.dk // self.Nh) ** -0.5
        logits = q.flatten(3).transpose(2, 3) @ k.flatten(3)
        if self.relative:
            logits += relative_logits(q, self.key_rel_h, self.key_rel_w)
        attended = logits.softmax(dim=-1) @ v.flatten(3).transpose(2, 3)
        attended = attended.transpose(2, 3).reshape(batch, self.dv, height, width)
        return torch.cat([self.conv_layer(x), self.attn_layer(attended)], dim=1)


# d-li14/dot-product-attention


class SelfAttention2d(nn.Module):
    """`SelfAttention2d`: the keys come first, and the heads are not permuted."""

    def __init__(self, in_channels, out_channels, kernel_size, dk, dv, Nh, size=None, relative=False, stride=1):  # noqa: N803
        super().__init__()
        self.dk, self.dv, self.Nh, self.relative, self.stride = dk, dv, Nh, relative, stride
        self.conv_out = nn.Conv2d(in_channels, out_channels - dv, kernel_size, stride, (kernel_size - 1) // 2)
        self.conv_kqv = nn.Conv2d(in_channels, 2 * dk + dv, 1, stride)
        self.attn_out = nn.Conv2d(dv, dv, 1)
        if relative:
            self.key_rel_w = nn.Parameter(torch.randn(2 * size - 1, dk // Nh))
            self.key_rel_h = nn.Parameter(torch.randn(2 * size - 1, dk // Nh))

    def forward(self, x):
        convolved = self.conv_out(x)
        size = convolved.shape[2:]
        k, q, v = self.parts(x)
        q *= (self.dk // self.Nh) ** -0.5
        q, k, v = (part.reshape(x.shape[0], self.Nh, -1, *size) for part in (q, k, v))
        logits = q.flatten(3).transpose(2, 3) @ k.flatten(3)
        if self.relative:
            logits += relative_logits(q, self.key_rel_h, self.key_rel_w)
        attended = logits.softmax(dim=-1) @ v.flatten(3).transpose(2, 3)
        return torch.cat([convolved, self.attn_out(attended.reshape(x.shape[0], self.dv, *size))], dim=1)

    def parts(self, x):
        """Keys, queries and values, (B, depth, H, W) each."""
        return self.conv_kqv(x).split([self.dk, self.dk, self.dv], dim=1)


class PooledBottleneck(nn.Module):
    """Its `AABottleneck` with `downsize`: attention on an averaged map, brought back bilinearly, around the layer."""

    def __init__(self, in_planes=8, planes=8, size=8, dk=16, dv=8, Nh=4):  # noqa: N803
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.downsample_att = nn.AvgPool2d(kernel_size=3, stride=2, padding=1)
        self.conv2 = SelfAttention2d(planes, 2 * planes, 3, dk, dv, Nh, size=size // 2, relative=True)
        self.upsample_att = nn.Upsample(scale_factor=2, mode="bilinear")
        self.bn2 = nn.BatchNorm2d(2 * planes)
        self.conv3 = nn.Conv2d(2 * planes, in_planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(in_planes)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.upsample_att(self.conv2(self.downsample_att(out)))
        out = self.bn3(self.conv3(self.relu(self.bn2(out))))
        out += x
        return self.relu(out)


# timm


class RelativePositions(nn.Module):
    """`PosEmbedRel`: the relative logits of (B·Nh, H·W, dkh) queries."""

    def __init__(self, feat_size, dim_head, scale):
        super().__init__()
        self.height, self.width = feat_size
        self.dim_head = dim_head
        self.height_rel = nn.Parameter(torch.randn(2 * self.height - 1, dim_head) * scale)
        self.width_rel = nn.Parameter(torch.randn(2 * self.width - 1, dim_head) * scale)

    def forward(self, q):
        maps = q.transpose(1, 2).reshape(len(q), 1, -1, self.height, self.width)
        return relative_logits(maps, self.height_rel, self.width_rel).squeeze(1)


class BottleneckAttn(nn.Module):
    """`BottleneckAttn`: relative logits of queries that are not scaled, unless `scale_pos_embed`."""

    def __init__(
        self, dim, dim_out=None, feat_size=None, stride=1, num_heads=4, dim_head=None, qkv_bias=False,
        scale_pos_embed=False,
    ):  # fmt: skip
        super().__init__()
        dim_out = dim_out or dim
        self.num_heads = num_heads
        self.dim_head_qk, self.dim_head_v = dim_head or dim_out // num_heads, dim_out // num_heads
        self.dim_out_qk, self.dim_out_v = num_heads * self.dim_head_qk, num_heads * self.dim_head_v
        self.scale, self.scale_pos_embed = self.dim_head_qk**-0.5, scale_pos_embed
        self.qkv = nn.Conv2d(dim, 2 * self.dim_out_qk + self.dim_out_v, 1, bias=qkv_bias)
        self.pos_embed = RelativePositions(feat_size, self.dim_head_qk, self.scale)
        self.pool = nn.AvgPool2d(2, 2) if stride == 2 else nn.Identity()

    def forward(self, x):
        parts = self.qkv(x).split([self.dim_out_qk, self.dim_out_qk, self.dim_out_v], dim=1)
        q, k, v = (part.reshape(x.shape[0] * self.num_heads, -1, x.shape[2] * x.shape[3]) for part in parts)
        q = q.transpose(1, 2)
        if self.scale_pos_embed:
            logits = (q @ k + self.pos_embed(q)) * self.scale
        else:
            logits = (q @ k) * self.scale + self.pos_embed(q)
        out = (logits.softmax(dim=-1) @ v.transpose(1, 2)).transpose(1, 2)
        return self.pool(out.reshape(x.shape[0], self.dim_out_v, *x.shape[2:]))


# lucidrains/bottleneck-transformer-pytorch


class RelPosEmb(nn.Module):
    """The relative logits of (B, Nh, H·W, d) queries, scaled before."""

    def __init__(self, fmap_size, dim_head):
        super().__init__()
        self.fmap_size = fmap_size
        self.rel_height = nn.Parameter(torch.randn(2 * fmap_size[0] - 1, dim_head) * dim_head**-0.5)
        self.rel_width = nn.Parameter(torch.randn(2 * fmap_size[1] - 1, dim_head) * dim_head**-0.5)

    def forward(self, q):
        return relative_logits(q.transpose(2, 3).unflatten(3, self.fmap_size), self.rel_height, self.rel_width)


class AbsPosEmb(nn.Module):
    """Logits by where the key is: the default, and no relative attention."""

    def __init__(self, fmap_size, dim_head):
        super().__init__()
        self.height = nn.Parameter(torch.randn(fmap_size[0], dim_head) * dim_head**-0.5)
        self.width = nn.Parameter(torch.randn(fmap_size[1], dim_head) * dim_head**-0.5)

    def forward(self, q):
        return q @ (self.height[:, None] + self.width).flatten(0, 1).transpose(0, 1)


class BottleAttention(nn.Module):
    """`Attention`, inside a BottleStack."""

    def __init__(self, *, dim, fmap_size, heads=4, dim_head=128, rel_pos_emb=False):
        super().__init__()
        self.heads, self.scale = heads, dim_head**-0.5
        self.to_qkv = nn.Conv2d(dim, 3 * heads * dim_head, 1, bias=False)
        self.pos_emb = (RelPosEmb if rel_pos_emb else AbsPosEmb)(fmap_size, dim_head)

    def forward(self, fmap):
        batch, _, height, width = fmap.shape
        q, k, v = (part.reshape(batch, self.heads, -1, height * width).transpose(2, 3)
                   for part in self.to_qkv(fmap).chunk(3, dim=1))  # fmt: skip
        q = q * self.scale
        weights = (q @ k.transpose(2, 3) + self.pos_emb(q)).softmax(dim=-1)
        return (weights @ v).transpose(2, 3).reshape(batch, -1, height, width)


class BottleBlock(nn.Module):
    """Contraction, attention, expansion beside a shortcut; halving the map with `downsample`, after the attention."""

    def __init__(self, *, dim, fmap_size, dim_out, proj_factor, downsample, heads, dim_head, rel_pos_emb):
        super().__init__()
        self.shortcut = nn.Identity()
        if dim != dim_out or downsample:
            kernel_size, stride, padding = (3, 2, 1) if downsample else (1, 1, 0)
            self.shortcut = nn.Sequential(
                nn.Conv2d(dim, dim_out, kernel_size, stride, padding, bias=False), nn.BatchNorm2d(dim_out), nn.ReLU()
            )
        inner = dim_out // proj_factor
        self.net = nn.Sequential(
            nn.Conv2d(dim, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            BottleAttention(dim=inner, fmap_size=fmap_size, heads=heads, dim_head=dim_head, rel_pos_emb=rel_pos_emb),
            nn.AvgPool2d((2, 2)) if downsample else nn.Identity(),
            nn.BatchNorm2d(heads * dim_head),
            nn.ReLU(),
            nn.Conv2d(heads * dim_head, dim_out, 1, bias=False),
            nn.BatchNorm2d(dim_out),
        )
        self.activation = nn.ReLU()

    def forward(self, x):
        return self.activation(self.net(x) + self.shortcut(x))


class BottleStack(nn.Module):
    """Some of these, the first of which may halve the map."""

    def __init__(
        self, *, dim, fmap_size, dim_out=64, proj_factor=4, num_layers=3, heads=4, dim_head=8, downsample=True,
        rel_pos_emb=False,
    ):  # fmt: skip
        super().__init__()
        blocks = []
        for number in range(num_layers):
            options = {"proj_factor": proj_factor, "heads": heads, "dim_head": dim_head, "rel_pos_emb": rel_pos_emb}
            halves = downsample and number == 0
            blocks.append(BottleBlock(dim=dim, dim_out=dim_out, fmap_size=fmap_size, downsample=halves, **options))
            dim = dim_out
            fmap_size = tuple(side // 2 for side in fmap_size) if halves else fmap_size
        self.net = nn.Sequential(*blocks)

    def forward(self, x):
        return self.net(x)
