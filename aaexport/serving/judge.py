"""A golden vector's answer over any way → whether it is right, and in which number it is not."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from aaexport.parity.tolerance import Precision, tolerances
from aaexport.runners.base import Array
from aaexport.serving.golden import Query

SIDES = 2  # golden vectors are PyTorch's in float32: it may be as far off the truth as what is judged


def why_wrong(
    query: Query, answers: Mapping[str, Array], dtype: Precision = "float32", where: str = "cpu"
) -> str | None:
    """The output that is not what the query says, by the tolerance table; None if all are right.

    Outputs that the query does not know are not judged. `where` is `cpu` or `cuda`.
    """
    row = tolerances(dtype, where).common
    for name, expected in query.outputs.items():
        answer = answers.get(name)
        if answer is None:
            return f"no output {name}"
        if answer.shape != expected.shape:
            return f"{name} of shape {list(answer.shape)} instead of {list(expected.shape)}"
        largest = float(np.abs(expected).max(initial=0.0))
        error = float(np.abs(answer.astype(np.float64) - expected).max(initial=0.0))
        allowed = SIDES * (row.atol + row.rtol * largest)
        if not error <= allowed:  # NaN is wrong too
            return f"{name} off by {error:.1e}, where {allowed:.1e} is allowed"
    return None
