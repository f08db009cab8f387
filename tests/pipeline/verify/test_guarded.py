"""Who judges a reduced file, on how much of what was given, and what is told of the rest."""

import numpy as np
import pytest

from aaexport.graph.evaluate import OVERFLOW_MACS, REFERENCE_MACS
from aaexport.pipeline.verify.guarded import FEW, Evidence, Guard


def guard(kind="float16", macs=10**6, batch=None, count=16):
    """One that has judged nothing."""
    return Guard(None, kind, None, Evidence(np.zeros((count, 1, 2, 2)), None, f"{count} images"), macs, batch)


@pytest.mark.parametrize(
    ("kind", "macs", "batch", "asked"),
    [
        ("float16", REFERENCE_MACS // FEW, None, FEW),
        ("float16", REFERENCE_MACS // FEW + 1, None, 1),
        ("float16", OVERFLOW_MACS, None, 1),
        ("float16", OVERFLOW_MACS + 1, None, 0),
        ("float16", OVERFLOW_MACS // 4, 4, 4),
        ("float16", OVERFLOW_MACS // 4 + 1, 4, 0),
        ("float16", None, None, 0),
        ("int8", REFERENCE_MACS // FEW + 1, None, 0),
    ],
)
def test_the_evaluator_sees_as_many_images_as_there_is_time_for_and_none_is_told(kind, macs, batch, asked):
    judge = guard(kind, macs, batch)
    assert judge.evaluated == asked
    assert bool(judge.notes) == (asked == 0)


def test_why_the_evaluator_was_not_asked_is_told():
    (note,) = guard(macs=None).notes
    assert "onnx's reference evaluator was not asked: it is not known how long it takes" in note
    assert note.endswith("a CPU computes parts of float16 in float32 and may hide an overflow")
    (note,) = guard("int8", 10**12).notes
    assert note.endswith("a network of this size takes it long")


@pytest.mark.parametrize(("seen", "batch", "words"), [(16, None, "16 images"), (8, None, "8 of 16 images"),
                                                      (12, 12, "12 of 16 images")])  # fmt: skip
def test_what_was_seen_is_told_and_not_what_was_given(seen, batch, words):
    judge = guard(batch=batch)
    judge.answers = [(np.zeros((seen, 1, 2, 2)), {})]
    assert judge.data == words
