"""d-li14/dot-product-attention: `SelfAttention2d`, as the reference implementation's but for its joint convolution.

    k, q, v = conv_kqv(x), 1×1: the keys come first
    heads   = relative attention, q scaled first, not permuted
    out     = concat[conv_out(x), attn_out(heads)]

The pooling around it belongs to its `AABottleneck`, and stays there.
"""

import copy

import torch
from torch import Tensor, nn

from aaexport.adapters.adapter import Adapter, DeclinedError, Parts, convolution_in, count_in, table_in


def _read(layer: nn.Module) -> Parts:
    relative = getattr(layer, "relative", hasattr(layer, "key_rel_h"))
    dk, dv = count_in(layer, "dk"), count_in(layer, "dv")
    return Parts(
        dk=dk,
        dv=dv,
        num_heads=count_in(layer, "Nh"),
        qkv=_queries_first(convolution_in(layer, "conv_kqv"), dk, dv),
        conv=convolution_in(layer, "conv_out"),
        projection=convolution_in(layer, "attn_out"),
        rel_height=table_in(layer, "key_rel_h") if relative else None,
        rel_width=table_in(layer, "key_rel_w") if relative else None,
        head_layout="unpermuted",
    )


def _queries_first(kqv: nn.Conv2d, dk: int, dv: int) -> nn.Conv2d:
    """The same convolution with its output channels in our order."""
    if kqv.out_channels != 2 * dk + dv:
        raise DeclinedError(f"its conv_kqv has {kqv.out_channels} channels, not 2·{dk} + {dv}")

    def ordered(tensor: Tensor) -> nn.Parameter:
        keys, queries, values = tensor.detach().split([dk, dk, dv])
        return nn.Parameter(torch.cat([queries, keys, values]), requires_grad=tensor.requires_grad)

    return copy.deepcopy(kqv, {id(parameter): ordered(parameter) for parameter in kqv.parameters()})


D_LI14 = Adapter(
    title="d-li14's SelfAttention2d",
    modules=("conv_out", "conv_kqv", "attn_out"),
    attributes=("dk", "dv", "Nh"),
    tables=("key_rel_h", "key_rel_w"),
    read=_read,
)
