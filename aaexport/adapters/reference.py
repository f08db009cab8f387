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
    qkv, conv, projection = (convolution_in(layer, name) for name in ("qkv_conv", "conv_out", "attn_out"))
    relative = getattr(layer, "relative", hasattr(layer, "key_rel_h"))
    if relative and not hasattr(layer, "key_rel_h"):
        raise DeclinedError("it has no tables key_rel_h and key_rel_w: they lie elsewhere, or it draws new ones")
    return Parts(
        dk=count_in(layer, "dk"),
        dv=count_in(layer, "dv"),
        num_heads=count_in(layer, "Nh"),
        qkv=qkv,
        conv=conv,
        projection=projection,
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
