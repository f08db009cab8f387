"""Operators of torch that torch's exporter writes in a way that overflows → ONNX that does not.

It writes log(sigmoid(y)) and log(exp(a) + exp(b)) as they stand: minus infinity for y below −104, infinity for a
above 88, where PyTorch computes both by their largest term. The forms here are PyTorch's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset18 as op


def _log_sigmoid(y: Any) -> Any:
    """log σ(y) = min(y, 0) − log(1 + e^−|y|)."""
    return op.Sub(op.Min(y, _zero_like(y)), _log_one_and_exp_of_minus(op.Abs(y)))


def _logaddexp(a: Any, b: Any) -> Any:
    """log(eᵃ + eᵇ) = max(a, b) + log(1 + e^−|a − b|); two infinities of one sign are not subtracted."""
    apart = op.Where(op.Equal(a, b), _zero_like(a), op.Abs(op.Sub(a, b)))
    return op.Add(op.Max(a, b), _log_one_and_exp_of_minus(apart))


def _log_one_and_exp_of_minus(size: Any) -> Any:
    return op.Softplus(op.Neg(size))


def _zero_like(y: Any) -> Any:
    zero: Any = op.Constant(value_float=0.0)
    return op.CastLike(zero, y)


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """For `custom_translation_table` of `torch.onnx.export`."""
    aten = torch.ops.aten
    return {aten.log_sigmoid.default: _log_sigmoid, aten.logaddexp.default: _logaddexp}
