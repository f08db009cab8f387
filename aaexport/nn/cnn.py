"""The three-convolution network of the PyTorch reference implementation's own experiment, plain or augmented."""

from __future__ import annotations

from torch import Tensor, nn

from aaexport.nn.augmented import AugmentedConv2d
from aaexport.recipe import Attention, Cnn3, Input


class ThreeConvNet(nn.Module):
    """3 × (convolution, batch normalization, ReLU), global average pooling, one linear layer.

    Shapes: (B, C, height, width) → logits (B, classes).
    """

    output_names = ("logits",)  # what an export of this network calls its outputs

    def __init__(self, network: Cnn3, attention: Attention | None, image: Input) -> None:
        super().__init__()
        channels, height, width = image.shape
        blocks: list[nn.Module] = []
        for out_channels, stride in zip(network.channels, network.strides, strict=True):
            blocks += [
                convolution(channels, out_channels, network.kernel_size, stride, height, width, attention),
                nn.BatchNorm2d(out_channels),
                nn.ReLU(inplace=True),
            ]
            channels, height, width = out_channels, -(-height // stride), -(-width // stride)
        self.features = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, len(image.labels))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of normalised images."""
        logits: Tensor = self.classifier(self.pool(self.features(x)).flatten(1))
        return logits


def convolution(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int,
    height: int,
    width: int,
    attention: Attention | None,
) -> nn.Module:
    """The layer that a plain network and its augmented twin differ in; `height` and `width` are the input's."""
    if attention is None:
        padding = kernel_size // 2
        return nn.Conv2d(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=False)
    return AugmentedConv2d.from_ratios(
        in_channels,
        out_channels,
        kernel_size,
        kappa=attention.kappa,
        upsilon=attention.upsilon,
        num_heads=attention.num_heads,
        height=height,
        width=width,
        stride=stride,
        relative=attention.relative,
        qkv_kernel_size=attention.qkv_kernel_size,
        attention_downsample=attention.downsample,
    )
