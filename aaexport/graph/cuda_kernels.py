"""What onnxruntime's CUDA provider has kernels for, which one an attention gets, and what is copied, as tables.

Read off the provider of onnxruntime-gpu 1.31.1 (`ONNXRUNTIME`), in whose source they are spread over
onnxruntime/core/providers/cuda: cuda_execution_provider.cc has the kernels and their versions, llm/attention.cc the
choice among them, by contrib_ops/cuda/bert/flash_attention/flash_api.h and
contrib_ops/cuda/bert/cutlass_fmha/memory_efficient_attention.h; tensor/split.cc and math/matmul.cc copy. Tests hold
them to the provider that is installed, on a GPU that computes nothing (tests/fake_cuda).
"""

from __future__ import annotations

from typing import Literal

AttentionKernel = Literal["flash", "memory-efficient", "math"]

ONNXRUNTIME = "1.31.1"

# An attention's kernel. `math` is products and a softmax, with all logits in memory.
DEPTH_STEP = 8  # of what a fused kernel takes
FLASH_TYPES = frozenset({"float16", "bfloat16"})  # from compute capability 8.0 on, which is what is told of
FUSED_TYPES = FLASH_TYPES | {"float32"}
DEEPEST_FLASH = 256
DEEPEST_EFFICIENT = 1024
MASK_STEP = 4  # of the keys that a mask has a column for

# Operators of opsets 18 to 25 that have no kernel for float32 or float16: from which opset on. What is not here has
# one, or has it for some types and attributes (GRU, LSTM, RNN, OneHot, GridSample in float16).
NO_KERNEL_SINCE = {
    **dict.fromkeys((
        "Dropout", "Elu", "EyeLike", "InstanceNormalization", "MaxPool", "Selu", "ThresholdedRelu",
    ), 22),
    **dict.fromkeys((
        "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BlackmanWindow", "Celu", "Col2Im", "ConvInteger", "Cosh",
        "DFT", "Det", "DynamicQuantizeLinear", "HammingWindow", "HannWindow", "Hardmax", "LpPool", "MatMulInteger",
        "MaxUnpool", "Mean", "MeanVarianceNormalization", "MelWeightMatrix", "OptionalGetElement", "QLinearConv",
        "QLinearMatMul", "STFT", "Sinh", "Tan", "TfIdfVectorizer", "Unique",
    ), 1),
    "AffineGrid": 20,
}  # fmt: skip

# Copies from the host that a kernel makes at each query.
COPIES_OF_UNEVEN_SPLIT = 4  # sizes, their sums, which part each place belongs to, and the parts' addresses
COPIES_OF_REPEATED_PRODUCT = 3  # the addresses of both operands' matrices, and of the result's


def attention_kernel(dtype: str, depth: int, of_values: int, mask: int | None = None) -> AttentionKernel:
    """What computes an `Attention` of heads of that depth.

    Args:
        dtype: of its operands, by NumPy's name.
        depth: of queries and keys.
        of_values: of values.
        mask: the number of keys in its mask; None without one.
    """
    if depth % DEPTH_STEP or of_values % DEPTH_STEP or dtype not in FUSED_TYPES:
        return "math"
    if dtype in FLASH_TYPES and depth == of_values <= DEEPEST_FLASH and mask is None:
        return "flash"
    fits = max(depth, of_values) <= DEEPEST_EFFICIENT and (mask is None or mask % MASK_STEP == 0)
    return "memory-efficient" if fits else "math"


def fused_depths(dtype: str, depth: int, of_values: int) -> tuple[int, int] | None:
    """The depths, of queries and keys and of values, to which zeros bring heads for the best fused kernel there is.

    None if none takes them.
    """
    padded = _in_steps(depth), _in_steps(of_values)
    equal = max(padded), max(padded)
    if attention_kernel(dtype, *equal) == "flash":
        return equal
    return padded if attention_kernel(dtype, *padded) == "memory-efficient" else None


def has_kernel(operator: str, opset: int) -> bool:
    """Whether CUDA has a kernel for an operator of ai.onnx, as this opset has it."""
    return opset < NO_KERNEL_SINCE.get(operator, opset + 1)


def _in_steps(depth: int) -> int:
    """The least multiple of `DEPTH_STEP` that is no less."""
    return -(-depth // DEPTH_STEP) * DEPTH_STEP
