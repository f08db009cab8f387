"""A rival's blocks beside ours → Comparison: medians, and their ratio pair by pair."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aaexport.load.measurement import ColdStart, Comparison
from aaexport.load.statistics import Milliseconds, pairwise_ratio, percentile
from aaexport.pipeline.bench.answer_check import Agreement
from aaexport.pipeline.bench.contender import Contender
from aaexport.pipeline.bench.rivals import rival_label


def compared(
    name: str,
    rival: Contender,
    blocks: Sequence[Milliseconds],
    ours: Sequence[Milliseconds],
    *,
    cold_start: ColdStart,
    agreement: Agreement,
    withheld: str | None,
) -> Comparison:
    """What a report tells of that rival; without a ratio where one is `withheld`, or nothing was measured."""
    # Fewer if it was interrupted; a block without an answer has no median.
    pairs = [pair for pair in zip(blocks, ours, strict=False) if len(pair[0]) and len(pair[1])]
    ratio = pairwise_ratio(*map(list, zip(*pairs, strict=True))) if pairs and not withheld else None
    return Comparison(
        name=name,
        label=rival_label(name, rival.label),
        p50=percentile(np.concatenate(blocks), 50) if blocks else None,
        cold_start=cold_start.first_query,
        ratio=ratio,
        withheld=withheld if pairs or withheld else "it was not measured to the end",
        blocks=tuple(blocks),
        same_answers=agreement.same,
        loss=agreement.loss,
    )
