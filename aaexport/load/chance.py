"""One seed → random numbers for every part of a run that is left to chance, none of which follow from another's."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

Part = Literal["arrivals", "samples", "warm-up"]


def chance(part: Part, seed: int) -> np.random.Generator:
    """The same numbers for the same part and seed; independent of those of all others (`SeedSequence`)."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(get_args(Part).index(part),)))
