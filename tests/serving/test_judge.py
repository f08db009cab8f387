"""Whether an answer to a golden vector is right."""

import re

import numpy as np
import pytest
from served import query

from aaexport.serving.golden import Query, parts
from aaexport.serving.judge import why_wrong

RIGHT = query()


def answered(**changes):
    return {"logits": RIGHT.outputs["logits"].copy(), **changes}


def test_the_right_answer_is_right():
    assert why_wrong(RIGHT, answered(more=np.zeros(1))) is None


def test_an_answer_within_rounding_is_right():
    assert why_wrong(RIGHT, {"logits": np.nextafter(RIGHT.outputs["logits"], np.float32(9))}) is None


LIES = {
    "off": (lambda right: right + np.float32(1e-3), "logits off by 1.0e-03, where"),
    "swapped": (lambda right: right[::-1], "logits off by"),
    "empty": (lambda right: right[:0], r"logits of shape \[0, 3\] instead of \[2, 3\]"),
    "nan": (lambda right: right * np.float32(np.nan), "logits off by nan"),
}


@pytest.mark.parametrize(("lie", "text"), LIES.values(), ids=LIES)
def test_a_wrong_answer_is_named(lie, text):
    wrong = why_wrong(RIGHT, answered(logits=lie(RIGHT.outputs["logits"])))
    assert re.match(text, str(wrong))


def test_a_missing_output_is_named():
    assert why_wrong(RIGHT, {}) == "no output logits"


def test_questions_are_cut_into_batches_that_a_model_takes():
    asked = list(parts([query(5)], 2))
    assert [one.batch for one in asked] == [2, 2, 1]
    np.testing.assert_array_equal(
        np.concatenate([one.outputs["logits"] for one in asked]), query(5).outputs["logits"]
    )


def test_an_answer_of_the_whole_batch_is_not_cut():
    whole = Query("all", {"input": np.ones((4, 2), np.float32)}, {"sum": np.float32([8.0])})
    assert list(parts([whole], 2)) == [whole]
