"""Portrait → one page: what the model is, layer by layer, where its heads attend, and what is known of its files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from aaexport.report.bench.wording import milliseconds, number
from aaexport.report.model.attention import attention_maps
from aaexport.report.model.figures import coded, count, sheet
from aaexport.report.model.operators import before_and_after, operators_table
from aaexport.report.model.parts import boxes, work
from aaexport.report.model.portrait import Measured, Portrait, Verification
from aaexport.report.page.markup import Html, element, join
from aaexport.report.page.page import card, facts, folded, notes, page, table
from aaexport.report.parity.wording import scientific
from aaexport.report.terminal import inspect_rows

GLOSSARY = {
    "parameters": "numbers that were learned",
    "MACs": "multiplications with an addition, of convolutions and matrix products, for one image",
    "attention": "each place of a map takes something from every other one, and has learned from where",
    "head": "one such way to look, of several that a layer has",
    "decomposition": "how the relative terms of attention are written as operators; all compute the same",
    "graph rule": "a rewriting of the exported graph that leaves its function as it is",
    "parity": "whether the file answers as the PyTorch model does; errors are told against arithmetic in 64 bits",
    "p50, p99": "half of the queries, and 99 of 100, were answered within this time",
    "× uniform": "how many times more than if all places counted alike",
}
OTHER_FILE = "of another file than the one that is there now"


def model_html(portrait: Portrait) -> str:
    """The page as text, to be written in UTF-8."""
    name = portrait.inspected.name
    return page(
        name,
        _heading(portrait),
        _verdict(portrait),
        _tiles(portrait),
        _attention(portrait),
        _work(portrait),
        _layers(portrait),
        _operators(portrait),
        _verified(portrait),
        _measured(portrait),
        _facts(portrait),
        element("footer", folded("What the words mean", facts(GLOSSARY))),
        sheet=sheet(),
    )


def _heading(portrait: Portrait) -> Html:
    inspected = portrait.inspected
    said = None
    if inspected.recipe is not None:
        said = inspected.recipe.description
    elif inspected.module is not None:
        said = f"made of {inspected.module.source}"
    elif inspected.graph is not None:
        said = f"An ONNX file of {inspected.graph.producer or 'an unnamed producer'}"
    return element(
        "header",
        element("p", f"Model, {inspected.date}", class_="kicker"),
        element("h1", inspected.name),
        element("p", said) if said else None,
    )


def _verdict(portrait: Portrait) -> Html:
    """What is known of the file that is there now."""
    kind, said, more = "mind", "! nobody has verified this file", []
    own = next((each for each in portrait.verified if each.dtype == "float32"), None)
    if portrait.inspected.graph is None:
        said = "! not converted yet: `aaexport convert` makes an ONNX file of it, and verifies it"
    elif own is not None and not own.same_file:
        said = f"! the last verification is {OTHER_FILE}"
    elif own is not None:
        kind = "good" if own.passed else "bad"
        said = "✓ answers as PyTorch does" if own.passed else "✕ does not answer as PyTorch does"
        more = [line for line in (own.figure, own.accuracy) if line]
    lines = [element("li", line) for line in (*more, *portrait.notes)]
    return element(
        "div", element("strong", coded(said)), element("ul", *lines) if lines else None, class_=f"verdict {kind}"
    )


def _tiles(portrait: Portrait) -> Html:
    tiles = [element("div", *_tile(*entry)) for entry in _highlights(portrait)]
    return element("dl", *tiles, class_="tiles")


def _tile(name: str, value: str, behind: str) -> Iterator[Html]:
    yield element("dt", name)
    yield element("dd", value)
    yield element("dd", behind, class_="dim")


def _highlights(portrait: Portrait) -> Iterator[tuple[str, str, str]]:
    inspected = portrait.inspected
    cost, graph = inspected.cost, inspected.graph
    if cost is not None:
        yield "parameters", count(cost.parameters), "learned numbers"
        share = cost.attention_macs / cost.macs if cost.macs else 0.0
        yield "MACs an image", count(cost.macs), f"{share:.0%} in attention's products"
    elif graph is not None:
        yield "parameters", count(graph.parameters), "floating-point numbers in the file"
        yield "MACs an image", count(graph.macs) if graph.macs is not None else "–", "of convolutions and products"
    augmented = sum(part.written is not None for part in portrait.parts)
    if inspected.recipe is not None:
        yield (
            "layers",
            f"{sum(bool(part.kind) for part in portrait.parts):,}",
            f"{augmented} with attention" if augmented else "none with attention",
        )
    elif portrait.parts:
        yield "parts", f"{len(portrait.parts):,}", "modules" if portrait.named else "from product to product"
    if graph is not None:
        before, after = _operators_of(portrait)
        was = "in the file" if before is None else f"{sum(before.values()):,} before the graph rules"
        yield "operators", f"{sum(after.values()):,}", was
        yield "file", f"{graph.bytes / 1e6:,.2f} MB", f"opset {graph.opset}"


def _operators_of(portrait: Portrait) -> tuple[dict[str, int] | None, Mapping[str, int]]:
    """Of the whole file, before the rules where that was recorded, and as it is."""
    assert portrait.inspected.graph is not None
    if not portrait.parts or any(part.before is None for part in portrait.parts):
        return None, portrait.inspected.graph.operators
    before: Counter[str] = Counter()
    for part in portrait.parts:
        before.update(part.before or {})
    return dict(before), portrait.inspected.graph.operators


def _attention(portrait: Portrait) -> Html | None:
    """Where it looks, or why that is not drawn."""
    seen = portrait.attended
    if seen is None:
        if not portrait.why_not:
            return None
        return card("Where it looks", element("p", coded(f"Not drawn: {portrait.why_not}.")))
    said = [f"{seen.image}: how much the framed place takes from every other one; below each map its largest weight."]
    if seen.predicted is not None:
        said.append(f"It takes the image for {seen.predicted.name} ({seen.predicted.probability:.1%}).")
    said.append("Places are row,column from 0, as --query takes them.")
    return card("Where it looks", element("p", " ".join(said)), attention_maps(seen), notes(seen.notes))


def _work(portrait: Portrait) -> Html | None:
    drawn = work(portrait.parts)
    return None if drawn is None else card("Where the work is", drawn)


def _layers(portrait: Portrait) -> Html | None:
    if not portrait.parts:
        return None
    how = "Layer by layer" if portrait.named else "The file names no modules: from product to product"
    said = [f"{how}, sizes for one image. Bars have one scale."]
    if portrait.forecast:
        said.append("There is no file yet: attention is said to be written out as convert would by default.")
    return card("Layers", notes([" ".join(said)]), boxes(portrait.parts, named=portrait.named))


def _operators(portrait: Portrait) -> Html | None:
    if portrait.inspected.graph is None:
        return None
    before, after = _operators_of(portrait)
    drawn, values = before_and_after(before, after), operators_table(before, after)
    rules, told = portrait.rules, []
    if rules:
        rows = [(title, f"{times:,}") for title, times in rules.items()]
        applied = table("Graph rules that were applied", ("graph rule", "times"), rows, words=("graph rule",))
        told = [element("h3", "What the graph rules did"), applied]
    why = None
    if rules is None:
        why = "No graph rule has seen this file: `aaexport optimize FILE OUT --page` tells what they would do."
    elif before is None:
        why = "What it was before the rules is not recorded in this file: convert it anew to see that."
    return card(
        "Operators of the file",
        drawn,
        folded("Operator by operator", values),
        *told,
        element("p", coded(why), class_="note") if why else None,
    )


def _verified(portrait: Portrait) -> Html | None:
    if not portrait.verified:
        return None
    return card("Is it right?", *(_verification(each) for each in portrait.verified))


def _verification(found: Verification) -> Html:
    verdict = f"{'PASS' if found.passed else 'FAIL'}{'' if found.same_file else f', {OTHER_FILE}'}"
    rows: dict[str, str] = {"verdict": verdict}
    if not found.passed or not found.same_file:
        rows["verdict"] = element("span", verdict, class_="wrong")
    rows |= {name: value for name, value in (("rests on", found.figure), ("accuracy", found.accuracy)) if value}
    rows |= {} if found.date is None else {"verified": found.date}
    steps = [(name, scientific(error), "PASS" if passed else "FAIL") for name, error, passed in found.steps]
    headings = ("computed by", "largest error", "verdict")
    each = table(f"Parity of the {found.dtype} file, step by step", headings, steps, words=headings[:1], wrong="FAIL")
    return join([element("h3", found.dtype), facts(rows), each if steps else None])


def _measured(portrait: Portrait) -> Html | None:
    if not portrait.measured:
        return None
    return card("How fast was it?", *(_measurement(each) for each in portrait.measured))


def _measurement(found: Measured) -> Html:
    verdict = "valid" if found.valid else "INVALID: not to be quoted"
    verdict += "" if found.same_file else f", {OTHER_FILE}"
    rows: dict[str, str] = {
        "verdict": verdict if found.valid and found.same_file else element("span", verdict, class_="wrong"),
        "p50": milliseconds(found.p50),
        "p99": milliseconds(found.p99),
        "throughput": f"{number(found.rate)} images/s",
        "measured": f"{found.label}, {found.load}; {found.machine}" + (f"; {found.date}" if found.date else ""),
    }
    others = [
        (name, number(p50), "withheld" if ratio is None else f"{ratio:.2f} ×") for name, p50, ratio in found.others
    ]
    headings = ("beside it", "p50, ms", "÷ ours")
    beside = table("Measured in the same run", headings, others, words=headings[:1]) if others else None
    return join([element("h3", found.dtype), facts(rows), beside, notes(found.reasons)])


def _facts(portrait: Portrait) -> Html:
    """What the terminal tells, for those who came from there."""
    rows = {name: str(value) for name, value in inspect_rows(portrait.inspected).items()}
    return card("As the terminal tells it", folded("All of it", facts(rows)))
