"""Feature maps → larger ones, bilinearly, in operators whose sizes are settled before they run."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from aaexport.nn.convolution import Size


def upsampled(x: Tensor, size: Size) -> Tensor:
    """(B, C, h, w) → (B, C, *size), pixel centres aligned (`align_corners=False`).

    Asked for a size, torch's exporter lets the model compute it when it runs, together with the dynamic batch; asked
    for factors, it writes them down in float32. Those are exact if they are whole. If not, a runtime may round a row
    away (5/3 of 3 rows are 4.9999998), so an export multiplies by the weights of the interpolation instead.
    """
    factors = size[0] / x.shape[2], size[1] / x.shape[3]
    if all(factor.is_integer() for factor in factors):
        return functional.interpolate(x, scale_factor=factors, mode="bilinear", align_corners=False)
    if not torch.compiler.is_exporting():
        return functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
    return _weights(x.shape[2], size[0], x).transpose(0, 1) @ (x @ _weights(x.shape[3], size[1], x))


def _weights(length: int, longer: int, like: Tensor) -> Tensor:
    """(length, longer): what each position of the longer axis takes from those of the shorter one."""
    one = torch.eye(length, dtype=like.dtype, device=like.device)
    return functional.interpolate(one.unsqueeze(0), size=longer, mode="linear", align_corners=False).squeeze(0)
