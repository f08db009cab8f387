"""The file of digits that scikit-learn carries → images in memory, in two fixed parts."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aaexport.data.records import StoredRecords
from aaexport.data.request import Request, Split
from aaexport.errors import DataError

CLASSES = 10
DIGITS_TEST_SHARE = 0.2
DIGITS_SPLIT_SEED = 20190422  # the split belongs to the data set, not to a run: no recipe can move it


def read_digits(request: Request) -> StoredRecords:
    """1,797 scans of 8×8 pixels; a fixed stratified fifth of them is the test part.

    Read from the file that scikit-learn carries: importing scikit-learn for it would take longer than verifying.
    """
    request.require_channels(1)
    request.require_classes(CLASSES)
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise DataError("the data set digits needs scikit-learn; pip install 'aaexport[digits]'")
    path = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    try:
        rows = np.loadtxt(path, delimiter=",", dtype=np.int64)  # 64 pixels and the class, a row
    except (OSError, ValueError) as error:
        raise DataError(f"{path} must hold scikit-learn's digits, but: {error}; reinstall scikit-learn") from error
    chosen = rows[_part(rows[:, -1], request.split)]
    return StoredRecords(chosen[:, :-1].astype(np.uint8).reshape(-1, 1, 8, 8), chosen[:, -1].copy(), white=16)


def _part(labels: npt.NDArray[np.int64], split: Split) -> npt.NDArray[np.int64]:
    """The rows of one part, in the file's order: of every class a fixed random fifth is the test part."""
    rng = np.random.default_rng(DIGITS_SPLIT_SEED)
    test = np.zeros(len(labels), dtype=bool)
    for digit in range(CLASSES):
        rows = rng.permutation(np.flatnonzero(labels == digit))
        test[rows[: round(DIGITS_TEST_SHARE * len(rows))]] = True
    return np.flatnonzero(test if split == "test" else ~test)
