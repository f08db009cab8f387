"""(float32 model, calibration images) → the range of every tensor that a pass wants to see, all of it in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from aaexport.graph.intermediate import plan_chunks, tensor_bytes
from aaexport.graph.precision.observe import Observed
from aaexport.graph.precision.ranges import Range, RangeCollector, Ranges
from aaexport.parity import Array
from aaexport.pipeline.verify.feeding import fed
from aaexport.runners.ort import OrtRunner

Say = Callable[[str], None]
BATCH = 4  # images at a time: every tensor that is wanted is held at once
MOST_BYTES = 2**29  # of those tensors; of a larger network they are seen a part at a time


def ranges_of(
    observed: Observed,
    images: Array,
    batch: int | None,
    say: Say = lambda step: None,
    *,
    infinite: bool = False,
    names: Sequence[str] = (),
) -> Ranges:
    """The least and the greatest number of each tensor on the images (N, C, H, W), by onnxruntime.

    `batch` is the only one that the model takes: the images are taken around until the last batch is full.
    `infinite` tells whether infinity is right (`RangeCollector`); `names` are what the images are called.

    Raises:
        GraphError: a tensor is NaN or infinite on an image; the text names both.
        RunnerError: onnxruntime cannot run the model.
    """
    size = batch or BATCH
    inputs = {value.name for value in observed.model.graph.input}
    inner = [name for name in observed.names if name not in inputs]
    found: dict[str, Range] = {}
    called = [*names] or [f"image {number}" for number in range(len(images))]
    parts = plan_chunks(inner, tensor_bytes(observed.model, size), MOST_BYTES)
    for number, part in enumerate(parts):
        wanted = (*part, *(name for name in observed.names if name in inputs and number == 0))
        collector = RangeCollector(
            observed.layers, infinite=infinite, called=lambda number: called[number % len(called)]
        )
        with OrtRunner(observed.answering(part)) as runner:
            for first, some in _batches(images, batch):
                say(f" image {first + 1} of {len(images)}, part {number + 1} of {len(parts)}")
                tensors = _wanted(wanted, runner.inputs[0].name, some, fed(runner, some))
                collector.add(tensors, first=first, images=len(some))
        found |= collector.ranges
    return found


def _wanted(names: tuple[str, ...], input_name: str, images: Array, answers: Mapping[str, Array]) -> dict[str, Array]:
    """The tensors by name; the model's input is what was fed."""
    return {name: images if name == input_name else answers[name] for name in names}


def _batches(images: Array, batch: int | None) -> Iterator[tuple[int, Array]]:
    """The number of the first image, and the batch."""
    size = batch or BATCH
    for start in range(0, len(images), size):
        some = images[start : start + size]
        if batch is not None and len(some) < batch:
            some = images.take(range(start, start + batch), axis=0, mode="wrap")
        yield start, some
