"""Whether torch computes float32 products on CUDA in TF32: one setting for all, as onnxruntime's `use_tf32`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def torch_products(tf32: bool) -> Iterator[None]:
    """Sets matrix products and convolutions alike for the whole process, and restores what was before.

    By itself torch takes TF32 for cuDNN's convolutions and not for matrix products, onnxruntime for both: left alone,
    each would be timed at another precision.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    try:
        # The older of torch's interfaces: its compiler still reads it, and refuses what only the newer one has set.
        before = matmul.allow_tf32, cudnn.allow_tf32
    except RuntimeError:  # where somebody has used the newer one, torch refuses to read the older
        with _newer_interface("tf32" if tf32 else "ieee"):
            yield
        return
    matmul.allow_tf32 = cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


@contextmanager
def _newer_interface(precision: str) -> Iterator[None]:
    cudnn: Any = torch.backends.cudnn
    parts: tuple[Any, ...] = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)
    before = [part.fp32_precision for part in parts]
    for part in parts:
        part.fp32_precision = precision
    try:
        yield
    finally:
        for part, value in zip(parts, before, strict=True):
            part.fp32_precision = value
