"""AugmentedConv2d: a convolution whose last channels are computed by 2-D relative self-attention."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from aaexport.errors import ArgumentError, broken_rule, did_you_mean
from aaexport.nn.choice import AttentionSizes, Choice, choose, choose_eagerly
from aaexport.nn.convolution import convolution, shrunk
from aaexport.nn.relative import DECOMPOSITIONS, with_weights
from aaexport.nn.tiled import attended_in_tiles, can_be_tiled
from aaexport.nn.upsampling import upsampled
from aaexport.recipe import DECOMPOSITION_NAMES, DEFAULT_DECOMPOSITION, DecompositionName, HeadLayout

HEAD_LAYOUTS: tuple[str, ...] = get_args(HeadLayout)
MAX_KEY_DEPTH = 65536
MIN_KEY_DEPTH_PER_HEAD = 20  # Bello et al. 2019, section 3.3


def attention_depths(
    out_channels: int, kappa: float, upsilon: float, num_heads: int, min_dkh: int = MIN_KEY_DEPTH_PER_HEAD
) -> tuple[int, int]:
    """(dk, dv) of a layer: dk = max(20·Nh, ⌊κF/Nh⌋·Nh), dv = ⌊υF/Nh⌋·Nh (Bello et al. 2019, section 3.3).

    `min_dkh` stands for the 20.

    Raises:
        ArgumentError: κ ≤ 0 or beyond all reason, υ outside (0, 1], or so small that a head gets no channel.
    """
    _require(num_heads >= 1, "num_heads", "be at least 1", num_heads)
    _require(kappa > 0, "kappa", "be above 0", kappa)
    _require(kappa < math.inf, "kappa", "be finite", kappa)
    _require(0 < upsilon <= 1, "upsilon", "be above 0 and at most 1", upsilon)
    dv = _share(upsilon, out_channels, num_heads)
    rule = f"give each of {num_heads} heads at least one of {out_channels} channels"
    _require(dv >= num_heads, "upsilon", rule, upsilon)
    dk = max(min_dkh * num_heads, _share(kappa, out_channels, num_heads))
    _require(dk <= MAX_KEY_DEPTH, "kappa", f"give the keys of {out_channels} channels at most {MAX_KEY_DEPTH}", kappa)
    return dk, dv


def _share(ratio: float, channels: int, num_heads: int) -> int:
    # The decimal that the user wrote, not its nearest double: 0.29·100 is 29, although 0.29 * 100 is below it.
    return math.floor(Fraction(str(ratio)) * channels / num_heads) * num_heads


class AugmentedConv2d(nn.Module):
    """concat[Conv(x), MHA(x)] over channels (Bello et al. 2019, arXiv 1904.09925, section 3).

        conv(x)       = Conv_{k×k, stride}(x)                               Cout − dv channels
        q, k, v       = Conv_{kq×kq, stride}(pooled x)                      dk, dk, dv channels
        heads         = relative attention of q, k, v, per head             `aaexport.nn.relative`
        attention(x)  = Conv_{1×1}(heads side by side), upsampled           dv channels

    Shapes:
        x: (B, in_channels, height, width), `height` and `width` being the **input's**
        → (B, out_channels, ⌈height/stride⌉, ⌈width/stride⌉)

    Parameters by name: `conv.weight`, `qkv.weight`, `projection.weight` (and biases if `bias`), and if `relative`
    `rel_height` (2H − 1, dk/Nh) and `rel_width` (2W − 1, dk/Nh) for an attention map of H×W positions, where
    (H, W) = `attention_size`. Both tables are shared by the heads and start as N(0, (dk/Nh)^−½).

    Where the paper leaves a choice: convolutions pad by (k − 1)/2; `attention_downsample=2` averages 3×3 pixels
    with stride 2, padding not counted, and brings the result back to the convolution's size bilinearly, pixel
    centres aligned (`align_corners=False`); `dv == out_channels` leaves no convolution at all. Where a trained
    network departs from it: `head_layout="unpermuted"` reads the heads' outputs (Nh, H·W, dv/Nh) as (dv, H, W)
    without a permutation, which mixes positions with channels, as the PyTorch reference implementation does;
    `projection=False` leaves the heads side by side as they are, as the bottleneck transformers (BoTNet) do.

    Raises:
        ArgumentError (a ValueError): arguments that contradict each other, or, at call time, an input of another
            size than the relative tables were made for. `torch.export` raises it too while it captures the
            layer; the captured program keeps the check as a guard, which raises torch's own error.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        dk: int,
        dv: int,
        num_heads: int,
        height: int,
        width: int,
        stride: int = 1,
        relative: bool = True,
        bias: bool = False,
        qkv_kernel_size: int = 1,
        attention_downsample: int = 1,
        head_layout: HeadLayout = "permuted",
        projection: bool = True,
        decomposition: DecompositionName = DEFAULT_DECOMPOSITION,
    ) -> None:
        super().__init__()
        for name, value in (("in_channels", in_channels), ("out_channels", out_channels),
                            ("num_heads", num_heads), ("height", height), ("width", width)):  # fmt: skip
            _require(value >= 1, name, "be at least 1", value)
        for name, value in (("kernel_size", kernel_size), ("qkv_kernel_size", qkv_kernel_size)):
            _require(value >= 1 and value % 2 == 1, name, "be odd and positive", value)
        for name, value in (("dk", dk), ("dv", dv)):
            rule = f"be a positive multiple of num_heads ({num_heads})"
            _require(value >= 1 and value % num_heads == 0, name, rule, value)
        _require(dv <= out_channels, "dv", f"be at most out_channels ({out_channels})", dv)
        _require(stride in (1, 2), "stride", "be 1 or 2", stride)
        _require(attention_downsample in (1, 2), "attention_downsample", "be 1 or 2", attention_downsample)
        _require(head_layout in HEAD_LAYOUTS, "head_layout", f"be one of {', '.join(HEAD_LAYOUTS)}", head_layout)

        self.in_channels, self.out_channels = in_channels, out_channels
        self.dk, self.dv, self.num_heads = dk, dv, num_heads
        self.height, self.width, self.stride = height, width, stride
        self.attention_downsample, self.head_layout = attention_downsample, head_layout
        self.decomposition = decomposition
        self.blocks = 1  # of queries, attended one after the other; `auto` has its own
        # Is told the weights of every call, (B, Nh, N, N), while somebody wants them (`aaexport.nn.attention_maps`).
        self.tell_weights: Callable[[Tensor], None] | None = None

        self.conv: nn.Conv2d | None = None
        if dv < out_channels:
            self.conv = convolution(in_channels, out_channels - dv, kernel_size, stride, bias=bias)
        self.qkv = convolution(in_channels, 2 * dk + dv, qkv_kernel_size, stride, bias=bias)
        self.projection = nn.Conv2d(dv, dv, 1, bias=bias) if projection else None
        self.rel_height = self.rel_width = None
        if relative:
            rows, columns = self.attention_size
            dkh = dk // num_heads
            self.rel_height = nn.Parameter(torch.randn(2 * rows - 1, dkh) * dkh**-0.5)
            self.rel_width = nn.Parameter(torch.randn(2 * columns - 1, dkh) * dkh**-0.5)

    @classmethod
    def from_ratios(
        cls,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        kappa: float,
        upsilon: float,
        num_heads: int,
        min_dkh: int = MIN_KEY_DEPTH_PER_HEAD,
        **options: Any,
    ) -> AugmentedConv2d:
        """The layer by the paper's κ = dk/Fout and υ = dv/Fout, keys of at least `min_dkh` dimensions a head.

        `options` are those of the class. Raises ArgumentError as `attention_depths` and the class do.
        """
        dk, dv = attention_depths(out_channels, kappa, upsilon, num_heads, min_dkh)
        return cls(in_channels, out_channels, kernel_size, dk=dk, dv=dv, num_heads=num_heads, **options)

    @property
    def decomposition(self) -> DecompositionName:
        """Which of `aaexport.nn.relative.DECOMPOSITIONS` computes the attention; all compute the same.

        `auto` is what `aaexport.nn.choice` takes: in eager mode by sizes, batch and device, for an export by sizes;
        in eager mode on the CPU it is computed by `aaexport.nn.tiled` where that may.
        """
        return self._decomposition

    @decomposition.setter
    def decomposition(self, name: DecompositionName) -> None:
        known = name in DECOMPOSITION_NAMES
        remedy = "" if known else did_you_mean(str(name), DECOMPOSITION_NAMES)
        _require(known, "decomposition", "be a known one", name, remedy)
        self._decomposition: DecompositionName = name

    @property
    def sizes(self) -> AttentionSizes:
        """What the cost of the attention depends on, for one image."""
        rows, columns = self.attention_size
        depths = (self.dk // self.num_heads, self.dv // self.num_heads)
        return AttentionSizes(rows, columns, *depths, self.num_heads, self.rel_height is not None)

    def chosen(self, x: Tensor) -> Choice:
        """The decomposition that is computed for `x`, and in how many blocks of queries."""
        if self.decomposition != "auto":
            return Choice(self.decomposition, self.blocks)
        if torch.compiler.is_exporting():
            return choose(self.sizes)
        return choose_eagerly(self.sizes, batch=max(len(x), 1), device_type=x.device.type)

    @property
    def attention_size(self) -> tuple[int, int]:
        """(H, W) of the map that attention runs on."""
        return shrunk(shrunk((self.height, self.width), self.attention_downsample), self.stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, height, width) → (B, out_channels, ⌈height/stride⌉, ⌈width/stride⌉)."""
        self._check_input(x)
        attention = self._attention(x)
        return attention if self.conv is None else torch.cat([self.conv(x), attention], dim=1)

    def _check_input(self, x: Tensor) -> None:
        wanted, got = (self.in_channels, self.height, self.width), tuple(x.shape[1:])
        if x.dim() != 4 or got != wanted:
            rule = f"have the shape (batch, {self.in_channels}, {self.height}, {self.width})"
            remedy = "the relative tables hold for one image size only"
            raise ArgumentError(broken_rule("input", rule, tuple(x.shape), remedy))

    def _attention(self, x: Tensor) -> Tensor:
        if self.attention_downsample > 1:
            x = functional.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
        rows, columns = self.attention_size
        heads = self._heads(x, self.qkv(x))
        if self.head_layout == "permuted":
            heads = heads.transpose(1, 2)  # (B·Nh, dvh, H·W); else (B·Nh, H·W, dvh) is read on as if it were that
        out = heads.reshape(-1, self.dv, rows, columns)  # (B, dv, H, W)
        if self.projection is not None:
            out = self.projection(out)
        if self.attention_downsample > 1:
            out = upsampled(out, shrunk((self.height, self.width), self.stride))
        return out

    def _heads(self, x: Tensor, qkv: Tensor) -> Tensor:
        """(B·Nh, H·W, dvh)."""
        tables = self.rel_height, self.rel_width
        in_tiles = self.decomposition == "auto" and can_be_tiled(qkv, *tables)
        if in_tiles and self.tell_weights is None:
            return attended_in_tiles(qkv, *tables, self.sizes)
        (rows, columns), depths = self.attention_size, (self.dk, self.dk, self.dv)
        q, k, v = (  # (B·Nh, dkh or dvh, H, W)
            part.reshape(-1, depth // self.num_heads, rows, columns)
            for part, depth in zip(qkv.split(depths, dim=1), depths, strict=True)
        )
        choice = self.chosen(x)
        if self.tell_weights is None:
            return DECOMPOSITIONS[choice.decomposition](q, k, v, *tables, choice.blocks)
        heads, weights = with_weights(choice.decomposition, q, k, v, *tables, choice.blocks)
        self.tell_weights(weights.reshape(-1, self.num_heads, *weights.shape[1:]))
        # Tiles forget their weights; who watches these must not change what comes out, not by a bit.
        return attended_in_tiles(qkv, *tables, self.sizes) if in_tiles else heads

    def extra_repr(self) -> str:
        """What `print(model)` shows beside the submodules."""
        return (
            f"{self.in_channels}, {self.out_channels}, dk={self.dk}, dv={self.dv}, num_heads={self.num_heads}, "
            f"height={self.height}, width={self.width}, stride={self.stride}, "
            f"relative={self.rel_height is not None}, attention_downsample={self.attention_downsample}, "
            f"head_layout={self.head_layout!r}, projection={self.projection is not None}, "
            f"decomposition={self.decomposition!r}"
        )


def augmented_layers(module: nn.Module) -> dict[str, AugmentedConv2d]:
    """Every AugmentedConv2d in `module`, by its path."""
    return {path: layer for path, layer in module.named_modules() if isinstance(layer, AugmentedConv2d)}


def set_decomposition(module: nn.Module, name: DecompositionName, blocks: int = 1) -> int:
    """Makes every AugmentedConv2d in `module` use that decomposition; returns how many there are."""
    layers = augmented_layers(module).values()
    for layer in layers:
        layer.decomposition, layer.blocks = name, blocks
    return len(layers)


def _require(holds: bool, name: str, rule: str, got: object, remedy: str = "") -> None:
    if not holds:
        raise ArgumentError(broken_rule(name, rule, got, remedy))
