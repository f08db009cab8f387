"""The names of decompositions, data sets and attention outputs, and what each means in a line.

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
DATA_SETS: dict[str, str] = {
    "digits": "scikit-learn's 8×8 digits, offline",
    "cifar10": "CIFAR-10 from the Hugging Face hub's cache",
    "cifar100": "CIFAR-100 from the Hugging Face hub's cache",
    "mnist": "MNIST from the Hugging Face hub's cache",
    "imagenet": "ImageNet-1k from the Hugging Face hub's cache",
    "imagefolder": "a folder, [data] path, of train/<class>/… and test/<class>/…",
    "synthetic": "noise of the recipe's size, for load tests",
}
ATTENTION_OUTPUTS = "attention"  # what the names of outputs begin with that hold the weights of a head
