"""What a recipe's network costs: a fact of the recipe, counted elsewhere (`aaexport.nn.build.measure_cost`)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """What one image costs: parameters, and multiply-accumulates of the products that dominate."""

    parameters: int
    macs: int
    attention_macs: int  # the batched products of attention (QKᵀ, relative logits, AV), part of `macs`
