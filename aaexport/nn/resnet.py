"""Residual networks (He et al. 2016, version 1.5), plain or augmented, as classifiers or feature backbones."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from aaexport.nn.convolution import Size, convolution, shrunk
from aaexport.nn.layers import augmentable, initialise
from aaexport.recipe import Attention, Input, ResNet

BOTTLENECK_EXPANSION = 4


class ResidualNetwork(nn.Module):
    """Stem, stages of residual blocks, then global average pooling and one linear layer, or the stages' maps.

    Augmented are the first 3×3 convolution of a basic block and the one of a bottleneck (Bello et al. 2019,
    section 4.2). A plain shortcut is the identity, or a 1×1 convolution where channels or stride change.

    Shapes: (B, C, height, width) → logits (B, classes), or with `features` a tuple of maps
    (B, channels of stage s, ⌈height/stride⌉, ⌈width/stride⌉), one a stage.
    """

    # A backbone takes the weights of its trained classifier and leaves these: the classifier, and later stages.
    ignored_weights: tuple[str, ...] = ()

    def __init__(self, network: ResNet, attention: Attention | None, image: Input) -> None:
        super().__init__()
        self.feature_stages = network.features
        self.output_names = tuple(f"c{stage + 1}" for stage in network.features) or ("logits",)
        self.stem, size = _stem(network, image)
        channels = network.width
        self.stages = nn.ModuleList()
        built_stages = max(network.features, default=network.stages)
        for stage, blocks in enumerate(network.blocks[:built_stages], 1):
            width, stride = network.width * 2 ** (stage - 1), 1 if stage == 1 else 2
            built: list[nn.Module] = []
            for _ in range(blocks):
                block: Bottleneck | BasicBlock = BLOCKS[network.block](
                    channels, width, stride, size, stage, attention
                )
                built.append(block)
                channels, size, stride = block.out_channels, shrunk(size, stride), 1
            self.stages.append(nn.Sequential(*built))
        if network.classifies:
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.classifier = nn.Linear(channels, image.classes)
        else:
            later = range(built_stages, network.stages)
            self.ignored_weights = ("classifier.", *(f"stages.{index}." for index in later))
        initialise(self)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits or feature maps of normalised images."""
        x = self.stem(x)
        maps = []
        for stage, blocks in enumerate(self.stages, 1):
            x = blocks(x)
            if stage in self.feature_stages:
                maps.append(x)
        if self.feature_stages:
            return tuple(maps)
        logits: Tensor = self.classifier(self.pool(x).flatten(1))
        return logits


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut."""

    def __init__(
        self, in_channels: int, width: int, stride: int, size: Size, stage: int, attention: Attention | None
    ) -> None:
        super().__init__()
        self.out_channels = width
        self.conv1 = augmentable(in_channels, width, 3, stride, size, stage, attention)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(in_channels, width, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """relu(f(x) + shortcut(x))."""
        out = self.relu(self.bn1(self.conv1(x)))
        added: Tensor = self.relu(self.bn2(self.conv2(out)) + self.shortcut(x))
        return added


class Bottleneck(nn.Module):
    """1×1 to fewer channels, 3×3 with the stride, 1×1 to four times as many, beside a shortcut."""

    def __init__(
        self, in_channels: int, width: int, stride: int, size: Size, stage: int, attention: Attention | None
    ) -> None:
        super().__init__()
        self.out_channels = width * BOTTLENECK_EXPANSION
        self.conv1 = convolution(in_channels, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = augmentable(width, width, 3, stride, size, stage, attention)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = convolution(width, self.out_channels, 1)
        self.bn3 = nn.BatchNorm2d(self.out_channels)
        self.shortcut = _shortcut(in_channels, self.out_channels, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """relu(f(x) + shortcut(x))."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        added: Tensor = self.relu(self.bn3(self.conv3(out)) + self.shortcut(x))
        return added


BLOCKS: dict[str, Callable[[int, int, int, Size, int, Attention | None], BasicBlock | Bottleneck]] = {
    "basic": BasicBlock,
    "bottleneck": Bottleneck,
}


def _stem(network: ResNet, image: Input) -> tuple[nn.Sequential, Size]:
    """The layers before the first stage, and the size of the map that they leave."""
    kernel_size, stride = (7, 2) if network.stem == "7x7" else (3, 1)
    layers: list[nn.Module] = [
        convolution(image.channels, network.width, kernel_size, stride),
        nn.BatchNorm2d(network.width),
        nn.ReLU(inplace=True),
    ]
    size = shrunk(image.size, stride)
    if network.stem == "7x7":
        layers.append(nn.MaxPool2d(3, stride=2, padding=1))
        size = shrunk(size, 2)
    return nn.Sequential(*layers), size


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(convolution(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))
