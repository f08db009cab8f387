"""A rewritten file as a page: well-formed, escaped, and with every figure that the terminal tells."""

import dataclasses
import itertools
from pathlib import Path

import pytest
from page_text import heading_levels, parsed, text_of
from pages import axe_violations, shown

from aaexport.graph.optimize import RuleReport
from aaexport.parts import Part
from aaexport.report.layout import as_text
from aaexport.report.model.figures import count, from_to, shape
from aaexport.report.model.optimize_page import optimize_html
from aaexport.report.optimize import optimize_view
from aaexport.results import OptimizeResult
from aaexport.runners.browser import find_browser

HOSTILE = '<script>&\x1b[31m"é×'
REASON = "its scale is not a constant"
RESULT = OptimizeResult(
    Path("fast.onnx"),
    "cpu",
    {"Conv": 2, "Reshape": 7, "Relu": 3},
    {"Conv": 2, "Reshape": 1, "Relu": 3},
    (
        RuleReport("Einsum as MatMul", 3, {}, {}, {"stages.0.1": 2}),
        RuleReport("Relu through Concat", 0, {REASON: 2}, {"stages.0.0": REASON}),
        RuleReport("batch normalization through Resize", 0, {}),
    ),
    None,
    source=Path("plain.onnx"),
    parts=(
        Part(
            "stages.0.0",
            "",
            (1, 3, 8, 8),
            (1, 4, 8, 8),
            112,
            6912,
            {"Conv": 1},
            {"Conv": 1},
            {},
            (f"Relu: {REASON}",),
        ),
        Part("stages.0.1", before={"Reshape": 7}, after={}, applied={"Einsum as MatMul": 2}),
        Part("", before={"Conv": 1, "Relu": 3}, after={"Conv": 1, "Relu": 3, "Reshape": 1}),
    ),
)


def test_it_tells_what_the_terminal_tells():
    text, terminal = text_of(optimize_html(RESULT)), as_text(optimize_view(RESULT))
    assert "12 operators → 6" in text and "plain.onnx → fast.onnx" in text
    assert "not compared (--no-verify)" in text
    assert REASON in terminal and f"2 × Relu through Concat: {REASON}. In stages.0.0." in text
    assert "stages.0.1 (2 ×); 1 × elsewhere" in text
    assert "nothing of the kind found: batch normalization through Resize." in text
    assert "nothing of it is left" in text


def test_what_is_drawn_is_said():
    page = parsed(optimize_html(RESULT))
    (stacks,) = page.findall(".//svg[@class='stacks']")
    assert stacks.get("aria-label").startswith("before 12: 2 multiply matrices, 3 compute otherwise, 7 only move")
    assert all(drawn.get("aria-hidden") == "true" or drawn.get("aria-label") for drawn in page.iter("svg"))
    assert [row.findtext("th") for row in page.findall(".//table")[0].findall("tbody/tr")] == [
        "Reshape",
        "Relu",
        "Conv",
    ]
    levels = heading_levels(optimize_html(RESULT))
    assert levels[0] == 1 and all(below - above <= 1 for above, below in itertools.pairwise(levels))


def test_names_of_anybody_are_text():
    part = Part(f"a.{HOSTILE}", HOSTILE, applied={HOSTILE: 1}, left=(HOSTILE,), after={HOSTILE: 1})
    rules = (RuleReport("Einsum as MatMul", 1, {HOSTILE: 1}, {HOSTILE: HOSTILE}, {HOSTILE: 1}),)
    hostile = dataclasses.replace(
        RESULT, path=Path(HOSTILE), rules=rules, parts=(part,), after={HOSTILE: 1}, notes=(HOSTILE,), command=HOSTILE
    )
    page = optimize_html(hostile)
    assert "<script" not in page and "\x1b" not in page
    assert parsed(page) is not None


def test_nothing_to_do_and_nothing_there():
    nothing = OptimizeResult(Path("a.onnx"), "cpu", {}, {}, (), None)
    assert "No rule found anything to rewrite." in text_of(optimize_html(nothing))
    assert "0 operators → 0" in text_of(optimize_html(nothing))


@pytest.mark.parametrize("named", [True, False])
def test_many_parts_are_folded(named):
    before = {"Conv": 1} if named else None
    many = tuple(
        Part(f"stage{n % 5}.{n}" if named else f"Conv_{n}", before=before, after={"Conv": 1}) for n in range(60)
    )
    page = parsed(optimize_html(dataclasses.replace(RESULT, parts=many)))
    folded = page.findall(".//li[@class='module']/details")
    assert len(folded) == 5
    assert all(each.get("open") is None for each in folded)
    assert len(page.findall(".//li[@class='part small']")) == 60


def test_figures():
    assert [count(value) for value in (None, 0, 9999, 12_345, 1_234_567, 4_100_000_000)] == [
        "not known", "0", "9,999", "12.3 k", "1.23 M", "4.1 G",
    ]  # fmt: skip
    assert count(999_700) == "1,000 k"
    assert [shape(sizes) for sizes in (None, (), (1, 3, 8, 8), (2, 4), (1,))] == [
        "?",
        "a number",
        "3×8×8",
        "2×4",
        "1",
    ]
    assert [from_to(*pair) for pair in ((5, 2), (None, 2), (2, 2), (2, None))] == ["5 → 2", "2", "2", "not known"]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_has_nothing_to_complain_of_and_nothing_is_wider_than_the_screen(scheme, width):
    if find_browser() is None:
        pytest.skip("no chromium or chrome is on the PATH: no page is looked at")
    long = Part("a_module_" * 20, "", None, None, 1, 10**13, {"Conv": 10**6}, {"Conv": 10**5}, {"a rule " * 30: 7})
    with shown(optimize_html(dataclasses.replace(RESULT, parts=(*RESULT.parts, long))), width, scheme) as browser:
        browser.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert browser.evaluate("document.documentElement.scrollWidth") == width
        assert axe_violations(browser) == []
