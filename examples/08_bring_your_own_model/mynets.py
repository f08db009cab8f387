"""A network as people have trained it: layers to the names, shapes and arithmetic of leaderj1001's PyTorch code."""

import torch
from torch import nn
from torch.nn import functional


def skewed(by_offset):
    """(…, L, 2L − 1) by offset b − a → (…, L, L) by position b: row a begins at column L − 1 − a."""
    *others, length, offsets = by_offset.shape
    flat = functional.pad(functional.pad(by_offset, (0, 1)).flatten(-2), (0, length - 1))
    return flat.reshape(*others, length + 1, offsets)[..., :length, length - 1 :]


def relative_logits(q, along_height, along_width):
    """q (B, Nh, dkh, H, W) and the tables → (B, Nh, H·W, H·W), tiled as the sources do it."""
    height, width = q.shape[-2:]
    q = q.permute(0, 1, 3, 4, 2)
    columns = skewed(torch.einsum("bnhwd,od->bnhwo", q, along_width))  # (B, Nh, H, W, W): [h, w, j]
    rows = skewed(torch.einsum("bnwhd,od->bnwho", q.transpose(2, 3), along_height))  # (B, Nh, W, H, H): [w, h, i]
    columns = columns.unsqueeze(4).repeat(1, 1, 1, 1, height, 1)  # [h, w, i, j]
    rows = rows.transpose(2, 3).unsqueeze(5).repeat(1, 1, 1, 1, 1, width)
    return (columns + rows).flatten(4).flatten(2, 3)


class AugmentedConv(nn.Module):
    """A convolution beside attention: kernel-size queries, one `shape` for both axes, heads not put side by side."""

    def __init__(self, in_channels, out_channels, kernel_size, dk, dv, Nh, shape=0, relative=False, stride=1):  # noqa: N803
        super().__init__()
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        self.dk, self.dv, self.Nh = dk, dv, Nh
        self.shape, self.relative, self.stride = shape, relative, stride
        self.padding = (kernel_size - 1) // 2
        self.conv_out = nn.Conv2d(in_channels, out_channels - dv, kernel_size, stride, self.padding)
        self.qkv_conv = nn.Conv2d(in_channels, 2 * dk + dv, kernel_size, stride, self.padding)
        self.attn_out = nn.Conv2d(dv, dv, 1)
        if relative:
            self.key_rel_w = nn.Parameter(torch.randn(2 * shape - 1, dk // Nh))
            self.key_rel_h = nn.Parameter(torch.randn(2 * shape - 1, dk // Nh))

    def forward(self, x):
        convolved = self.conv_out(x)
        q, k, v = self.heads(x)
        logits = self.logits(q, k)
        attended = self.weights(logits) @ v.flatten(3).transpose(2, 3)  # (B, Nh, H·W, dvh)
        return torch.cat([convolved, self.attn_out(self.combined(attended, convolved.shape))], dim=1)

    def heads(self, x):
        """(B, Nh, depth, H, W) each, q scaled in place, which gradients cannot follow."""
        parts = self.qkv_conv(x).split([self.dk, self.dk, self.dv], dim=1)
        q, k, v = (part.reshape(x.shape[0], self.Nh, -1, *part.shape[2:]) for part in parts)
        q *= (self.dk // self.Nh) ** -0.5
        return q, k, v

    def logits(self, q, k):
        content = q.flatten(3).transpose(2, 3) @ k.flatten(3)
        return content + relative_logits(q, *self.tables(q)) if self.relative else content

    def tables(self, q):
        return self.key_rel_h, self.key_rel_w

    def weights(self, logits):
        return logits.softmax(dim=-1)

    def combined(self, attended, shape):
        """Read as maps as it lies in memory: (Nh, H·W, dvh) as (dv, H, W)."""
        return attended.reshape(shape[0], self.dv, *shape[2:])


class Net(nn.Module):
    """Three augmented convolutions and a classifier, for square images of `side` pixels."""

    def __init__(self, width, num_classes=10, channels=1, side=8):
        super().__init__()
        attention = {"kernel_size": 3, "dk": 40, "dv": 8, "Nh": 4, "relative": True}
        self.layers = nn.Sequential(
            AugmentedConv(channels, width, shape=side, **attention),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            AugmentedConv(width, 2 * width, shape=side // 2, stride=2, **attention),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            AugmentedConv(2 * width, 2 * width, shape=side // 2, **attention),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
        )
        self.classify = nn.Linear(2 * width, num_classes)

    def forward(self, x):
        return self.classify(self.layers(x).mean((2, 3)))
