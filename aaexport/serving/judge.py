"""A golden vector's answer over any way → whether it is right, and in which number it is not."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from aaexport.folder import Dtype
from aaexport.parity.tolerance import tolerances
from aaexport.runners.base import Array
from aaexport.serving.golden import Query

SIDES = 2  # golden vectors are PyTorch's in float32: it may be as far off the truth as what is judged
# In fewer bits golden vectors are what the very same file answers by onnxruntime: what it lost of float32 is the
# guard's matter, and here that would hide whatever is smaller. Of the largest number of an output, and why so much.
OWN: dict[Dtype, tuple[float, str]] = {
    "float16": (2e-3, "two units in its last place; other kernels of one file moved it by 2e-5"),
    "int8": (5e-3, "a number between two steps takes the other one: other kernels moved it by 1.4e-3"),
}


def why_wrong(query: Query, answers: Mapping[str, Array], dtype: Dtype = "float32", where: str = "cpu") -> str | None:
    """The output that is not what the query says; None if all are right.

    Float32 is judged by the tolerance table, as the query says what PyTorch answers. A file in float16 or int8 must
    give what it gave itself (`OWN`). Outputs that the query does not know are not judged. `where` is `cpu` or `cuda`.
    """
    for name, expected in query.outputs.items():
        answer = answers.get(name)
        if answer is None:
            return f"no output {name}"
        if (fault := fault_of(answer, expected, dtype, where)) is not None:
            return f"{name} {fault}"
    return None


def fault_of(answer: Array, expected: Array, dtype: Dtype, where: str) -> str | None:
    """What is wrong with one output, by the rule of `why_wrong`; None if it is right."""
    if answer.shape != expected.shape:
        return f"of shape {list(answer.shape)} instead of {list(expected.shape)}"
    largest = float(np.abs(expected).max(initial=0.0))
    error = float(np.abs(answer.astype(np.float64) - expected).max(initial=0.0))
    absolute, share = bounds(dtype, where)
    allowed = absolute + share * largest
    if not error <= allowed:  # NaN is wrong too
        return f"off by {error:.1e}, where {allowed:.1e} is allowed"
    return None


def bounds(dtype: Dtype, where: str) -> tuple[float, float]:
    """What an answer may be off by: a number, and a share of its output's largest number, which add up."""
    if dtype in OWN:
        return 0.0, OWN[dtype][0]
    row = tolerances("float32", where).common
    return SIDES * row.atol, SIDES * row.rtol
