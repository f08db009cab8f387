"""What serving must know of one model, as a value: tensors, batch, digest, golden vectors, preprocessing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from aaexport.serving.golden import Query


@dataclass(frozen=True)
class ServedTensor:
    """An input or output, its batch included; a dimension is −1 where any size goes; `datatype` is as FP32."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ImageInput:
    """What makes a JPEG or PNG file fit: crop, size, mean and std of model.toml, and the classes' names.

    `shape` is (C, H, W), `scores` the output that has a number for each class, `top` how many classes are told.
    """

    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_share: float
    labels: tuple[str, ...]
    scores: str
    top: int

    @property
    def label_bytes(self) -> int:
        """Of the longest label in UTF-8."""
        return max(len(label.encode()) for label in self.labels)


@dataclass(frozen=True, eq=False)
class ModelFacts:
    """All that a repository needs to know of one model.

    Attributes:
        name: under which it is served: the folder's.
        onnx: the file, with `data_files` beside it where its numbers are not in it.
        onnx_sha256: of the file, and of all of them together where there are several (`graph.files.file_digest`).
        inputs, outputs: in the file's order, their batch included.
        fixed_batch: how many images the file takes at once, if it fixes that; None where any number goes.
        golden: questions with their answers, each of a batch that the file takes; none if nobody knows any.
        image: None where the recipe has no preprocessing, or the file does not take one image by itself.
    """

    name: str
    onnx: Path
    data_files: tuple[Path, ...]
    onnx_sha256: str
    inputs: tuple[ServedTensor, ...]
    outputs: tuple[ServedTensor, ...]
    fixed_batch: int | None
    golden: tuple[Query, ...]
    image: ImageInput | None

    @property
    def batched(self) -> bool:
        """Whether the first dimension of every tensor is a batch of any size, so that requests can share a run."""
        return self.fixed_batch is None and all(
            tensor.shape and tensor.shape[0] == -1 for tensor in (*self.inputs, *self.outputs)
        )

    @property
    def has_open_sizes(self) -> bool:
        """Whether an input takes more than one size behind the first dimension, as images of any."""
        return any(size == -1 for tensor in self.inputs for size in tensor.shape[1:])

    @property
    def image_name(self) -> str:
        """Of the model that takes image files."""
        return f"{self.name}_image"

    def with_golden(self, golden: Sequence[Query]) -> ModelFacts:
        """The same with other questions."""
        return replace(self, golden=tuple(golden))
