"""MnasNet-A1 (Tan et al. 2019, arXiv 1807.11626, figure 7), plain or with augmented expansions."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from aaexport.nn.convolution import Size, convolution, shrunk
from aaexport.nn.layers import augmentable, initialise
from aaexport.recipe import Attention, Input, MnasNet

STEM_CHANNELS, SEPARABLE_CHANNELS, HEAD_CHANNELS = 32, 16, 1280
SQUEEZE_SHARE = 0.25  # of the block's input channels


@dataclass(frozen=True)
class Stage:
    """A row of the paper's figure: inverted bottlenecks of one kind; the first of them has the stride."""

    channels: int
    kernel_size: int
    stride: int
    expansion: int
    squeezes: bool


STAGES = (
    Stage(24, 3, 2, 6, False),
    Stage(40, 5, 2, 3, True),
    Stage(80, 3, 2, 6, False),
    Stage(112, 3, 1, 6, True),
    Stage(160, 5, 2, 6, True),
    Stage(320, 3, 1, 6, False),
)


class MobileNetwork(nn.Module):
    """Stem, separable convolution, six stages of inverted bottlenecks, 1×1 head, pooling, one linear layer.

    Augmented is the 1×1 expansion of an inverted bottleneck, in the stages that [attention] names. A head gets one
    channel of values where υ would leave it none.

    Shapes: (B, C, height, width) → logits (B, classes).
    """

    output_names = ("logits",)

    def __init__(self, network: MnasNet, attention: Attention | None, image: Input) -> None:
        super().__init__()
        stem, channels = (_widened(c, network.width_multiplier) for c in (STEM_CHANNELS, SEPARABLE_CHANNELS))
        size = shrunk(image.size, 2)
        self.stem = _normalised(convolution(image.channels, stem, 3, 2), stem)
        self.separable = nn.Sequential(
            _normalised(convolution(stem, stem, 3, groups=stem), stem),
            convolution(stem, channels, 1),
            nn.BatchNorm2d(channels),
        )
        self.stages = nn.ModuleList()
        for number, (stage, count) in enumerate(zip(STAGES, network.blocks, strict=True), 1):
            out_channels, stride = _widened(stage.channels, network.width_multiplier), stage.stride
            blocks: list[nn.Module] = []
            for _ in range(count):
                blocks.append(InvertedBottleneck(channels, out_channels, stride, size, number, stage, attention))
                channels, size, stride = out_channels, shrunk(size, stride), 1
            self.stages.append(nn.Sequential(*blocks))
        head = max(HEAD_CHANNELS, _widened(HEAD_CHANNELS, network.width_multiplier))
        self.head = _normalised(convolution(channels, head, 1), head)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(network.dropout)
        self.classifier = nn.Linear(head, image.classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of normalised images."""
        x = self.separable(self.stem(x))
        for blocks in self.stages:
            x = blocks(x)
        logits: Tensor = self.classifier(self.dropout(self.pool(self.head(x)).flatten(1)))
        return logits


class InvertedBottleneck(nn.Module):
    """1×1 expansion (augmentable), depthwise convolution, squeeze-and-excitation, 1×1 projection, beside x."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        size: Size,
        number: int,
        stage: Stage,
        attention: Attention | None,
    ) -> None:
        super().__init__()
        hidden = in_channels * stage.expansion
        self.adds_input = stride == 1 and in_channels == out_channels
        expansion = augmentable(in_channels, hidden, 1, 1, size, number, attention, at_least_one_value=True)
        self.expand = _normalised(expansion, hidden)
        self.depthwise = _normalised(convolution(hidden, hidden, stage.kernel_size, stride, groups=hidden), hidden)
        squeezed = max(1, int(in_channels * SQUEEZE_SHARE))
        self.squeeze = SqueezeExcitation(hidden, squeezed) if stage.squeezes else nn.Identity()
        self.project = nn.Sequential(convolution(hidden, out_channels, 1), nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) → (B, out_channels, ⌈H/stride⌉, ⌈W/stride⌉)."""
        out: Tensor = self.project(self.squeeze(self.depthwise(self.expand(x))))
        return out + x if self.adds_input else out


class SqueezeExcitation(nn.Module):
    """x · sigmoid(W₂ relu(W₁ mean(x))), a gate a channel (Hu et al. 2018)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = convolution(channels, squeezed, 1, bias=True)
        self.excite = convolution(squeezed, channels, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) → the same."""
        gate = functional.relu(self.reduce(functional.adaptive_avg_pool2d(x, 1)))
        opened: Tensor = self.excite(gate).sigmoid()
        return x * opened


def _normalised(layer: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(layer, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def _widened(channels: int, multiplier: float) -> int:
    """The nearest multiple of 8, at least 8, and at least nine tenths of what was asked for."""
    wanted = channels * multiplier
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * wanted else rounded + 8
