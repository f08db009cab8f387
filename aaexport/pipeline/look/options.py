"""What is asked of a picture of attention, and which of it is wrong: seen without loading anything that attends."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aaexport.errors import ArgumentError, DataError, broken_rule
from aaexport.folder import ModelFolder, find_model
from aaexport.writing import check_writable

if TYPE_CHECKING:
    from aaexport.report.attention_picture import Form

Pixel = tuple[int, int]  # (row, column)
FORMS: dict[str, Form] = {".svg": "svg", ".png": "png"}  # by the ending of the picture's name


SAMPLE = "sample:"  # begins the number of an image of the data set; a file of such a name is ./sample:7


def sample_number(image: str | Path) -> int | None:
    """N of `sample:N`; None for a file, which every `Path` is. ArgumentError if N is no whole number."""
    if isinstance(image, Path) or not image.startswith(SAMPLE):
        return None
    number = image.removeprefix(SAMPLE)
    if not re.fullmatch(r"\d{1,12}", number):
        raise ArgumentError(broken_rule("image", "be a file, or sample:N with a whole number", image))
    return int(number)


def check_picture(
    model: str | Path | ModelFolder, image: str | Path, path: Path, queries: Sequence[Pixel]
) -> tuple[ModelFolder, Form]:
    """The model's folder, and the form of the picture.

    Raises:
        ArgumentError: `image` begins with sample: and has no number, `path` names no new .svg or .png, `model` is an
            ONNX file, or a query lies outside its images.
        DataError: the image is not there.
        NoWeightsError: the folder has not been trained yet.
        ModelNotFoundError, FolderError, RecipeError: as `aaexport.folder.find_model`.
    """
    form = _checked_form(path, Path(image) if sample_number(image) is None else None)
    return check_attention(model, image, queries), form


def check_attention(model: str | Path | ModelFolder, image: str | Path, queries: Sequence[Pixel]) -> ModelFolder:
    """The same of what is drawn on a page."""
    is_file = sample_number(image) is None
    folder = _folder_of(model)
    if is_file:
        _require_readable(Path(image))
    folder.require_weights()
    if folder.module_recipe is None:
        _check_queries(queries, folder.recipe.input.size)
    return folder


def _require_readable(image: Path) -> None:
    try:
        with image.open("rb"):
            pass
    except OSError as error:
        raise DataError(f"{image} must be a readable image, but: {error.strerror}") from error


def _checked_form(path: Path, image: Path | None) -> Form:
    form = FORMS.get(path.suffix.lower())
    if form is None:
        raise ArgumentError(broken_rule("out", "name a .png or .svg file", str(path)))
    if image is not None and path.resolve() == image.resolve():
        raise ArgumentError(broken_rule("out", "be another file than the image", str(path)))
    check_writable(path)
    return form


def _folder_of(model: str | Path | ModelFolder) -> ModelFolder:
    if isinstance(model, ModelFolder):
        return model
    if Path(model).suffix == ".onnx" or Path(model).is_file():
        rule = "be a model folder or a zoo name where attention is drawn"
        remedy = "give the folder that the file was converted from: the PyTorch model is run"
        raise ArgumentError(broken_rule("model", rule, str(model), remedy))
    return find_model(model)


def _check_queries(queries: Sequence[Pixel], size: tuple[int, int]) -> None:
    for row, column in queries:
        if not (0 <= row < size[0] and 0 <= column < size[1]):
            rule = f"be ROW,COLUMN from 0,0 to {size[0] - 1},{size[1] - 1} in the network's input"
            raise ArgumentError(broken_rule("query", rule, f"{row},{column}"))
