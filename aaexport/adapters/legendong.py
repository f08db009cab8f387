"""LegenDong/attention-augmented.pytorch: `AugmentedLayer`, the paper's layer with biases.

    q, k, v = qkv_layer(x), 1×1
    heads   = relative attention, q scaled first, permuted as the paper has it
    out     = concat[conv_layer(x), attn_layer(heads)]

Its padding is an argument; only (kernel_size − 1)/2 leaves a map that fits beside the attention's.
"""

from torch import nn

from aaexport.adapters.adapter import Adapter, Parts, convolution_in, count_in, table_in


def _read(layer: nn.Module) -> Parts:
    relative = getattr(layer, "relative", hasattr(layer, "key_rel_h"))
    return Parts(
        dk=count_in(layer, "dk"),
        dv=count_in(layer, "dv"),
        num_heads=count_in(layer, "Nh"),
        qkv=convolution_in(layer, "qkv_layer"),
        conv=convolution_in(layer, "conv_layer"),
        projection=convolution_in(layer, "attn_layer"),
        rel_height=table_in(layer, "key_rel_h") if relative else None,
        rel_width=table_in(layer, "key_rel_w") if relative else None,
    )


LEGENDONG = Adapter(
    title="LegenDong's AugmentedLayer",
    modules=("conv_layer", "qkv_layer", "attn_layer"),
    attributes=("dk", "dv", "Nh"),
    tables=("key_rel_h", "key_rel_w"),
    read=_read,
)
