"""timm's `BottleneckAttn` (timm/layers/bottleneck_attn.py): attention alone, without a projection.

    q, k, v = qkv(x), 1×1
    logits  = scale · (q·k) + q·r, or with `scale_pos_embed` scale · (q·k + q·r)      scale = dkh^−½
    out     = pool(heads), 2×2 averages with stride 2 and nothing otherwise

We have scale · (q·k + q·r'): r' = √dkh · r, or r itself with `scale_pos_embed`.
"""

from torch import Tensor, nn

from aaexport.adapters.adapter import Adapter, DeclinedError, Parts, convolution_in, count_in, module_in, table_in


def _read(layer: nn.Module) -> Parts:
    embedding = module_in(layer, "pos_embed")
    num_heads, dkh, dvh = (count_in(layer, name) for name in ("num_heads", "dim_head_qk", "dim_head_v"))
    pool = getattr(layer, "pool", None)
    if pool is not None and not isinstance(pool, nn.Identity | nn.AvgPool2d):
        raise DeclinedError(f"its pool is a {type(pool).__name__}, neither an Identity nor an AvgPool2d")

    def rescaled(table: Tensor) -> Tensor:
        if getattr(layer, "scale_pos_embed", False):
            return table
        return nn.Parameter(table.detach() * dkh**0.5, requires_grad=table.requires_grad)

    return Parts(
        dk=num_heads * dkh,
        dv=num_heads * dvh,
        num_heads=num_heads,
        qkv=convolution_in(layer, "qkv"),
        rel_height=rescaled(table_in(embedding, "height_rel")),
        rel_width=rescaled(table_in(embedding, "width_rel")),
        pool=pool if isinstance(pool, nn.AvgPool2d) else None,
    )


TIMM = Adapter(
    title="timm's BottleneckAttn",
    modules=("qkv", "pos_embed"),
    attributes=("num_heads", "dim_head_qk", "dim_head_v"),
    tables=("pos_embed.height_rel", "pos_embed.width_rel"),
    read=_read,
)
