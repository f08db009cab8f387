"""A model as a page: what is known is told, what is not is said to be unknown, and nothing of anybody is markup."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from page_text import heading_levels, parsed, text_of

from aaexport.graph.files import GraphSummary
from aaexport.nn.choice import AttentionSizes
from aaexport.parts import Part, Written
from aaexport.report.attention_picture import Attended
from aaexport.report.model.figures import coded
from aaexport.report.model.model_page import model_html
from aaexport.report.model.portrait import Measured, Portrait, Verification
from aaexport.results import InspectResult, LayerAttention, Prediction

HOSTILE = '<script>&\x1b[31m"é×'
GRAPH = GraphSummary(
    Path("m/model.onnx"),
    2_000_000,
    20,
    "aaexport 0.2.0",
    {"Conv": 2, "Relu": 1},
    500,
    4000,
    (),
    (),
    {"aaexport.rules": "{}"},
)
WRITTEN = Written("table", "the recipe asks for it", AttentionSizes(4, 5, 20, 2, 2), (24, 8))
PARTS = (
    Part(
        "features.0",
        "AugmentedConv2d",
        (1, 3, 8, 10),
        (1, 32, 4, 5),
        400,
        3000,
        {"Conv": 3},
        {"Conv": 1},
        written=WRITTEN,
    ),
    Part("features.1", "BatchNorm2d", (1, 32, 4, 5), (1, 32, 4, 5), 64, 0, {"BatchNormalization": 1}, {}),
    Part("classifier", "Linear", (1, 32), (1, 10), 330, 320, {"Gemm": 1}, {"Gemm": 1}),
)
WEIGHTS = np.full((2, 2, 4, 5), 0.04, np.float32)
WEIGHTS[0, 1, 3, 4] = 0.24
SEEN = Attended(
    "sample:7",
    np.arange(80, dtype=np.uint8).reshape(8, 10, 1),
    (LayerAttention("features.0", (0, 1), ((2, 3), (6, 9)), ((1, 1), (3, 4)), WEIGHTS),),
    Prediction(7, "seven", 0.98),
)
PARITY = Verification(
    "float32", True, "largest error 2.0e-06 against float64", "2026-11-30", True, (("onnxruntime", 2e-6, True),)
)
BENCH = Measured(
    "float32", False, ("too few cores",), "onnxruntime CPU", "single-stream", "a CPU", 1.25, None, 800.0,
    (("PyTorch eager", 3.0, 2.4), ("another", None, None)), "2026-11-30", True,
)  # fmt: skip
FILE = InspectResult(Path("m"), None, None, has_weights=True, graph=GRAPH)
FULL = Portrait(FILE, PARTS, True, {"Relu through Concat": 2}, False, SEEN, "", (PARITY,), (BENCH,))


def test_each_layer_is_a_box_with_what_is_known_of_it():
    boxes = [
        " ".join(" ".join(box.itertext()).split())
        for box in parsed(model_html(FULL)).iter("li")
        if "part" in box.get("class", "").split()
    ]
    assert [box.split()[0] for box in boxes] == ["features.0", "features.1", "classifier"]
    assert "3×8×10 → 32×4×5" in boxes[0] and "parameters 400" in boxes[0] and "operators 3 → 1" in boxes[0]
    assert "written out as table : the recipe asks for it" in boxes[0]
    assert "attention on a map of 4×5, 2 heads, dkh 20, dvh 2" in boxes[0]
    assert "24 channels of the convolution, 8 of attention" in boxes[0]
    assert "nothing of it is left" in boxes[1] and "operators 1 → 0" in boxes[1]


def test_records_are_told_with_their_verdicts():
    text = text_of(model_html(FULL))
    assert "✓ answers as PyTorch does largest error 2.0e-06" in text
    assert "INVALID: not to be quoted" in text and "too few cores" in text and "another withheld withheld" in text
    assert "operators 3 5 before the graph rules" in text
    stale = dataclasses.replace(FULL, verified=(dataclasses.replace(PARITY, same_file=False),))
    assert "! the last verification is of another file than the one that is there now" in text_of(model_html(stale))
    failed = dataclasses.replace(FULL, verified=(dataclasses.replace(PARITY, passed=False),))
    assert "✕ does not answer as PyTorch does" in text_of(model_html(failed))


def test_maps_are_told_in_words_too():
    page = parsed(model_html(FULL))
    said = [drawn.get("aria-label") for drawn in page.findall(".//svg[@class='map']")]
    assert said[0] == "sample:7, the framed place is query 2,3"
    assert said[2] == "query 2,3, head 1: 4.8 × uniform at most, at 3,4 of the map"
    assert len(said) == 6
    assert "It takes the image for seven (98.0%)." in text_of(model_html(FULL))
    assert all(drawn.get("aria-hidden") == "true" or drawn.get("aria-label") for drawn in page.iter("svg"))


def test_headings_go_down_step_by_step():
    levels = heading_levels(model_html(FULL))
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(below - above <= 1 for above, below in itertools.pairwise(levels))


def test_what_is_not_there_is_said():
    empty = Portrait(
        InspectResult(Path("m"), None, None, False, None), (), True, None, why_not="run `aaexport train m`"
    )
    text = text_of(model_html(empty))
    assert "! not converted yet: aaexport convert makes an ONNX file" in text
    assert "Not drawn: run aaexport train m" in text
    foreign = dataclasses.replace(FULL, rules=None, named=False, attended=None, verified=(), measured=())
    assert "No graph rule has seen this file: aaexport optimize FILE OUT --page" in text_of(model_html(foreign))
    old = dataclasses.replace(FULL, parts=tuple(dataclasses.replace(part, before=None) for part in PARTS))
    assert "What it was before the rules is not recorded in this file" in text_of(model_html(old))
    assert "operators 3 in the file" in text_of(model_html(old))


@pytest.mark.parametrize("where", ["path", "kind", "choice", "image", "label", "note", "rule"])
def test_names_of_anybody_are_text(where):
    hostile = {
        "path": {"parts": (dataclasses.replace(PARTS[0], path=f"a.{HOSTILE}"),)},
        "kind": {"parts": (dataclasses.replace(PARTS[0], kind=HOSTILE),)},
        "choice": {"parts": (dataclasses.replace(PARTS[0], written=Written(HOSTILE, HOSTILE)),)},
        "image": {"attended": dataclasses.replace(SEEN, image=HOSTILE)},
        "label": {"attended": dataclasses.replace(SEEN, predicted=Prediction(0, HOSTILE, 0.5))},
        "note": {"notes": (HOSTILE,), "why_not": HOSTILE},
        "rule": {"rules": {HOSTILE: 1}},
    }
    page = model_html(dataclasses.replace(FULL, **hostile[where]))
    assert "<script" not in page and "\x1b" not in page
    assert parsed(page) is not None


def test_what_is_to_be_typed_is_code():
    assert coded("run `a <b>` now") == "<span>run</span> <code>a &lt;b&gt;</code> <span>now</span>"
    assert coded("nothing") == "<span>nothing</span>"
