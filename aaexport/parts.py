"""What a model is told by: a part for each of its modules, with what it costs and how it is written out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # and with it torch, which a file alone needs not
    from aaexport.nn.choice import AttentionSizes


@dataclass(frozen=True)
class Written:
    """How the attention of a layer is written out, and why so.

    Attributes:
        choice: the decomposition, with its blocks.
        why: a sentence; "" where nobody knows.
        sizes: what its cost depends on; None where a file alone is there.
        channels: of the layer's outputs, those of the convolution and those of attention; None likewise.
        costs: what each decomposition costs a logit beside q·k, by the cost model; empty where it was not asked.
    """

    choice: str
    why: str = ""
    sizes: AttentionSizes | None = None
    channels: tuple[int, int] | None = None
    costs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """What a model has of one PyTorch module, or of a stretch of nodes where its file names no modules.

    Attributes:
        path: of the module, "" for the model itself; of a stretch the name of its first node.
        kind: the module's class; "" where nobody knows.
        reads, writes: shapes for one image; None where they are not known.
        parameters: numbers in it.
        macs: multiply-accumulates of one image; None where they are not known.
        before, after: operators of the file before the graph rules and as it is; None where that is not known.
        applied: the rules that were, and how often.
        left: why other rules were not.
        written: of an augmented layer, its attention.
    """

    path: str
    kind: str = ""
    reads: tuple[int, ...] | None = None
    writes: tuple[int, ...] | None = None
    parameters: int = 0
    macs: int | None = None
    before: Mapping[str, int] | None = None
    after: Mapping[str, int] | None = None
    applied: Mapping[str, int] = field(default_factory=dict)
    left: tuple[str, ...] = ()
    written: Written | None = None
