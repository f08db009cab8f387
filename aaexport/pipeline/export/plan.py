"""(module, options) → a decomposition and a number of blocks for every augmented layer that is to be exported."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import nn

from aaexport.device import Target
from aaexport.errors import ArgumentError, broken_rule, parameter
from aaexport.graph.cuda_kernels import fused_depths
from aaexport.memory import MEBIBYTE
from aaexport.nn.augmented import AugmentedConv2d, augmented_layers
from aaexport.nn.choice import TYPICAL_BATCH, AttentionSizes, Choice, blocks_within, choose
from aaexport.recipe import DEFAULT_OPSET, Batch, DecompositionName

ATTENTION_OPSET = 23  # the first that has the operator Attention
BYTES_A_LOGIT = 4
# Of a layer, of a typical batch. Four passes over so many numbers take a GPU that reads some TB/s a few microseconds,
# as two launches of a kernel do.
MANY_LOGITS = 2**20
# Of all layers that are planned by the model alone. Each block repeats the operators of its layer, for which a deep
# network pays with minutes of export; they gain some percent, and memory, for which a limit can be set.
MOST_BLOCKS = 16
UNBOUNDED = ("skew", "shift")  # they hold relative logits, or keys, of the size of the logits, whatever the blocks


def plan_attention(
    module: nn.Module,
    *,
    opset: int,
    batch: Batch,
    decomposition: DecompositionName | None = None,
    max_attention_memory: float | None = None,
    with_attention: bool = False,
    target: Target = "cpu",
    tuned: Mapping[AttentionSizes, Choice] | None = None,
) -> tuple[str, ...]:
    """Settles how each augmented layer of `module` is written out; changes the layers.

    Args:
        opset: from 23 on, `auto` means one `Attention` operator a layer.
        batch: a dynamic one is planned for as a few images, and the limit on memory holds for one.
        decomposition: of every layer; None leaves each layer's own, which may be `auto`.
        max_attention_memory: in MiB, for any one tensor of the attention, in the blocks of queries that it takes;
            where what `auto` means cannot keep it, it means `table`.
        with_attention: whether the weights become outputs, which the operator `Attention` keeps to itself: `fused`
            then gives way to `fold`, and `auto` means at every opset what it means below 23.
        target: `cpu` or `cuda`, where the file is to run.
        tuned: what `auto` means for layers of these sizes, because it was measured.

    Returns:
        What a user should know of it.

    Raises:
        ArgumentError: `fused` below opset 23, `skew` or `shift` with a limit, or a limit that no blocks keep.
    """
    fixed = batch if isinstance(batch, int) and batch > 0 else None  # a wrong one is refused where it is used
    images = fixed or TYPICAL_BATCH
    gave_way = set()
    layers = augmented_layers(module)
    automatic = {
        path: layer.sizes for path, layer in layers.items() if (decomposition or layer.decomposition) == "auto"
    }
    planned = _unmeasured_choices(automatic, tuned or {}, opset, images, target)
    for path, layer in layers.items():
        name = decomposition or layer.decomposition
        choice = Choice(name, layer.blocks)
        if name == "auto":
            choice = (tuned or {}).get(layer.sizes) or planned[path]
        if choice.decomposition == "fused" and opset < ATTENTION_OPSET:
            rule, remedy = f"be at least {ATTENTION_OPSET} for the decomposition fused", "or take fold"
            raise ArgumentError(broken_rule("opset", rule, opset, remedy))
        if choice.decomposition == "fused" and with_attention:
            choice = choose(layer.sizes, images, target) if name == "auto" else Choice("fold", choice.blocks)
            gave_way.add(str(choice))
        if max_attention_memory is not None:
            if name == "auto" and not _can_keep(choice, layer.sizes, fixed or 1, max_attention_memory):
                choice = Choice("table", choice.blocks)  # it has the least beside the logits
            choice = _within(choice, layer, path, fixed or 1, max_attention_memory)
        layer.decomposition, layer.blocks = choice.decomposition, choice.blocks
    names = ", ".join(sorted(gave_way))
    return (f"attention by {names} instead of fused: the operator Attention outputs no weights",) if names else ()


def _unmeasured_choices(
    layers: Mapping[str, AttentionSizes],
    tuned: Mapping[AttentionSizes, Choice],
    opset: int,
    images: int,
    target: Target,
) -> dict[str, Choice]:
    """What `auto` means for each layer that was not measured; together they take no more than `MOST_BLOCKS`."""
    choices = {path: unmeasured(sizes, opset, images, target) for path, sizes in layers.items() if sizes not in tuned}
    blocks = sum(choice.blocks for choice in choices.values() if choice.blocks > 1)
    share = min(1.0, MOST_BLOCKS / max(blocks, 1))
    return {
        path: Choice(choice.decomposition, max(1, math.floor(choice.blocks * share)) if choice.blocks > 1 else 1)
        for path, choice in choices.items()
    }


def unmeasured(sizes: AttentionSizes, opset: int, images: int, target: Target = "cpu") -> Choice:
    """What `auto` means where nothing was measured: the operator Attention where the opset has it, else by cost.

    On CUDA it must have a kernel that keeps no logits, too.
    """
    has_operator = opset >= ATTENTION_OPSET and (target == "cpu" or _is_fused_on_cuda(sizes))
    return Choice("fused") if has_operator else choose(sizes, images, target)


def default_opset(
    module: nn.Module, target: Target, decomposition: DecompositionName | None = None, *, with_attention: bool = False
) -> int:
    """The opset where neither the user nor a recipe names one: 20, which most runtimes know.

    On CUDA the first with the operator Attention, if `plan_attention` writes the module with it and the logits of any
    layer are many: a fused kernel spares four passes over them, and comes with a few small kernels more, which turn
    and widen keys and values. Without a measurement that is all that is known.
    """
    if target == "cpu" or with_attention:
        return DEFAULT_OPSET
    layers = augmented_layers(module).values()
    takes_it = (_is_fused_on_cuda(layer.sizes) and TYPICAL_BATCH * layer.sizes.logits > MANY_LOGITS
                for layer in layers if (decomposition or layer.decomposition) in ("auto", "fused"))  # fmt: skip
    return ATTENTION_OPSET if any(takes_it) else DEFAULT_OPSET


def _is_fused_on_cuda(sizes: AttentionSizes) -> bool:
    return fused_depths("float32", _depth_of_queries("fused", sizes), sizes.dvh) is not None


def _within(choice: Choice, layer: AugmentedConv2d, path: str, images: int, limit: float) -> Choice:
    """The choice in the blocks that the limit takes; ArgumentError if other tensors than the logits are larger."""
    if choice.decomposition in UNBOUNDED:
        rule = f"be left out with {parameter('decomposition')} {choice.decomposition}"
        remedy = "take table, which can keep it"
        raise ArgumentError(broken_rule("max_attention_memory", rule, limit, remedy))
    sizes, max_numbers = layer.sizes, int(limit * MEBIBYTE / BYTES_A_LOGIT)
    if not _can_keep(choice, sizes, images, limit):
        needed = math.ceil(_least(choice, sizes, images) * 1000) / 1000
        rule = (
            f"be at least {needed:g} MiB for {choice.decomposition} in {path or 'the layer'}, in however many blocks"
        )
        raise ArgumentError(broken_rule("max_attention_memory", rule, limit))
    return Choice(choice.decomposition, max(choice.blocks, blocks_within(sizes, max_numbers, batch=images)))


def _can_keep(choice: Choice, sizes: AttentionSizes, images: int, limit: float) -> bool:
    return choice.decomposition not in UNBOUNDED and _least(choice, sizes, images) <= limit


def _least(choice: Choice, sizes: AttentionSizes, images: int) -> float:
    """MiB of the largest tensor that blocks do not divide."""
    numbers = images * sizes.num_heads * sizes.positions * _largest_depth(choice.decomposition, sizes)
    return numbers * BYTES_A_LOGIT / MEBIBYTE


def _largest_depth(decomposition: DecompositionName, sizes: AttentionSizes) -> int:
    """Numbers a position, of one head, in that tensor."""
    if not sizes.relative:
        return max(sizes.dkh, sizes.dvh)
    offsets = 2 * sizes.width - 1  # `aaexport.nn.relative` takes the width's logits of all offsets first
    return max(offsets, _depth_of_queries(decomposition, sizes), sizes.height, sizes.dvh)


def _depth_of_queries(decomposition: DecompositionName, sizes: AttentionSizes) -> int:
    is_folded = sizes.relative and decomposition in ("fold", "fused")
    return sizes.dkh + (sizes.height + sizes.width if is_folded else 0)
