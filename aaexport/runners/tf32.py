"""Whether torch computes float32 products on CUDA in TF32: one setting for all, as onnxruntime's `use_tf32`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def torch_products(tf32: bool) -> Iterator[None]:
    """Sets matrix products and convolutions alike for the whole process, and restores what was before.

    By itself torch takes TF32 for cuDNN's convolutions and not for matrix products, onnxruntime for both: left alone,
    each would be timed at another precision.
    """
    # The older of torch's two interfaces: its compiler still reads it, and refuses what only the newer one has set.
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
