"""A folder's weights → golden vectors for its ONNX file, where there are none that fit: asked of PyTorch."""

from __future__ import annotations

from pathlib import Path

from aaexport.errors import FolderError
from aaexport.folder import ModelFolder
from aaexport.serving.facts import ModelFacts

MADE_IMAGES = 4


def write_made_golden(folder: ModelFolder, facts: ModelFacts, path: Path) -> None:
    """What PyTorch answers to a few random images, as training keeps it. FolderError without weights."""
    if not can_be_made(folder):
        remedy = (
            "run `aaexport convert` again" if folder.module_recipe is not None else "train it, or give it its weights"
        )
        raise FolderError(
            f"{folder.path} must have golden vectors, or weights to make them from, got neither; {remedy}"
        )
    import torch

    from aaexport.graph.files import converted_size
    from aaexport.pipeline.subject.subject import as_subject
    from aaexport.weights.safetensors import write_tensors

    subject = as_subject(folder, size=converted_size(facts.onnx))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(MADE_IMAGES, *subject.input_shape, generator=generator)
    with torch.no_grad():
        answer = subject.module(images)
    named = {facts.inputs[0].name: images, subject.output_names[0]: answer}
    write_tensors({name: tensor.contiguous() for name, tensor in named.items()}, path)


def can_be_made(folder: ModelFolder) -> bool:
    """Whether the folder has the weights of a network of ours."""
    return folder.module_recipe is None and folder.weights_path.is_file()
