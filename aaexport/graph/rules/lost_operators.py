"""What CUDA has no kernel for from opset 22 on, by what it has one for (`aaexport.graph.cuda_kernels`).

    Elu(x)                    → Max(x, 0) + α·(Exp(Min(x, 0)) − 1)
    Selu(x)                   → γ·(Max(x, 0) + α·(Exp(Min(x, 0)) − 1))
    ThresholdedRelu(x)        → Where(x > α, x, 0)
    InstanceNormalization(x)  → d / √(mean of d² + ε)·scale + bias, d = x − mean of x, over the axes of the map
    Dropout(x)                → x, as in inference

One such node would run on the CPU, with a copy of its maps there and back, and no CUDA graph could be recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from aaexport.graph.cuda_kernels import has_kernel
from aaexport.graph.rules.rule import Builder, GraphRule, Refusal, attribute, from_module_of, like, producer

ELU = {"alpha": 1.0}
SELU = {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875}  # what the specification takes
EPSILON = 1e-5


class LostOperators(GraphRule):
    """Operators that lost their CUDA kernel → others."""

    title = "operators without a CUDA kernel by others"

    def pattern(self, op: Builder, x: ir.Value) -> Any:
        """The first of them."""
        return _pattern("Elu")(op, x)

    def patterns(self) -> tuple[Callable[..., Any], ...]:
        """One for each operator."""
        return tuple(_pattern(operator) for operator in _WRITTEN)

    def is_candidate(self, x: ir.Value, lost: ir.Value) -> bool:
        """The opset is one without a kernel."""
        return not has_kernel(producer(lost).op_type, self.model.opset_imports[""])

    def require(self, x: ir.Value, lost: ir.Value) -> None:
        """Numbers of a known type; for what it is averaged over, of known axes."""
        node = producer(lost)
        if x.dtype is None:
            raise Refusal("the type of what it reads is not known")
        if node.op_type == "InstanceNormalization" and x.shape is None:
            raise Refusal("how many axes it averages over is not known")
        if len(node.outputs) > 1 and node.outputs[1].name:
            raise Refusal("its mask is read too")
        if node.op_type == "Dropout" and len(node.inputs) > 2 and node.inputs[2] is not None:
            raise Refusal("whether it trains is an input")

    def rewrite(self, op: Builder, x: ir.Value, lost: ir.Value) -> Any:
        """By the formula."""
        node = producer(lost)

        def number(value: float) -> ir.Value:
            assert x.dtype is not None
            return self.new_constant(op, np.array(value, x.dtype.numpy()), f"{lost.name}_number")

        def axes(*each: int) -> ir.Value:
            return self.new_constant(op, np.array(each, np.int64), f"{lost.name}_axes")

        return like(from_module_of(node, _WRITTEN[node.op_type](op, node, number, axes)), lost)


def _pattern(operator: str) -> Callable[..., Any]:
    def pattern(op: Builder, x: ir.Value) -> Any:
        made = getattr(op, operator)
        return made(x, _allow_other_inputs=True, _allow_other_attributes=True, _outputs=["lost"])

    return pattern


Number = Callable[[float], ir.Value]
Integers = Callable[..., ir.Value]


def _elu(op: Builder, node: ir.Node, number: Number, axes: Integers) -> Any:
    x, zero = node.inputs[0], number(0)
    below = op.Sub(op.Exp(op.Min(x, zero)), number(1))
    defaults = ELU if node.op_type == "Elu" else SELU
    return op.Add(op.Max(x, zero), op.Mul(below, number(attribute(node, "alpha", defaults["alpha"]))))


def _selu(op: Builder, node: ir.Node, number: Number, axes: Integers) -> Any:
    return op.Mul(_elu(op, node, number, axes), number(attribute(node, "gamma", SELU["gamma"])))


def _thresholded(op: Builder, node: ir.Node, number: Number, axes: Integers) -> Any:
    x = node.inputs[0]
    return op.Where(op.Greater(x, number(attribute(node, "alpha", 1.0))), x, number(0))


def _instance_normalized(op: Builder, node: ir.Node, number: Number, axes: Integers) -> Any:
    x, scale, bias = node.inputs
    assert x is not None
    assert x.shape is not None
    of_the_map = axes(*range(2, len(x.shape)))
    beside = axes(-1, *[1] * (len(x.shape) - 2))
    apart = op.Sub(x, op.ReduceMean(x, of_the_map, keepdims=1))
    variance = op.ReduceMean(op.Mul(apart, apart), of_the_map, keepdims=1)
    unit = op.Div(apart, op.Sqrt(op.Add(variance, number(attribute(node, "epsilon", EPSILON)))))
    return op.Add(op.Mul(unit, op.Reshape(scale, beside)), op.Reshape(bias, beside))


def _kept(op: Builder, node: ir.Node, number: Number, axes: Integers) -> Any:
    return op.Identity(node.inputs[0])


_WRITTEN: dict[str, Callable[[Builder, ir.Node, Number, Integers], Any]] = {
    "Elu": _elu,
    "Selu": _selu,
    "ThresholdedRelu": _thresholded,
    "InstanceNormalization": _instance_normalized,
    "Dropout": _kept,
}
