"""L + Reshape(Transpose(Tile(u))) → Reshape(Reshape(L) + Transpose(u)), where u is of size 1 along every tiled axis.

So the public implementations add relative logits: those along the width are the same for every row of keys, and are
repeated, transposed and reshaped into N × N numbers a head before they are added to N × N others. Addition repeats an
axis of size 1 by itself: the transposition then moves N × W numbers instead of N × N. Expand is a Tile here too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from aaexport.graph.rules.rule import (
    Builder,
    GraphRule,
    Refusal,
    attribute,
    constant,
    operands,
    producer,
    require_sole_use,
)

TILING = ("Tile", "Expand")


class BroadcastForTile(GraphRule):
    """Repeated numbers that are added → added by broadcasting."""

    title = "broadcasting instead of tiled relative logits"
    commutes = True

    def pattern(self, op: Builder, logits: ir.Value, repeated: ir.Value) -> Any:
        """Either side of the addition may be the repeated one."""
        return op.Add(logits, repeated, _outputs=["total"])

    def is_candidate(self, logits: ir.Value, repeated: ir.Value, total: ir.Value) -> bool:
        """Reshape, perhaps of a Transpose, of a Tile."""
        path = _path(repeated)
        return path is not None and not path[-1].is_initializer()

    def require(self, logits: ir.Value, repeated: ir.Value, total: ir.Value) -> None:
        """Nothing but axes of size 1 is repeated, the sizes are known, and the addition itself repeats nothing."""
        path = _path(repeated)
        assert path is not None
        for value in path[:-1]:
            require_sole_use(value)
        if not _alike(logits, repeated):
            raise Refusal("the addition repeats numbers by itself, or sizes are not known")
        whole = _sizes(path[1])
        if whole is None or sum(not isinstance(size, int) for size in whole) > 1:
            raise Refusal("more than one size is not known")
        for value in path:
            node = producer(value) if value is not path[-1] else None
            if node is not None and node.op_type in TILING and not _repeats_only_ones(node):
                raise Refusal("more than axes of size 1 is repeated")

    def rewrite(self, op: Builder, logits: ir.Value, repeated: ir.Value, total: ir.Value) -> Any:
        """The addition happens in the shape before the Reshape."""
        path = _path(repeated)
        assert path is not None
        whole, once = path[1], path[-1]
        assert whole.shape is not None
        sizes = np.array([size if isinstance(size, int) else -1 for size in whole.shape], np.int64)
        apart = op.Reshape(logits, self.new_constant(op, sizes, f"{total.name}_apart"))
        if producer(whole).op_type == "Transpose":
            once = op.Transpose(once, perm=attribute(producer(whole), "perm", None))
        return op.Reshape(op.Add(apart, once), operands(producer(repeated))[1])


def _alike(one: ir.Value, other: ir.Value) -> bool:
    """Whether both have the same sizes, as far as they are known or named."""
    sizes, others = _sizes(one), _sizes(other)
    if sizes is None or others is None or len(sizes) != len(others):
        return False
    return all(
        a == b or (None in (a, b) and not isinstance(a, int) and not isinstance(b, int))
        for a, b in zip(sizes, others, strict=True)
    )


def _sizes(value: ir.Value) -> list[int | str | None] | None:
    """Numbers, names, or None; shape inference calls what it does not know `unk__0`, `unk__1` …"""
    if value.shape is None:
        return None
    sizes = [size if isinstance(size, int) else size.value for size in value.shape]
    return [None if isinstance(size, str) and size.startswith("unk__") else size for size in sizes]


def _repeats_only_ones(node: ir.Node) -> bool:
    """Whether a Tile or Expand keeps the number of axes, and every size that is not 1."""
    before, after = operands(node)[0].shape, node.outputs[0].shape
    if before is None or after is None or len(before) != len(after):
        return False
    if node.op_type == "Tile":
        times = constant(operands(node)[1], "how often it is repeated")
        return all(size == 1 or count == 1 for size, count in zip(before, times, strict=True))
    return all(one in (1, other) for one, other in zip(before, after, strict=True))


def _path(value: ir.Value) -> list[ir.Value] | None:
    """[reshaped, transposed, tiled, not tiled] of a repeated value, without those that are not there; or None."""
    path = [value]
    for operators in (("Reshape",), ("Transpose",), TILING, TILING):
        node = path[-1].producer()
        if node is not None and node.op_type in operators:
            path.append(operands(node)[0])
    reshaped, tiled = path[0].producer(), path[-2].producer() if len(path) > 1 else None
    if reshaped is None or reshaped.op_type != "Reshape" or tiled is None or tiled.op_type not in TILING:
        return None
    return path
