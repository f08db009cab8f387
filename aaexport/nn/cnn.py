"""The three-convolution network of the PyTorch reference implementation's own experiment, plain or augmented."""

from __future__ import annotations

from torch import Tensor, nn

from aaexport.nn.convolution import shrunk
from aaexport.nn.layers import augmentable
from aaexport.recipe import Attention, Cnn3, Input


class ThreeConvNet(nn.Module):
    """3 × (convolution, batch normalization, ReLU), global average pooling, one linear layer.

    Shapes: (B, C, height, width) → logits (B, classes).
    """

    output_names = ("logits",)  # what an export of this network calls its outputs

    def __init__(self, network: Cnn3, attention: Attention | None, image: Input) -> None:
        super().__init__()
        channels, size = image.channels, image.size
        blocks: list[nn.Module] = []
        layers = zip(network.channels, network.strides, strict=True)
        for stage, (out_channels, stride) in enumerate(layers, 1):
            blocks += [
                augmentable(channels, out_channels, network.kernel_size, stride, size, stage, attention),
                nn.BatchNorm2d(out_channels),
                nn.ReLU(inplace=True),
            ]
            channels, size = out_channels, shrunk(size, stride)
        self.features = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, image.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of normalised images."""
        logits: Tensor = self.classifier(self.pool(self.features(x)).flatten(1))
        return logits
