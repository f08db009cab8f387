"""The way a layer is written out → why, in a sentence: what `auto` weighs, what was measured, or who asked for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aaexport.device import Target
from aaexport.nn.choice import TYPICAL_BATCH, AttentionSizes, Choice, choose, costs_a_logit
from aaexport.pipeline.export.plan import ATTENTION_OPSET, unmeasured
from aaexport.recipe import Batch, DecompositionName

ALIKE = "attention without relative terms is one and the same in all of them"


@dataclass(frozen=True)
class Circumstances:
    """What a layer is written out for, and what was measured: of `plan_attention`."""

    asked: DecompositionName
    opset: int
    batch: Batch
    target: Target
    tuned: Mapping[AttentionSizes, Choice]


def why_written(choice: Choice, sizes: AttentionSizes, known: Circumstances) -> str:
    """The reason, as far as recipe, measurement and cost model explain the choice; else that they do not."""
    blocks = "" if choice.blocks == 1 else f", in {choice.blocks} blocks of queries, so that fewer logits are alive"
    return _why(choice, sizes, known) + blocks


def _why(choice: Choice, sizes: AttentionSizes, known: Circumstances) -> str:
    name = choice.decomposition
    if known.asked not in ("auto", name):
        return f"asked for in place of the recipe's {known.asked}"
    if known.asked == name:
        return "the recipe asks for it"
    measured = known.tuned.get(sizes)
    if measured is not None and measured.decomposition == name:
        return "the fastest when `aaexport tune` measured layers of these sizes"
    images = known.batch if isinstance(known.batch, int) else TYPICAL_BATCH
    if name == "fused" and unmeasured(sizes, known.opset, images, known.target).decomposition == "fused":
        return f"opset {known.opset} has the operator Attention, as each has from {ATTENTION_OPSET} on"
    if choose(sizes, images, known.target).decomposition == name:
        return by_cost(sizes, known.target)
    return "not what auto would take now: asked for by an option, or by another measurement"


def by_cost(sizes: AttentionSizes, target: Target) -> str:
    """What the cost model weighed."""
    costs = costs_a_logit(sizes)
    if len(costs) == 1:
        return ALIKE
    if target == "cuda":
        return "by the cost model for CUDA: a deeper product costs its tensor cores less than sums cost its memory"
    weighed = ", ".join(f"{name} {cost:.3g}" for name, cost in sorted(costs.items(), key=lambda each: each[1]))
    return f"the cheapest by the cost model, in multiplications a logit beside q·k: {weighed}"
