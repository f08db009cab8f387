"""A tensor in a rule's rewriting → the same with zeros appended to its last axis, where it can by what it is made of.

Zeros that a constant, a Pad, or a sum of such can have already cost nothing: the keys of a folded layer are a Pad, to
which a constant is added. Else they are one Pad more.

Not a way: zero channels in the weights of the convolution that queries, keys and values come out of. It would compute
and write them for all positions, and for flash kernels, which want values as deep as the keys, that is 48 numbers for
each 1 to 6 in AA-ResNet-50: its channels would double.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from aaexport.graph.rules.rule import Builder, attribute, from_module_of, operands


class Wider:
    """What a rewriting of the node `of` writes; everything that is new is said to be of its module."""

    def __init__(self, op: Builder, new_constant: Callable[..., ir.Value], of: ir.Node) -> None:
        self._op, self._new_constant, self._node = op, new_constant, of
        self._known: dict[tuple[int, ...], ir.Value] = {}

    def integers(self, each: Sequence[Any]) -> ir.Value:
        """A constant of them, one for all that want the same."""
        key = tuple(each)
        if key not in self._known:
            self._known[key] = self._new_constant(
                self._op, np.array(key, np.int64), "_".join(["sizes", *map(str, key)])
            )
        return self._known[key]

    def reshaped(self, value: ir.Value, sizes: Sequence[Any]) -> ir.Value:
        """`value` in these sizes, of which one may be −1."""
        known = [None if size == -1 else size for size in sizes]
        return self.told(self._op.Reshape(value, self.integers(sizes)), value, known)

    def cut(self, value: ir.Value, size: int) -> ir.Value:
        """No more than so many numbers of its last axis."""
        assert value.shape is not None
        if value.shape[-1] == size:
            return value
        ends = [self.integers([each]) for each in (0, size, len(value.shape) - 1)]
        return self.told(self._op.Slice(value, *ends), value, [*value.shape[:-1], size])

    def padded(self, value: ir.Value, count: int) -> ir.Value:
        """`value` with so many zeros more along its last axis."""
        if count == 0:
            return value
        assert value.shape is not None
        axis = len(value.shape) - 1
        inside = self._inside(value, axis, count)
        if inside is not None:
            return inside
        pads = [0] * (2 * len(value.shape) - 1) + [count]
        return self._widened(self._op.Pad(value, self.integers(pads)), value, axis, count)

    def told(self, new: ir.Value, of: ir.Value, sizes: Sequence[Any]) -> ir.Value:
        """`new` of the type of `of`, and of these sizes."""
        new.type, new.shape = of.type, ir.Shape(sizes)
        return from_module_of(self._node, new)

    def _inside(self, value: ir.Value, axis: int, count: int) -> ir.Value | None:
        """The same by a constant, a Pad, or what only moves or adds such; None where there is none."""
        if value.shape is None or not isinstance(value.shape[axis], int):
            return None
        if value.const_value is not None and not value.is_graph_input():
            numbers = value.const_value.numpy()
            zeros = [(0, count if each == axis else 0) for each in range(numbers.ndim)]
            return self._new_constant(self._op, np.pad(numbers, zeros), f"{value.name}_padded")
        node = value.producer()
        way = None if node is None or node.domain != "" else _WAYS.get(node.op_type)
        made = None if way is None or node is None else way(self, node, axis, count)
        return None if made is None else self._widened(made, value, axis, count)

    def _transpose(self, node: ir.Node, axis: int, count: int) -> ir.Value | None:
        perm = attribute(node, "perm", None)
        inner = None if perm is None else self._inside(operands(node)[0], perm[axis], count)
        return None if inner is None else self._op.Transpose(inner, perm=perm)

    def _sum(self, node: ir.Node, axis: int, count: int) -> ir.Value | None:
        """Both parts have that axis in full."""
        result, parts = node.outputs[0], list[ir.Value]()
        assert result.shape is not None
        for part in operands(node):
            own = axis - len(result.shape) + len(part.shape or ())
            if own < 0 or part.shape is None or part.shape[own] != result.shape[axis]:
                return None
            inner = self._inside(part, own, count)
            if inner is None:
                return None
            parts.append(inner)
        return self._op.Add(*parts)  # type: ignore[no-any-return]

    def _pad(self, node: ir.Node, axis: int, count: int) -> ir.Value | None:
        """One of zeros takes a few more."""
        pads, fill = _constant(node.inputs[1]), _constant(node.inputs[2]) if len(node.inputs) > 2 else [0]
        of_some_axes = len(node.inputs) > 3 and node.inputs[3] is not None
        if attribute(node, "mode", "constant") != "constant" or pads is None or of_some_axes:
            return None
        if node.inputs[2:3] not in ([], [None]) and (fill is None or any(fill)):
            return None
        sizes = [int(each) for each in pads]
        sizes[len(sizes) // 2 + axis] += count
        return self._op.Pad(node.inputs[0], self.integers(sizes))  # type: ignore[no-any-return]

    def _widened(self, wide: ir.Value, value: ir.Value, axis: int, count: int) -> ir.Value:
        """Told what is known of `value`."""
        assert value.shape is not None
        return self.told(
            wide, value, [size + count if each == axis else size for each, size in enumerate(value.shape)]
        )


_WAYS: dict[str, Callable[[Wider, ir.Node, int, int], ir.Value | None]] = {
    "Transpose": Wider._transpose,
    "Add": Wider._sum,
    "Pad": Wider._pad,
}


def _constant(value: ir.Value | None) -> list[float] | None:
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return [float(each) for each in value.const_value.numpy().reshape(-1)]
