"""Images → what a runner answers, in whatever type it takes them."""

from __future__ import annotations

from aaexport.parity import Array
from aaexport.runners.base import Runner


def fed(runner: Runner, images: Array) -> dict[str, Array]:
    """What the runner answers to images, in the type that it takes them in. RunnerError if it refuses."""
    (port,) = runner.inputs
    return runner.infer({port.name: images.astype(port.dtype, copy=False)})
