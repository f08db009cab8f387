"""Images → what a runner answers, in whatever type and number it takes them."""

from __future__ import annotations

from aaexport.graph.files import GraphSummary
from aaexport.parity import Array
from aaexport.runners.base import Runner

ANSWERS_IN_MEMORY = 2**28  # bytes: expected and own outputs of what is judged together


def fed(runner: Runner, images: Array) -> dict[str, Array]:
    """What the runner answers to images, in the type that it takes them in. RunnerError if it refuses."""
    (port,) = runner.inputs
    return runner.infer({port.name: images.astype(port.dtype, copy=False)})


def fixed_batch(summary: GraphSummary) -> int | None:
    """The only number of images that the file takes; None where it takes any."""
    batch = summary.inputs[0].shape[0]
    return batch if isinstance(batch, int) else None
