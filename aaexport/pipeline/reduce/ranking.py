"""(layers that a pass reduces, a few images) → what each costs alone, in dB of the answers: the worst first."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from aaexport.errors import RunnerError
from aaexport.graph.outside import serialized
from aaexport.graph.precision.reduced import Layer, Reduced
from aaexport.graph.precision.switches import Switchable
from aaexport.parity import Array
from aaexport.parity.guard import sqnr_db
from aaexport.pipeline.verify.feeding import fed
from aaexport.runners.ort import OrtRunner
from aaexport.runners.ort_settings import DEFAULTS, SessionSettings

Say = Callable[[str], None]
# What stays in float32, by node → the model with all else reduced, while it is looked at.
Convert = Callable[[Collection[str]], AbstractContextManager[Reduced]]
Answers = Sequence[tuple[Array, Mapping[str, Array]]]


@dataclass(frozen=True)
class LayerCost:
    """A layer, and the SQNR of the answers where it alone is reduced."""

    layer: Layer
    sqnr_db: float


def ranked(
    layers: Sequence[Layer], convert: Convert, answers: Answers, say: Say = lambda step: None
) -> tuple[LayerCost, ...]:
    """Each layer alone in fewer bits, the one that costs most first. What they cost adds up, so once is enough.

    Args:
        layers: what the pass reduces.
        convert: the pass.
        answers: batches of images, and what float32 answers to them.
        say: is told each layer, as lines that begin with a blank.
    """
    costs = []
    for number, layer in enumerate(layers):
        say(f" {layer} alone, {number + 1} of {len(layers)}")
        others = [other.node for other in layers if other.node != layer.node]
        with convert(others) as reduced:
            costs.append(LayerCost(layer, kept_db(reduced, answers)))
    return tuple(sorted(costs, key=lambda cost: cost.sqnr_db))


def ranked_at_once(
    switches: Switchable, answers: Answers, say: Say = lambda step: None, settings: SessionSettings = DEFAULTS
) -> tuple[LayerCost, ...]:
    """As `ranked`, of a model that holds every layer in both precisions: it is loaded once."""
    count = len(switches.layers)
    costs = []
    with OrtRunner(serialized(switches.model), settings) as runner:
        image = next(port for port in runner.inputs if port.name != switches.switches)
        for place, layer in enumerate(switches.layers):
            say(f" {layer} alone, {place + 1} of {count}")
            found = []
            for images, expected in answers:
                feeds = {
                    image.name: images.astype(image.dtype, copy=False),
                    switches.switches: np.arange(count) == place,
                }
                found.append(sqnr_db(expected, runner.infer(feeds)))
            least = min((value for value in found if value is not None), default=math.inf)
            costs.append(LayerCost(layer, least))
    return tuple(sorted(costs, key=lambda cost: cost.sqnr_db))


def kept_db(reduced: Reduced, answers: Answers, settings: SessionSettings = DEFAULTS) -> float:
    """The SQNR of the model's answers to those of float32; infinite where they are the same, minus infinity where
    they are not finite or do not come.
    """
    try:
        with OrtRunner(serialized(reduced.model), settings) as runner:
            found = [sqnr_db(expected, fed(runner, images)) for images, expected in answers]
    except RunnerError:
        return -math.inf
    return min((value for value in found if value is not None), default=math.inf)
