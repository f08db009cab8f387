"""Conv(x, W₁, b₁), …, Conv(x, Wₙ, bₙ) → Split(Conv(x, [W₁; …; Wₙ], [b₁; …; bₙ])).

Output channels do not know of each other, so that convolutions of one input with one kernel, stride, padding and
dilation are one convolution with all their channels. That is an augmented convolution whose queries, keys and values
have the kernel of the convolution itself, as in the PyTorch reference implementation: the input is read, and
unfolded, once. It can pay only where one of the outputs is split into parts anyway; else the Split is a copy for
nothing. onnxruntime's convolutions on the CPU are no faster for it; a GPU, with one kernel less, may be.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from aaexport.graph.rules.rule import (
    Builder,
    GraphRule,
    Refusal,
    attribute,
    channels,
    constant,
    like,
    operands,
    producer,
    sole_user,
)

SAME = ("auto_pad", "dilations", "pads", "strides")


class ConvolutionsInParallel(GraphRule):
    """Convolutions of one input → one convolution."""

    title = "convolutions of one input as one"
    no_gain = {  # noqa: RUF012  the library's class is no dataclass
        "cpu": "the reference's Wide-ResNet 16-2 became 1 to 4 % slower by it, its layer at 64×64 10 %",
        "cuda": "it was not measured",
    }

    def pattern(self, op: Builder, x: ir.Value) -> Any:
        """The first of them; the others are found among the readers of its input."""
        return op.Conv(x, _allow_other_inputs=True, _outputs=["first"])

    def is_candidate(self, x: ir.Value, first: ir.Value) -> bool:
        """Another convolution reads the same input, this is the first, and something is split anyway."""
        outputs = _outputs_of_convolutions(x)
        return len(outputs) > 1 and outputs[0] is first and any(_split_of(output) for output in outputs)

    def require(self, x: ir.Value, first: ir.Value) -> None:
        """All of one form, with constant weights."""
        outputs = _outputs_of_convolutions(x)
        if len({_form(producer(output)) for output in outputs}) > 1:
            raise Refusal("the convolutions differ in kernel, stride, padding or dilation")
        for output in outputs:
            if attribute(producer(output), "group", 1) != 1:
                raise Refusal("a convolution is in groups")
            for value in operands(producer(output))[1:]:
                constant(value, "a convolution's weight or bias")
            for part in _parts(output):
                channels(part)
                if part.is_graph_output():
                    raise Refusal(f"{part.name} is an output of the graph")

    def rewrite(self, op: Builder, x: ir.Value, first: ir.Value) -> Any:
        """One convolution and one Split, which does what a Split behind any of them did too."""
        outputs = _outputs_of_convolutions(x)
        weights = [constant(operands(producer(output))[1], "a weight") for output in outputs]
        name = f"{operands(producer(first))[1].name}_and_others"
        parameters = [self.new_constant(op, np.concatenate(weights), name)]
        if any(len(operands(producer(output))) > 2 for output in outputs):
            biases = [_bias(producer(output), weight) for output, weight in zip(outputs, weights, strict=True)]
            parameters.append(self.new_constant(op, np.concatenate(biases), f"{name}_bias"))
        kept = [value for key, value in producer(first).attributes.items() if key in (*SAME, "kernel_shape")]
        together = op.Conv(x, *parameters, **{each.name: each for each in kept})
        parts = [part for output in outputs for part in _parts(output)]
        sizes = self.new_constant(op, np.array([channels(part) for part in parts], np.int64), f"{name}_sizes")
        replaced = first
        for old, new in zip(parts, op.Split(together, sizes, axis=1, _outputs=len(parts)), strict=True):
            like(new, old)
            if old is first:
                replaced = new
            else:
                old.replace_all_uses_with(new)  # whoever reads them comes later in the graph than the first
        # A first one that was split is read by nobody any more.
        return op.Identity(together) if replaced is first else replaced


def _outputs_of_convolutions(x: ir.Value) -> list[ir.Value]:
    """What the convolutions that read `x` put out, in the order of the graph."""
    readers = {node for node in x.consumers() if node.op_type == "Conv" and operands(node)[0] is x}
    graph = next(iter(readers)).graph if len(readers) > 1 else None
    return [] if graph is None else [node.outputs[0] for node in graph if node in readers]


def _split_of(output: ir.Value) -> ir.Node | None:
    """The node that does nothing but split the channels of `output`."""
    node = sole_user(output)
    if node is None or node.op_type != "Split" or attribute(node, "axis", 0) != 1:
        return None
    return node


def _parts(output: ir.Value) -> list[ir.Value]:
    split = _split_of(output)
    return [output] if split is None else list(split.outputs)


def _form(node: ir.Node) -> tuple[object, ...]:
    kernel = operands(node)[1].shape
    stated = tuple(str(attribute(node, name, None)) for name in SAME)
    return tuple(kernel[2:]) if kernel is not None else None, *stated


def _bias(node: ir.Node, weight: NDArray[np.float32]) -> NDArray[np.float32]:
    return constant(operands(node)[2], "a bias") if len(operands(node)) > 2 else np.zeros(len(weight), weight.dtype)
