"""What PyTorch answered in float64 when model.onnx was verified ↔ truth.safetensors, so that it is asked once.

A file in fewer bits is judged by the definition too, on a few held-out images: those on which its float32 file was
verified. Nothing but the very same images, weights, recipe and code gives these answers, and each is compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from aaexport.errors import FolderError
from aaexport.folder import ModelFolder, tool_versions
from aaexport.parity import Array, Truth
from aaexport.pipeline.subject.facts import Facts
from aaexport.pipeline.subject.golden import Golden, read_golden, write_golden
from aaexport.writing import remove

MOST_BYTES = 2**22  # of answers that are kept: feature maps are asked for anew


def keep_truth(folder: ModelFolder, facts: Facts, truths: Sequence[Truth]) -> None:
    """Writes the truth of the first images that nobody made up; removes an older one if there is none, or too much.

    FolderError if it cannot be written.
    """
    given = next((truth for truth in truths if not truth.case.made_up), None)
    if given is None or sum(array.nbytes for array in given.expected.values()) > MOST_BYTES:
        remove(folder.truth_path)
        return
    write_golden(Golden((given,), facts.weights_digest, origin=_origin(facts, given.expected)), folder.truth_path)


def known_truth(facts: Facts, images: Array) -> Mapping[str, Array] | None:
    """What PyTorch answers to the images in float64, by output; None where it has not been asked for it yet."""
    if facts.folder is None or facts.golden is not None or not facts.folder.truth_path.is_file():
        return None
    try:
        kept = read_golden(facts.folder.truth_path)
    except FolderError:
        return None  # a broken file knows nothing, and PyTorch is asked
    for truth in kept.truths:
        is_of_this = kept.weights_digest == facts.weights_digest and kept.origin == _origin(facts, truth.expected)
        if is_of_this and set(truth.expected) == set(facts.output_names) and _is_same(truth.case.batch, images):
            return {name: truth.expected[name] for name in facts.output_names}
    return None


def _origin(facts: Facts, answers: Mapping[str, Array]) -> dict[str, str]:
    """What the answers depend on beside the weights, and what they are."""
    assert facts.folder is not None
    digest = hashlib.sha256()
    for name, array in sorted(answers.items()):
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    height, width = facts.input_shape[1:]
    return {
        "recipe_digest": facts.folder.recipe.digest(),
        "size": f"{height} {width}",
        "aaexport": tool_versions()["aaexport"],
        "answers": digest.hexdigest(),
    }


def _is_same(batch: Array, images: Array) -> bool:
    return batch.dtype == images.dtype and batch.shape == images.shape and batch.tobytes() == images.tobytes()
