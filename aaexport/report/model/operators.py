"""Operators before and after the graph rules → one picture of what is left, and a table with every figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from aaexport.report.model.figures import bars
from aaexport.report.page.markup import Html, element, join
from aaexport.report.page.page import figure, table
from aaexport.report.page.plot import label, percent

PRODUCTS = frozenset(
    {"Attention", "Conv", "ConvInteger", "ConvTranspose", "Einsum", "GRU", "Gemm", "LSTM", "MatMul", "MatMulInteger",
     "QLinearConv", "QLinearMatMul", "RNN"}
)  # fmt: skip
MOVES = frozenset(
    {"Cast", "Concat", "Constant", "ConstantOfShape", "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements",
     "GatherND", "Identity", "Pad", "Range", "Reshape", "ScatterElements", "ScatterND", "Shape", "Size", "Slice",
     "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where"}
)  # fmt: skip
KINDS = (
    ("products", "multiply matrices"),
    ("others", "compute otherwise"),
    ("moves", "only move numbers, or count sizes"),
)
ROW, TEXT = 34, 20  # pixels: a bar, and the words above it


def kind_of(operator: str) -> str:
    """One of `KINDS`."""
    return "products" if operator in PRODUCTS else "moves" if operator in MOVES else "others"


def by_kind(operators: Mapping[str, int]) -> Counter[str]:
    """How many of each of `KINDS`."""
    counted: Counter[str] = Counter()
    for operator, count in operators.items():
        counted[kind_of(operator)] += count
    return counted


def before_and_after(before: Mapping[str, int] | None, after: Mapping[str, int]) -> Html:
    """Each file as one bar of its operators, by what they do; the longer one is as wide as the page."""
    rows = [("as it is", after)] if before is None else [("before", before), ("after", after)]
    longest = max(1, *(sum(operators.values()) for _, operators in rows))
    drawn, told = [], []
    for place, (name, operators) in enumerate(rows):
        kinds, number = by_kind(operators), sum(operators.values())
        drawn.append(_row(f"{number:,} operators {name}", kinds, longest, place * (ROW + TEXT)))
        told.append(f"{name} {number:,}: " + ", ".join(f"{kinds[kind]:,} {words}" for kind, words in KINDS))
    height = len(rows) * (ROW + TEXT) + 4
    picture = element(
        "svg", *drawn, role="img", aria_label="; ".join(told), class_="stacks", width="100%", height=height
    )
    key = [element("span", element("b", "■", class_=kind), words) for kind, words in KINDS]
    return figure(picture, "Operators that", Html(" "), *(Html(f"{each} ") for each in key))


def operators_table(before: Mapping[str, int] | None, after: Mapping[str, int]) -> Html:
    """Every operator, the most frequent first, with its bars."""
    names = sorted(
        {*after, *(before or {})}, key=lambda name: (-max((before or {}).get(name, 0), after.get(name, 0)), name)
    )
    longest = max((max((before or {}).get(name, 0), after.get(name, 0)) for name in names), default=1)
    if before is None:
        rows = [(name, f"{after[name]:,}", bars([(after[name] / longest, kind_of(name))])) for name in names]
        return table("Operators of the file", ("operator", "count", ""), rows)
    compared = []
    for name in names:
        was, now = before.get(name, 0), after.get(name, 0)
        pair = bars([(was / longest, "was"), (now / longest, kind_of(name))])
        compared.append((name, f"{was:,}", f"{now:,}", pair))
    return table("Operators before and after the graph rules", ("operator", "before", "after", ""), compared)


def _row(said: str, kinds: Counter[str], longest: int, top: int) -> Html:
    parts, begin = [element("text", said, x="0", y=top + TEXT - 6, class_="mark")], 0
    for kind, _ in KINDS:
        if kinds[kind]:
            width = kinds[kind] / longest
            place = {"x": percent(begin / longest), "width": percent(width)}
            parts.append(element("rect", y=top + TEXT, height=ROW - 8, class_=kind, **place))
            if width > 0.05:
                parts.append(label_inside(f"{kinds[kind]:,}", (begin + kinds[kind] / 2) / longest, top + TEXT + 18))
            begin += kinds[kind]
    return join(parts)


def label_inside(text: str, x: float, y: int) -> Html:
    """A number on its bar."""
    return label(text, x, 0, dy=y, anchor="middle", kind="inside")
