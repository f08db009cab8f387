"""Pixels → what the network sees of them: boxes, resizing, normalisation, and the random changes of training.

All randomness comes in as uniform numbers, a row of `DRAWS` an image, so that what happens to an image depends on
neither its batch nor the process that decodes it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from aaexport.recipe import Data, Input

DRAWS = 5
AREA, RATIO, TOP, LEFT, FLIP = range(DRAWS)  # the columns of a row; each view reads those that it needs
LEAST_AREA = 0.08
LEAST_RATIO, MOST_RATIO = 3 / 4, 4 / 3


def random_boxes(draws: Tensor, height: int, width: int) -> Tensor:
    """Boxes of 8 to 100 % of the area and of ratios 3/4 to 4/3 (Szegedy et al. 2015, section 6), log-uniform.

    Where a box would not fit, its ratio moves, within those bounds, until one of that area does; if none does, it
    is the largest of that ratio. So nothing is drawn twice.

    Args:
        draws: (B, DRAWS) uniform numbers.
        height, width: of the images.

    Returns:
        (B, 4) int64: top, left, height, width.
    """
    area = (LEAST_AREA + (1 - LEAST_AREA) * draws[:, AREA]) * (height * width)
    ratio = torch.exp(math.log(LEAST_RATIO) + math.log(MOST_RATIO / LEAST_RATIO) * draws[:, RATIO])
    ratio = torch.minimum(torch.maximum(ratio, area / height**2), width**2 / area)
    ratio = ratio.clamp(LEAST_RATIO, MOST_RATIO)
    wide, high = (area * ratio).sqrt(), (area / ratio).sqrt()
    shrink = torch.minimum(width / wide, height / high).clamp(max=1)
    box_height = (high * shrink).round().long().clamp(1, height)
    box_width = (wide * shrink).round().long().clamp(1, width)
    top = below(height - box_height + 1, draws[:, TOP])
    left = below(width - box_width + 1, draws[:, LEFT])
    return torch.stack((top, left, box_height, box_width), dim=1)


def below(limit: Tensor | int, draws: Tensor) -> Tensor:
    """Whole numbers from 0 to below `limit`, uniform as `draws` are: in float32 no product rounds up to the limit."""
    return (draws * limit).long()


def resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, h, w) → (B, C, H, W) of the same type, antialiased bilinear; the same tensor if it has that size."""
    if tuple(pixels.shape[-2:]) == size:
        return pixels
    return functional.interpolate(pixels, size=size, mode="bilinear", antialias=True, align_corners=False)


def resized_boxes(pixels: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """A box of each image, resized as by `resized` but all at once, as two products with triangles of weights.

    Args:
        pixels: (B, C, h, w).
        boxes: (B, 4): top, left, height, width.

    Returns:
        (B, C, H, W) float32.
    """
    rows = _triangles(boxes[:, 0], boxes[:, 2], pixels.shape[-2], size[0])  # (B, H, h)
    columns = _triangles(boxes[:, 1], boxes[:, 3], pixels.shape[-1], size[1])  # (B, W, w)
    return rows.unsqueeze(1) @ pixels.to(torch.float32) @ columns.unsqueeze(1).mT


def _triangles(start: Tensor, length: Tensor, pixels: int, out: int) -> Tensor:
    """(B, out, pixels): each output's weights, a triangle of at least a pixel's half-width, within its box."""
    scale = (length / out).view(-1, 1, 1)
    centres = (torch.arange(out, device=start.device).view(1, -1, 1) + 0.5) * scale
    places = torch.arange(pixels, device=start.device).view(1, 1, -1) + 0.5 - start.view(-1, 1, 1)
    weights = (1 - (places - centres).abs() / scale.clamp(min=1)).clamp(min=0)
    weights = weights * ((places > 0) & (places < length.view(-1, 1, 1)))
    return weights / weights.sum(-1, keepdim=True)


def normalised(pixels: Tensor, white: int, image: Input) -> Tensor:
    """(pixel − mean) / std in float32, with pixels in [0, 1]. (B, C, H, W) → the same shape."""
    mean = torch.tensor(image.mean, device=pixels.device).view(-1, 1, 1)
    std = torch.tensor(image.std, device=pixels.device).view(-1, 1, 1)
    return (pixels.to(torch.float32) / white - mean) / std


def varied(batch: Tensor, data: Data, draws: Tensor) -> Tensor:
    """Normalised images, each cropped at random from a zero-padded copy and flipped with probability ½.

    Zero is the mean of normalised images. (B, C, H, W) and (B, DRAWS) → (B, C, H, W).
    """
    if data.crop_padding:
        batch = _padded_crops(batch, data.crop_padding, draws)
    if data.flip:
        batch = torch.where((draws[:, FLIP] < 0.5).view(-1, 1, 1, 1), batch.flip(-1), batch)
    return batch


def _padded_crops(batch: Tensor, padding: int, draws: Tensor) -> Tensor:
    count, channels, height, width = batch.shape

    def axis(length: int) -> Tensor:
        return torch.arange(length, device=batch.device)

    top, left = (below(2 * padding + 1, draws[:, column]).view(-1, 1, 1, 1) for column in (TOP, LEFT))
    padded = functional.pad(batch, (padding,) * 4)
    which, channel = axis(count).view(-1, 1, 1, 1), axis(channels).view(1, -1, 1, 1)
    return padded[which, channel, top + axis(height).view(1, 1, -1, 1), left + axis(width).view(1, 1, 1, -1)]
