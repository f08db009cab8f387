"""Why a layer is written out as it is: by recipe, measurement, opset or cost model, or said not to be known."""

import pytest

from aaexport.nn.choice import AttentionSizes, Choice
from aaexport.pipeline.export.reasons import ALIKE, Circumstances, why_written

SIZES = AttentionSizes(8, 8, 20, 4, 4)
WIDE = AttentionSizes(64, 64, 20, 4, 4)
AUTO = Circumstances("auto", 20, "dynamic", "cpu", {})


@pytest.mark.parametrize(
    ("choice", "sizes", "known", "said"),
    [
        (
            Choice("fold"),
            SIZES,
            AUTO,
            "the cheapest by the cost model, in multiplications a logit beside q·k: fold 16,",
        ),
        (Choice("fold"), AttentionSizes(8, 8, 20, 4, 4, relative=False), AUTO, ALIKE),
        (Choice("skew"), SIZES, Circumstances("skew", 20, 1, "cpu", {}), "the recipe asks for it"),
        (Choice("fold"), SIZES, Circumstances("skew", 20, 1, "cpu", {}), "asked for in place of the recipe's skew"),
        (Choice("fused"), SIZES, Circumstances("auto", 23, 1, "cpu", {}), "opset 23 has the operator Attention"),
        (Choice("shift"), SIZES, Circumstances("auto", 20, 1, "cpu", {SIZES: Choice("shift")}), "the fastest when"),
        (Choice("skew"), SIZES, AUTO, "not what auto would take now"),
        (Choice("fold"), SIZES, Circumstances("auto", 20, 1, "cuda", {}), "by the cost model for CUDA"),
    ],
)
def test_each_reason(choice, sizes, known, said):
    assert why_written(choice, sizes, known).startswith(said)


def test_blocks_are_told_too():
    assert why_written(Choice("table", 8), WIDE, AUTO).endswith(
        "in 8 blocks of queries, so that fewer logits are alive"
    )
