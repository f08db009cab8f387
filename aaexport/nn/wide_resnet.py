"""Wide residual networks (Zagoruyko & Komodakis 2016), plain or augmented, the paper's or the reference's way."""

from __future__ import annotations

from torch import Tensor, nn

from aaexport.nn.convolution import Size, shrunk
from aaexport.nn.layers import augmentable, initialise
from aaexport.recipe import Attention, Input, WideResNet


class WideResidualNetwork(nn.Module):
    """A 3×3 convolution, three stages of pre-activated blocks, normalization, pooling, one linear layer.

    With `layers = "one-per-block"` the first convolution of every block is augmented (Bello et al. 2019, section
    4.1); with `"every"` all convolutions and shortcuts are, as in the PyTorch reference implementation.

    Shapes: (B, C, height, width) → logits (B, classes).
    """

    output_names = ("logits",)

    def __init__(self, network: WideResNet, attention: Attention | None, image: Input) -> None:
        super().__init__()
        channels, *widths = network.channels
        size = image.size
        bias = network.style == "reference"
        # The stem is of the first stage's size, and belongs to it.
        self.stem = augmentable(image.channels, channels, 3, 1, size, 1, _everywhere(attention), bias=bias)
        self.stages = nn.ModuleList()
        for stage, width in enumerate(widths, 1):
            stride = 1 if stage == 1 else 2
            blocks: list[nn.Module] = []
            for _ in range((network.depth - 4) // 6):
                blocks.append(PreActivatedBlock(channels, width, stride, size, stage, network, attention))
                channels, size, stride = width, shrunk(size, stride), 1
            self.stages.append(nn.Sequential(*blocks))
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, image.classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of normalised images."""
        x = self.stem(x)
        for blocks in self.stages:
            x = blocks(x)
        logits: Tensor = self.classifier(self.pool(self.relu(self.norm(x))).flatten(1))
        return logits


class PreActivatedBlock(nn.Module):
    """Normalization, ReLU and 3×3 convolution, twice, beside a shortcut."""

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        size: Size,
        stage: int,
        network: WideResNet,
        attention: Attention | None,
    ) -> None:
        super().__init__()
        bias = self.raw_shortcut = network.style == "reference"
        strides = (1, stride) if network.style == "reference" else (stride, 1)
        after_first = shrunk(size, strides[0])
        every = _everywhere(attention)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = augmentable(in_channels, width, 3, strides[0], size, stage, attention, bias=bias)
        self.dropout = nn.Dropout(network.dropout)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = augmentable(width, width, 3, strides[1], after_first, stage, every, bias=bias)
        self.relu = nn.ReLU(inplace=False)  # the shortcut may still need what comes before it
        self.shortcut: nn.Module | None = None
        if stride != 1 or in_channels != width:
            kernel_size = 3 if network.style == "reference" else 1
            self.shortcut = augmentable(in_channels, width, kernel_size, stride, size, stage, every, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """f(x) + x, or f(x) + shortcut of the normalised x (of x itself in the reference's style)."""
        activated = self.relu(self.bn1(x))
        out: Tensor = self.conv2(self.relu(self.bn2(self.dropout(self.conv1(activated)))))
        if self.shortcut is None:
            return out + x
        shortcut: Tensor = self.shortcut(x if self.raw_shortcut else activated)
        return out + shortcut


def _everywhere(attention: Attention | None) -> Attention | None:
    """The attention of the layers that are augmented with `layers = "every"` only."""
    return attention if attention is not None and attention.layers == "every" else None
