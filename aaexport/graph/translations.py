"""Operators of torch that torch's exporter writes in a way that overflows → ONNX that does not.

It writes log(sigmoid(y)) and log(exp(a) + exp(b)) as they stand: minus infinity for y below −104, infinity for a
above 88, where PyTorch computes both by their largest term. The forms here are PyTorch's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset18 as op


def _log_sigmoid(y: Any) -> Any:
    """log σ(y) = min(y, 0) − log(1 + e^−|y|)."""
    return op.Sub(op.Min(y, _like(y, 0.0)), _log_one_and_exp_of_minus(op.Abs(y)))


def _logaddexp(a: Any, b: Any) -> Any:
    """log(eᵃ + eᵇ) = max(a, b) + log(1 + e^−|a − b|)."""
    return op.Add(op.Max(a, b), _log_one_and_exp_of_minus(_apart(a, b)))


def _logaddexp2(a: Any, b: Any) -> Any:
    """log₂(2ᵃ + 2ᵇ) = max(a, b) + log(1 + e^(−|a − b| · ln 2)) / ln 2."""
    ln2 = _like(a, math.log(2))
    return op.Add(op.Max(a, b), op.Div(_log_one_and_exp_of_minus(op.Mul(_apart(a, b), ln2)), ln2))


def _apart(a: Any, b: Any) -> Any:
    """|a − b|; 0 for two infinities of one sign, whose difference is no number."""
    return op.Where(op.Equal(a, b), _like(a, 0.0), op.Abs(op.Sub(a, b)))


def _log_one_and_exp_of_minus(size: Any) -> Any:
    return op.Softplus(op.Neg(size))


def _like(y: Any, number: float) -> Any:
    constant: Any = op.Constant(value_float=number)
    return op.CastLike(constant, y)


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """For `custom_translation_table` of `torch.onnx.export`."""
    aten = torch.ops.aten
    return {
        aten.log_sigmoid.default: _log_sigmoid,
        aten.logaddexp.default: _logaddexp,
        aten.logaddexp2.default: _logaddexp2,
    }
