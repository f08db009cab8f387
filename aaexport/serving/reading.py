"""A model folder → what serving must know of it (`ModelFacts`). Needs onnx and NumPy, and no PyTorch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from aaexport.errors import FolderError, GraphError, broken_rule
from aaexport.folder import ModelFolder
from aaexport.graph.files import (
    TensorInfo,
    converted_size,
    data_files,
    file_digest,
    model_inputs,
    parse_onnx,
    tensor_info,
)
from aaexport.pixels import MODES
from aaexport.recipe import Recipe
from aaexport.runners.base import Array
from aaexport.serving.facts import ImageInput, ModelFacts, ServedTensor
from aaexport.serving.golden import Query, golden_queries

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
TOP = 5
# Triton's names of ONNX's types; bfloat16 is not among them, because NumPy has none to check an answer with.
DATATYPES = {
    "float": "FP32", "double": "FP64", "float16": "FP16", "bool": "BOOL",
    "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
    "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
}  # fmt: skip


def read_facts(
    folder: ModelFolder, onnx: Path | None = None, *, name: str = "", golden: Path | None = None
) -> ModelFacts:
    """What serving must know of the folder's model.onnx, or of another file `onnx` of the same model.

    It is to be served under `name`, or the folder's; its golden vectors are those in `golden`, or in the folder.

    `golden` is what lies in the folder and fits the file; the caller says what an empty one means.

    Raises:
        FolderError: no model.onnx, a name that no URL should hold, or golden vectors that cannot be read.
        GraphError: no whole ONNX file, without an input, or with tensors that no protocol carries.
        RecipeError: model.toml breaks a rule.
    """
    path = folder.onnx_path if onnx is None else onnx
    if not path.is_file():
        raise FolderError(f"{path} must be there to be served, got none; run `aaexport convert {folder.path}`")
    name = name or folder.name
    if MODEL_NAME.fullmatch(name) is None:
        rule = "have a name of letters, digits, '.', '_' and '-'"
        raise FolderError(broken_rule(str(folder.path), rule, name, "rename the folder"))
    model = parse_onnx(path)
    beside = data_files(model, path)
    inputs = tuple(served_tensor(tensor, path) for tensor in model_inputs(model))
    outputs = tuple(served_tensor(tensor_info(value), path) for value in model.graph.output)
    if not inputs:
        raise GraphError(broken_rule(str(path), "have an input to be served", "none"))
    first = inputs[0].shape[0] if inputs[0].shape else 1
    fixed = None if first == -1 else first
    known = golden_queries(golden or folder.golden_path, [t.name for t in inputs], [t.name for t in outputs])
    return ModelFacts(
        name=name,
        onnx=path,
        data_files=beside,
        onnx_sha256=file_digest(path, beside),
        inputs=inputs,
        outputs=outputs,
        fixed_batch=fixed,
        golden=tuple(_fitting(known, inputs, fixed)),
        image=_image_input(folder, path, inputs, outputs),
    )


def served_tensor(tensor: TensorInfo, path: Path) -> ServedTensor:
    """As the protocol describes it. GraphError for a type that it does not carry."""
    if tensor.dtype not in DATATYPES:
        rule = f"be of one of {', '.join(DATATYPES)} to be served"
        raise GraphError(broken_rule(f"tensor {tensor.name} of {path}", rule, tensor.dtype))
    sizes = tuple(size if isinstance(size, int) else -1 for size in tensor.shape)
    return ServedTensor(tensor.name, DATATYPES[tensor.dtype], sizes)


def _fitting(queries: Sequence[Query], inputs: Sequence[ServedTensor], fixed: int | None) -> Iterator[Query]:
    """Those whose inputs the file takes, at its own batch where it has one."""
    for query in queries:
        whole = query if fixed is None else query.at_batch(fixed)
        if whole is not None and all(_fits(whole.inputs[tensor.name], tensor) for tensor in inputs):
            yield _as_taken(whole, inputs)


def _as_taken(query: Query, inputs: Sequence[ServedTensor]) -> Query:
    """With inputs in float16 where the file takes them so."""
    halves = {tensor.name for tensor in inputs if tensor.datatype == "FP16"}
    if not halves:
        return query
    cast = {name: array.astype(np.float16) if name in halves else array for name, array in query.inputs.items()}
    return replace(query, inputs=cast)


def _fits(array: Array, tensor: ServedTensor) -> bool:
    taken = {"FP32": (np.float32,), "FP16": (np.float32, np.float16)}.get(tensor.datatype, ())
    same = array.ndim == len(tensor.shape) and array.dtype in taken
    return same and all(wanted in (-1, size) for wanted, size in zip(tensor.shape, array.shape, strict=True))


def _image_input(
    folder: ModelFolder, path: Path, inputs: Sequence[ServedTensor], outputs: Sequence[ServedTensor]
) -> ImageInput | None:
    if folder.module_recipe is not None:
        return None
    recipe: Recipe = folder.recipe.for_size(converted_size(path))
    image = recipe.input
    takes_one = (
        len(inputs) == 1
        and inputs[0].datatype == "FP32"
        and inputs[0].shape[:1] in ((-1,), (1,))
        and inputs[0].shape[1:] == image.shape
    )
    if not (recipe.network.classifies and takes_one and image.channels in MODES):
        return None
    return ImageInput(
        shape=image.shape,
        mean=tuple(image.mean),
        std=tuple(image.std),
        crop_share=recipe.data.crop_share,
        labels=image.names or tuple(str(number) for number in range(image.classes)),
        scores=outputs[0].name,
        top=min(TOP, image.classes),
    )
