"""Rewritings of ONNX graphs that leave their function as it is: one rule, one file, its maths in the docstring.

They need no PyTorch, so that they serve files that aaexport did not write too. To add one: write the file, put the
class into `OTHERS` below, in the order in which they should be tried (into `FILE_RULES` alone if it is only for files
of other origin, into `CUDA_RULES` if only onnxruntime's CUDA provider wants it), and give it a test of its name in
tests/graph/rules/.

Not a rule: the relative tables into the weights of the queries. A product q·E with q = W·x is (Eᵀ·W)·x, more channels
of the same convolution, but with Cin terms a number instead of dkh, and the heads are narrow: in the 14×14 stage
of AA-ResNet-50 (Cin 256, dkh 20) the 432 channels for both axes took 224 µs, the two products that they would replace
49 µs (onnxruntime, two cores). It would pay where Cin · kernel² < dkh, which no network of the zoo has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from aaexport.device import Target
from aaexport.graph.rules.attention_in_blocks import AttentionInBlocks
from aaexport.graph.rules.attention_in_kernel_depths import AttentionInKernelDepths
from aaexport.graph.rules.broadcast_for_tile import BroadcastForTile
from aaexport.graph.rules.convolutions_in_parallel import ConvolutionsInParallel
from aaexport.graph.rules.einsum_as_matmul import EinsumAsMatmul
from aaexport.graph.rules.einsum_in_batches import EinsumInBatches
from aaexport.graph.rules.einsum_of_tables import EinsumOfTables
from aaexport.graph.rules.lost_operators import LostOperators
from aaexport.graph.rules.max_pool_of_slices import MaxPoolOfSlices
from aaexport.graph.rules.normalization_into_convolution import NormalizationIntoConvolution
from aaexport.graph.rules.normalization_through_concat import NormalizationThroughConcat
from aaexport.graph.rules.normalization_through_matmul import NormalizationThroughMatmul
from aaexport.graph.rules.normalization_through_resize import NormalizationThroughResize
from aaexport.graph.rules.pointwise_over_concat import PointwiseOverConcat
from aaexport.graph.rules.relu_through_concat import ReluThroughConcat
from aaexport.graph.rules.reshape_to_known_sizes import ReshapeToKnownSizes
from aaexport.graph.rules.rule import GraphRule
from aaexport.graph.rules.scale_into_convolution import ScaleIntoConvolution
from aaexport.graph.rules.skewed_relative_attention import SkewedRelativeAttention
from aaexport.graph.rules.slices_for_split import SlicesForSplit
from aaexport.graph.rules.softmax_divided_late import SoftmaxDividedLate
from aaexport.graph.rules.softmax_written_out import SoftmaxWrittenOut
from aaexport.graph.rules.stacks_without_broadcast import StacksWithoutBroadcast
from aaexport.graph.rules.whole_writes import IdleSizes, WholeWrites

__all__ = [
    "CUDA_RULES",
    "FILE_RULES",
    "RULES",
    "SOFTMAXES",
    "AttentionInBlocks",
    "GraphRule",
    "SkewedRelativeAttention",
    "within",
]

MakeRule = Callable[[Target], GraphRule]
Stage = tuple[MakeRule, ...]

EINSUMS: tuple[type[GraphRule], ...] = (EinsumInBatches, EinsumOfTables, EinsumAsMatmul)
# Normalizations go first, so that they meet the convolutions before those are joined or split.
OTHERS: tuple[type[GraphRule], ...] = (
    NormalizationThroughConcat,
    NormalizationThroughResize,
    NormalizationThroughMatmul,
    NormalizationIntoConvolution,
    ReluThroughConcat,
    ScaleIntoConvolution,
    ConvolutionsInParallel,
    PointwiseOverConcat,
    BroadcastForTile,
)
SOFTMAXES: tuple[type[GraphRule], ...] = (SoftmaxWrittenOut, SoftmaxDividedLate)
RULES: tuple[type[GraphRule], ...] = (WholeWrites, IdleSizes, *EINSUMS, *SOFTMAXES, *OTHERS)
# For files of whatever origin. A layer of ours is left as its recipe, its user or `aaexport tune` wants it written.
FILE_RULES: tuple[type[GraphRule], ...] = (
    ReshapeToKnownSizes,
    WholeWrites,
    IdleSizes,
    *EINSUMS,
    *SOFTMAXES,
    SkewedRelativeAttention,
    *OTHERS,
)
# They suit a graph to the kernels of onnxruntime's CUDA provider, when the others have done their work.
CUDA_RULES: tuple[type[GraphRule], ...] = (
    AttentionInKernelDepths,
    MaxPoolOfSlices,
    LostOperators,
    SlicesForSplit,
    StacksWithoutBroadcast,
)


def within(
    rules: Sequence[type[GraphRule]], max_attention_memory: float | None, target: Target = "cpu"
) -> tuple[Stage, Stage]:
    """`rules`, and then those that keep any attention to so many MiB, of one image if the batch is dynamic.

    What is cut into blocks is nothing for the others any more, so that it is a stage of its own. None needs none.
    Those for the target's kernels come last.
    """
    limit, for_kernels = max_attention_memory, CUDA_RULES if target == "cuda" else ()
    if limit is None:
        return tuple(rules), for_kernels
    limited: list[MakeRule] = [*rules]
    if SkewedRelativeAttention in rules:
        limited[rules.index(SkewedRelativeAttention)] = partial(SkewedRelativeAttention, limit=limit)
    if EinsumOfTables in rules:
        limited[rules.index(EinsumOfTables)] = partial(EinsumOfTables, merges=False)
    sizes = () if ReshapeToKnownSizes in rules else (ReshapeToKnownSizes,)
    return (*sizes, *limited), (partial(AttentionInBlocks, limit=limit), *for_kernels)
