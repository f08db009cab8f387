"""The names of decompositions, and what each means in a line; how attention outputs are called.

They stand here, and not with the code that they name, so that they can be told without loading it.
"""

from __future__ import annotations

DECOMPOSITIONS: dict[str, str] = {
    "auto": "The fastest of the others by the layer's sizes; the default.",
    "skew": "The paper's own way: logits of every offset, skewed from offsets to positions, tiled over the other "
    "axis.",
    "table": "Relative logits as small products, one axis at a time, added by broadcasting; never tiled.",
    "shift": "As `table`, but q·k + q·r_height is one product, q·(k + r_height): each row of queries has keys of "
    "its own.",
    "fold": "Relative logits inside the product: [s·q, rel_h, rel_w] · [k, onehot(row), onehot(column)]ᵀ is the "
    "whole logit.",
    "fused": "`fold` handed to one attention operator: torch's kernels in training, ONNX `Attention` from opset "
    "23 on.",
}
ATTENTION_OUTPUTS = "attention"  # what the names of outputs begin with that hold the weights of a head
