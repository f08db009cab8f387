"""[network]: one section a family, with its depth, widths and strides; `aaexport.nn` builds them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from aaexport.recipe.section import Choice, Section

MAX_CHANNELS = 65536
MAX_BLOCKS = 1000


@dataclass(frozen=True, kw_only=True)
class NetworkSection(Section, ABC):
    """What every family has. Stages are counted from 1; the map shrinks between them."""

    table: ClassVar[str] = "network"

    @property
    @abstractmethod
    def stages(self) -> int:
        """How many stages `[attention] stages` can name."""

    @property
    @abstractmethod
    def total_stride(self) -> int:
        """By how much the last map is smaller than the image."""

    @property
    def classifies(self) -> bool:
        """Whether the output is one number a class."""
        return True

    @property
    def augments_every_layer(self) -> bool:
        """Whether `[attention] layers = "every"` means anything to the family."""
        return False

    def _require_channels(self, key: str, channels: float) -> None:
        self._require(1 <= channels <= MAX_CHANNELS, key, f"give every layer 1 to {MAX_CHANNELS} channels")


@dataclass(frozen=True, kw_only=True)
class Cnn3(NetworkSection):
    """Three convolutions, each with batch normalization and ReLU, then global average pooling."""

    family: Literal["cnn3"]
    channels: tuple[int, ...] = (64, 128, 192)
    strides: tuple[int, ...] = (1, 2, 2)
    kernel_size: int = 3

    def __post_init__(self) -> None:
        self._require(len(self.channels) == 3 and min(self.channels) >= 1, "channels", "be three numbers ≥ 1")
        self._require(max(self.channels) <= MAX_CHANNELS, "channels", f"be at most {MAX_CHANNELS} each")
        self._require(
            len(self.strides) == 3 and set(self.strides) <= {1, 2}, "strides", "be three numbers, each 1 or 2"
        )
        self._require(self.kernel_size % 2 == 1 and self.kernel_size > 0, "kernel_size", "be odd and positive")

    @property
    def stages(self) -> int:
        """Each convolution is a stage."""
        return 3

    @property
    def total_stride(self) -> int:
        """The product of the strides."""
        return math.prod(self.strides)


@dataclass(frozen=True, kw_only=True)
class ResNet(NetworkSection):
    """He et al. 2016 in its version 1.5: the stride of a bottleneck is in its 3×3 convolution.

    ResNet-34 is `block = "basic"` with `blocks = [3, 4, 6, 3]`; ResNet-50 the same with `"bottleneck"`. `width` is
    that of the first stage, and doubles from stage to stage. The stem is a 7×7 convolution of stride 2 and a
    maximum pooling, or, for small images, one 3×3 convolution. With `features`, the network returns the maps of
    those stages, named c2, c3 … after their stage plus one as in feature pyramids, and has no classifier.
    """

    family: Literal["resnet"]
    block: Literal["basic", "bottleneck"]
    blocks: tuple[int, ...]
    width: int = 64
    stem: Literal["7x7", "3x3"] = "7x7"
    features: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self._require(1 <= len(self.blocks) <= 8, "blocks", "have 1 to 8 stages")
        self._require(min(self.blocks) >= 1, "blocks", "give every stage at least 1 block")
        self._require(sum(self.blocks) <= MAX_BLOCKS, "blocks", f"be at most {MAX_BLOCKS} together")
        self._require_channels("width", self.width)
        self._require_channels("width", self.width * 4 * 2 ** (self.stages - 1))
        known = set(range(1, self.stages + 1))
        ascending = tuple(sorted(set(self.features)))
        self._require(set(self.features) <= known, "features", f"be stages, 1 to {self.stages}")
        self._require(self.features == ascending, "features", "name stages once, in ascending order")

    @property
    def stages(self) -> int:
        """As many as `blocks` has entries."""
        return len(self.blocks)

    @property
    def total_stride(self) -> int:
        """Every stage but the first halves the map; the 7×7 stem quarters it."""
        return (4 if self.stem == "7x7" else 1) << (self.stages - 1)

    @property
    def classifies(self) -> bool:
        """A network that returns features has no classifier."""
        return not self.features


@dataclass(frozen=True, kw_only=True)
class WideResNet(NetworkSection):
    """Zagoruyko & Komodakis 2016: three stages of pre-activated blocks of two 3×3 convolutions.

    `depth` is 6·n + 4 for n blocks a stage. The style `reference` is that of the PyTorch reference implementation of
    augmented convolutions: other widths, biases, the stride in the second convolution of a block, and shortcuts of
    3×3 that see the block's input before its normalization.
    """

    family: Literal["wide_resnet"]
    depth: int
    widen_factor: int = 1
    dropout: float = 0.0
    style: Literal["original", "reference"] = "original"

    def __post_init__(self) -> None:
        fits = self.depth >= 10 and (self.depth - 4) % 6 == 0
        self._require(fits, "depth", "be 6·n + 4, at least 10")
        self._require(self.depth <= 6 * MAX_BLOCKS, "depth", f"be at most {6 * MAX_BLOCKS}")
        self._require(self.widen_factor >= 1, "widen_factor", "be at least 1")
        self._require_channels("widen_factor", self.channels[-1])
        self._require(0 <= self.dropout < 1, "dropout", "be at least 0 and below 1")

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Of the stem and of each stage."""
        k = self.widen_factor
        return (16, 16 * k, 32 * k, 64 * k) if self.style == "original" else (20, 20 * k, 40 * k, 60 * k)

    @property
    def stages(self) -> int:
        """Three."""
        return 3

    @property
    def total_stride(self) -> int:
        """The second and the third stage halve the map."""
        return 4

    @property
    def augments_every_layer(self) -> bool:
        """The reference implementation does."""
        return True


@dataclass(frozen=True, kw_only=True)
class MnasNet(NetworkSection):
    """MnasNet-A1 (Tan et al. 2019, figure 7): a separable convolution, then six stages of inverted bottlenecks.

    `blocks` are the inverted bottlenecks of each stage; `width_multiplier` scales channels, rounded to multiples
    of 8.
    """

    family: Literal["mnasnet"]
    blocks: tuple[int, ...] = (2, 3, 4, 2, 3, 1)
    width_multiplier: float = 1.0
    dropout: float = 0.2

    def __post_init__(self) -> None:
        self._require(len(self.blocks) == 6, "blocks", "be six numbers, one a stage")
        self._require(min(self.blocks) >= 1, "blocks", "give every stage at least 1 block")
        self._require(sum(self.blocks) <= MAX_BLOCKS, "blocks", f"be at most {MAX_BLOCKS} together")
        self._require(self.width_multiplier > 0, "width_multiplier", "be above 0")
        self._require_channels("width_multiplier", 6 * 320 * self.width_multiplier)
        self._require(0 <= self.dropout < 1, "dropout", "be at least 0 and below 1")

    @property
    def stages(self) -> int:
        """Six."""
        return 6

    @property
    def total_stride(self) -> int:
        """That of the image's classic 224 → 7."""
        return 32


FAMILIES: dict[str, type[NetworkSection]] = {
    "cnn3": Cnn3,
    "resnet": ResNet,
    "wide_resnet": WideResNet,
    "mnasnet": MnasNet,
}
Network = Annotated[Cnn3 | ResNet | WideResNet | MnasNet, Choice("family", dict(FAMILIES))]
