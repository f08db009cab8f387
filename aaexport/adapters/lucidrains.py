"""lucidrains/bottleneck-transformer-pytorch: the `Attention` of a `BottleStack`, attention without a projection.

    q, k, v = to_qkv(x), 1×1, of one depth
    heads   = relative attention, q scaled first                                      `rel_pos_emb=True`
    out     = heads side by side

Its default, `AbsPosEmb`, adds q·(r_height[i] + r_width[j]): where a key is, not how far away.
"""

from torch import nn

from aaexport.adapters.adapter import Adapter, DeclinedError, Parts, convolution_in, count_in, module_in, table_in


def _read(layer: nn.Module) -> Parts:
    embedding = module_in(layer, "pos_emb")
    if not hasattr(embedding, "rel_height") and hasattr(embedding, "height"):
        raise DeclinedError("its position embedding is absolute (rel_pos_emb=False), which is no relative attention")
    qkv = convolution_in(layer, "to_qkv")
    depth = qkv.out_channels // 3
    return Parts(
        dk=depth,
        dv=depth,
        num_heads=count_in(layer, "heads"),
        qkv=qkv,
        rel_height=table_in(embedding, "rel_height"),
        rel_width=table_in(embedding, "rel_width"),
    )


LUCIDRAINS = Adapter(
    title="lucidrains' BottleStack attention",
    modules=("to_qkv", "pos_emb"),
    attributes=("heads", "scale"),
    tables=("pos_emb.rel_height", "pos_emb.rel_width", "pos_emb.height", "pos_emb.width"),
    read=_read,
)
