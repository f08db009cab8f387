"""A data set of the Hugging Face hub, or of its local cache → images in memory, or decoded as needed if too many.

The image and the label column are found by the types of the data set's features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aaexport.data.decoding import decoded, readable, require_pillow
from aaexport.data.records import EncodedRecords, StoredRecords
from aaexport.data.request import Request
from aaexport.errors import DataError, broken_rule, did_you_mean, first_line
from aaexport.pixels import MODES, Array

MOST_BYTES_IN_MEMORY = 2**30


@dataclass(frozen=True)
class HubFiles:
    """Images in the rows of a data set, still encoded."""

    rows: Any
    column: str
    part: str

    def __len__(self) -> int:
        return len(self.rows)

    def content(self, number: int) -> Path | bytes:
        """The bytes in that row, or the path of the file it names."""
        image = self.rows[number][self.column]
        return Path(image["path"]) if image["bytes"] is None else bytes(image["bytes"])

    def name(self, number: int) -> str:
        """Repository, part and row."""
        return f"row {number} of {self.part}"


def hub_reader(
    repository: str, label_column: str = "", test_split: str = "test"
) -> Callable[[Request], StoredRecords | EncodedRecords]:
    """A reader of `owner/name`. `label_column` and `test_split` hold unless the recipe has its own.

    The reader raises DataError: libraries or the data set are not there, a part or a column is missing or ambiguous,
    or classes differ.
    """

    def read(request: Request) -> StoredRecords | EncodedRecords:
        request.require_channels(*MODES)
        rows = _part(_parts(repository, request.download), repository, request.part_name(test_split))
        labels = _labels(rows, request.recipe.data.label_column or label_column, request)
        files = _files(rows, f"{repository} {request.part_name(test_split)}")
        channels = request.recipe.input.channels
        notes: tuple[str, ...] = ()
        if request.skip_bad:
            good, notes = readable(files, channels)
            if not good:
                raise DataError(f"{files.part} must hold an image that can be decoded, got only corrupt ones")
            files, labels = HubFiles(files.rows.select(good), files.column, files.part), labels[good]
        pixels = _in_memory(files, channels)
        if pixels is None:
            return EncodedRecords(files, labels, channels, notes)
        return StoredRecords(pixels, labels, white=255, notes=notes)

    return read


def _parts(repository: str, download: bool) -> Any:
    """All parts by name, their rows still on disk."""
    try:
        import datasets
    except ImportError as error:
        remedy = "pip install 'aaexport[datasets]'"
        raise DataError(f"the data set {repository} needs Hugging Face datasets; {remedy}") from error
    require_pillow(f"the data set {repository}")
    try:
        with nullcontext() if download else _hub_offline():
            return datasets.load_dataset(repository)
    # The hub's client raises its own, its HTTP library's and the system's errors, with no common base.
    except Exception as error:
        cause = first_line(error)
        if download:
            raise DataError(f"the data set {repository} cannot be fetched: {cause}") from error
        remedy = "fetch it once with `aaexport train MODEL --download`"
        raise DataError(f"the data set {repository} is not in the local cache ({cause}); {remedy}") from error


@contextmanager
def _hub_offline() -> Iterator[None]:
    """Keeps the hub's client off the network, and from warning that it is.

    HF_HUB_OFFLINE itself is read only when the client is first imported.
    """
    import datasets.config
    import huggingface_hub.constants
    from datasets.utils import logging

    modules: tuple[Any, ...] = (huggingface_hub.constants, datasets.config)
    before = [module.HF_HUB_OFFLINE for module in modules]
    verbosity = logging.get_verbosity()
    for module in modules:
        module.HF_HUB_OFFLINE = True
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value


def _part(parts: Any, repository: str, name: str) -> Any:
    if name not in parts:
        remedy = "" if name == "train" else "; name another part with [data] test_split"
        raise DataError(f"the data set {repository} must have a part {name!r}, got {', '.join(parts)}{remedy}")
    if not len(parts[name]):
        raise DataError(f"the data set {repository} must have images in its part {name!r}, got none")
    return parts[name]


def _files(rows: Any, part: str) -> HubFiles:
    import datasets

    columns = [name for name, kind in rows.features.items() if isinstance(kind, datasets.Image)]
    if len(columns) != 1:
        got = ", ".join(columns) or "none"
        raise DataError(f"{part} must have one column of images, got {got}; its columns: {', '.join(rows.features)}")
    encoded = rows.select_columns(columns).cast_column(columns[0], datasets.Image(decode=False))
    return HubFiles(encoded, columns[0], part)


def _labels(rows: Any, named: str, request: Request) -> Array:
    """(N,) int64, checked against the recipe; −1 each for a recipe without classes where no column is named."""
    column = _label_column(rows.features, named, request)
    if column is None:
        return np.full(len(rows), -1, np.int64)
    values = list(rows[column])
    kind = rows.features[column]
    if None in values:
        raise DataError(f"the labels in column {column} must all be there, got none in row {values.index(None)}")
    labels = np.array(values, np.int64)
    names = getattr(kind, "names", None) or []
    count = len(names) or _observed_classes(labels, request)
    request.require_classes(count)
    least, most = int(labels.min()), int(labels.max())
    if request.recipe.network.classifies and not 0 <= least <= most < count:
        wrong = least if least < 0 else most
        part = request.split
        remedy = "name a labelled part with [data] test_split" if part == "test" else "the data set is unlabelled"
        raise DataError(broken_rule(f"labels in column {column}", f"be from 0 to {count - 1}", wrong, remedy))
    return labels


def _observed_classes(labels: Array, request: Request) -> int:
    """How many classes plain numbers stand for: the test part may lack the last of them."""
    return int(labels.max()) + 1 if request.split == "train" else request.recipe.input.classes


def _label_column(features: Any, named: str, request: Request) -> str | None:
    import datasets

    if named:
        if named not in features:
            remedy = did_you_mean(named, features)
            raise DataError(broken_rule("[data] label_column", "be a column of the data set", named, remedy))
        kind = features[named]
        whole = isinstance(kind, datasets.Value) and "int" in kind.dtype
        if not isinstance(kind, datasets.ClassLabel) and not whole:
            raise DataError(broken_rule("[data] label_column", "hold classes or whole numbers", named))
        return named
    columns: list[str] = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    if len(columns) == 1:
        return columns[0]
    if not request.recipe.network.classifies:
        return None
    repository = request.recipe.data.dataset
    if not columns:
        remedy = f"its columns: {', '.join(features)}"
        raise DataError(f"[data] label_column must name a column of {repository}: none holds classes; {remedy}")
    raise DataError(
        f"[data] label_column must choose between the label columns of {repository}: {', '.join(columns)}"
    )


def _in_memory(files: HubFiles, channels: int) -> Array | None:
    """(N, C, H, W) uint8, or None if the images differ in size or are too many."""
    first = decoded(files, 0, channels)
    if len(files) * first.size > MOST_BYTES_IN_MEMORY:
        return None
    pixels = np.empty((len(files), *first.shape), np.uint8)
    for number in range(len(files)):
        image = decoded(files, number, channels)
        if image.shape != first.shape:
            return None
        pixels[number] = image
    return pixels
