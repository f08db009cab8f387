"""[training] and how far the run is → the learning rate."""

from __future__ import annotations

import math
from bisect import bisect_right

from aaexport.recipe import Training

FIRST_STEP = 0.01


def learning_rate(training: Training, epochs_done: float) -> float:
    """A linear warm-up to `learning_rate`, then the recipe's schedule.

    `cosine` is half a cosine to zero (Loshchilov & Hutter 2017, eq. 5); `step` multiplies by `step_factor` after
    each epoch of `milestones`.
    """
    warmup = training.warmup_epochs
    if epochs_done < warmup:
        # The first step of all must move too, so the ramp starts one part in a hundred up.
        return training.learning_rate * max(epochs_done / warmup, FIRST_STEP)
    if training.schedule == "step":
        return training.learning_rate * training.step_factor ** bisect_right(training.milestones, epochs_done)
    share = (epochs_done - warmup) / max(training.epochs - warmup, 1e-9)
    return training.learning_rate * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
