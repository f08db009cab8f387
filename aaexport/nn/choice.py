"""A layer's sizes → the decomposition and the blocks that `auto` takes: a deterministic model of what each costs.

(In a folder that `aaexport tune` has worked on, what was measured there goes before it.)

The decompositions share q·k, the softmax and the product with V, and differ in what a logit costs beside them. In
multiplications with an addition, of which a product of matrices is made:

    fold     H + W                  that many more terms of its sum
    table    2 · ADD                two numbers added to it, read from memory
    shift    ADD + KEYS · dkh / W   one number added to it; and each row of queries has keys of its own, N · dkh
                                    numbers for its W · N logits

Blocks keep the logits that are alive at a time in the caches, as long as the keys, which each block reads again, are
few beside them. The constants were fitted to what onnxruntime takes on two cores of an AMD EPYC
(docs/explanation/decompositions.md); they are ratios of times, so that they carry over to like machines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from aaexport.device import Target
from aaexport.recipe import DECOMPOSITION_NAMES, DecompositionName

ADD = 26  # a number added to each logit
KEYS = 21  # a number of the keys that a row of queries has for itself
QUERIES_A_DEPTH = 2  # a block has at least so many queries for each number of a key
# On a GPU: how often it multiplies in the time of reading or writing a byte, 40 to 50 times by the data sheets of an
# A100 and an H200 in TF32; and the bytes that adding both numbers to a logit in float32 reads and writes.
MULTIPLIED_A_BYTE = 40
ADDED_BYTES = 16
CACHED_LOGITS = 2**20  # numbers that may be alive at a time before blocks pay
TYPICAL_BATCH = 4  # what a dynamic batch is planned for
MAX_BLOCKS = 64  # each repeats the operators of the layer in the graph


@dataclass(frozen=True)
class AttentionSizes:
    """What the cost of an attention depends on, for one image: a map of height × width, heads of depth dkh, dvh."""

    height: int
    width: int
    dkh: int
    dvh: int
    num_heads: int
    relative: bool = True

    def __str__(self) -> str:
        tables = "" if self.relative else ", not relative"
        return f"{self.height}×{self.width}, {self.num_heads} heads, dkh {self.dkh}, dvh {self.dvh}{tables}"

    @property
    def positions(self) -> int:
        """N."""
        return self.height * self.width

    @property
    def logits(self) -> int:
        """Of one image: N × N a head."""
        return self.num_heads * self.positions**2


@dataclass(frozen=True)
class Choice:
    """A decomposition, in `blocks` blocks of queries."""

    decomposition: DecompositionName
    blocks: int = 1

    def __str__(self) -> str:
        return self.decomposition if self.blocks == 1 else f"{self.decomposition}/{self.blocks}"


def read_choice(text: str) -> Choice | None:
    """What `str` made a Choice to; None for anything else."""
    name, _, blocks = text.partition("/")
    if name not in DECOMPOSITION_NAMES or (blocks and not blocks.isdecimal()):
        return None
    return Choice(cast(DecompositionName, name), int(blocks or 1))


def choose(sizes: AttentionSizes, batch: int = TYPICAL_BATCH, target: Target = "cpu") -> Choice:
    """The decomposition that should be the fastest for `batch` images on a CPU, or on a CUDA device.

    On CUDA it is whole, because every operator is a kernel to launch, and `fold` as long as the deeper product takes
    tensor cores less than its sums would take the memory, which is up to maps of 320 × 320. No GPU was measured.
    """
    if target == "cuda":
        deeper = sizes.height + sizes.width if sizes.relative else 0
        return Choice("fold" if deeper <= MULTIPLIED_A_BYTE * ADDED_BYTES else "table")
    costs = costs_a_logit(sizes)
    decomposition = min(costs, key=costs.__getitem__)
    return Choice(decomposition, _worthwhile_blocks(decomposition, sizes, batch))


def costs_a_logit(sizes: AttentionSizes) -> dict[DecompositionName, float]:
    """Of each that `choose` weighs on a CPU, in multiplications beyond q·k; all are one without tables."""
    if not sizes.relative:
        return {"fold": 0}
    own_keys = KEYS * sizes.dkh / sizes.width
    return {"fold": sizes.height + sizes.width, "table": 2 * ADD, "shift": ADD + own_keys}


def _worthwhile_blocks(decomposition: DecompositionName, sizes: AttentionSizes, batch: int) -> int:
    if sizes.logits <= CACHED_LOGITS:
        return 1
    blocks = cached_blocks(sizes, batch)
    if decomposition == "shift":  # whose keys are read once anyhow, by their own row of queries
        return blocks
    depth = sizes.dkh + (sizes.height + sizes.width if decomposition == "fold" and sizes.relative else 0)
    return max(1, min(blocks, sizes.positions // (QUERIES_A_DEPTH * depth)))


def choose_eagerly(sizes: AttentionSizes, *, batch: int, device_type: str) -> Choice:
    """What eager PyTorch, in training above all, should take for `batch` images on that type of device.

    On CUDA the flash kernels. On the CPU torch's fused attention was slower than `table` in blocks that fit the
    caches: 241 against 116 ms for a training step of the reference's layer at 32 × 32, batch 4. (There it is only for
    compilers, autocast and whoever else looks on; else `aaexport.nn.tiled` computes what `table` does.)
    """
    if device_type == "cuda":
        return Choice("fused")
    return Choice("table", cached_blocks(sizes, batch))


def blocks_within(sizes: AttentionSizes, max_logits: int, *, batch: int = 1) -> int:
    """The fewest blocks of queries of which none has more than `max_logits` logits; a block has a query at least."""
    queries = max(max_logits // (batch * sizes.num_heads * sizes.positions), 1)
    return -(-sizes.positions // min(queries, sizes.positions))


def cached_blocks(sizes: AttentionSizes, batch: int) -> int:
    """The fewest blocks whose logits, of `batch` images, fit the caches; bounded by what a graph should hold."""
    return min(blocks_within(sizes, CACHED_LOGITS, batch=batch), MAX_BLOCKS)
