"""leaderj1001/Attention-Augmented-Conv2d: `AugmentedConv`, its three copies of it.

    q, k, v = qkv_conv(x), of the layer's kernel size (attention_augmented_conv.py) or 1×1 (in_paper_…)
    heads   = relative attention, q scaled first
    out     = concat[conv_out(x), attn_out(heads)]

The heads' outputs, (Nh, H·W, dv/Nh), are read as (dv, H, W) without a permutation (its issue 21). One table length
serves both axes, so that relative layers take square maps only. The copy `in_paper_…` makes new random tables at
every call: such a layer computes no function that a file could hold.
"""

from torch import nn

from aaexport.adapters.adapter import Adapter, DeclinedError, Parts, convolution_in, count_in, table_in


def _read(layer: nn.Module) -> Parts:
    relative = getattr(layer, "relative", hasattr(layer, "key_rel_h"))
    if relative and not hasattr(layer, "key_rel_h"):
        raise DeclinedError("it has no relative tables: it draws new random ones at every call")
    return Parts(
        dk=count_in(layer, "dk"),
        dv=count_in(layer, "dv"),
        num_heads=count_in(layer, "Nh"),
        qkv=convolution_in(layer, "qkv_conv"),
        conv=convolution_in(layer, "conv_out"),
        projection=convolution_in(layer, "attn_out"),
        rel_height=table_in(layer, "key_rel_h") if relative else None,
        rel_width=table_in(layer, "key_rel_w") if relative else None,
        head_layout="unpermuted",
    )


REFERENCE = Adapter(
    title="the PyTorch reference implementation's AugmentedConv",
    modules=("conv_out", "qkv_conv", "attn_out"),
    attributes=("dk", "dv", "Nh"),
    tables=("key_rel_h", "key_rel_w"),
    read=_read,
)
