"""Parts of a model → boxes in the order of the network, those of a module together and to be unfolded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from aaexport.parts import Part, Written
from aaexport.report.model.figures import bars, count, from_to, shape, total
from aaexport.report.page.markup import Html, element, join
from aaexport.report.page.page import table
from aaexport.report.page.plot import percent

OPEN = 24  # boxes and names that are seen at first
LEVELS = 12  # of modules: deeper ones are unfolded by hand
STRETCH = 12  # parts without a module that are folded together
DEEPEST = 6  # heading
FIRST = 3  # heading below a card's
ITSELF = "the model itself"
FEW = 4  # outermost modules: those in them are told instead
WORK_KEY = (("products", "MACs of convolutions and products"), ("attention", "with attention in it"))


@dataclass
class _Module:
    """A module with parts in it, or a part."""

    path: str
    part: Part | None = None
    inner: dict[str, _Module] = field(default_factory=dict)

    def parts(self) -> Iterator[Part]:
        if self.part is not None:
            yield self.part
        for module in self.inner.values():
            yield from module.parts()

    def seen(self, depth: int) -> int:
        """Boxes and names that are seen of it where so many levels are unfolded."""
        if not self.inner or depth == 0:
            return 1
        return 1 + (self.part is not None) + sum(module.seen(depth - 1) for module in self.inner.values())


def boxes(parts: Sequence[Part], *, named: bool = True) -> Html:
    """All parts; where they are no modules (`named`), in stretches of `STRETCH`."""
    modules = list(_tree(parts).inner.values()) if named else _stretches(parts)
    scale, depth = _Scale.of(parts), _unfolded(modules)
    return element("ol", *(_drawn(module, FIRST, scale, depth) for module in modules), class_="parts")


def _unfolded(modules: Sequence[_Module]) -> int:
    """How many levels of modules are unfolded at first: as many as leave no more than `OPEN` boxes and names."""
    found = 0
    for depth in range(1, LEVELS):
        if sum(module.seen(depth) for module in modules) > OPEN:
            break
        found = depth
    return found


@dataclass(frozen=True)
class _Scale:
    """The largest figures of any part, which is as long as its box is wide."""

    macs: int
    operators: int

    @classmethod
    def of(cls, parts: Sequence[Part]) -> _Scale:
        macs = max((part.macs or 0 for part in parts), default=0)
        return cls(max(macs, 1), max((max(total(p.before) or 0, total(p.after) or 0) for p in parts), default=0) or 1)


def _tree(parts: Sequence[Part]) -> _Module:
    root = _Module("")
    for part in parts:
        module = root
        names = part.path.split(".") if part.path else [""]
        for depth, name in enumerate(names, start=1):
            module = module.inner.setdefault(name, _Module(".".join(names[:depth])))
        module.part = part
    return root


def _stretches(parts: Sequence[Part]) -> list[_Module]:
    """Of a file that names no modules."""
    if len(parts) <= OPEN:
        return [_Module(part.path, part) for part in parts]
    found = []
    for begin in range(0, len(parts), STRETCH):
        own = parts[begin : begin + STRETCH]
        found.append(_Module(f"{own[0].path} to {own[-1].path}", None, {p.path: _Module(p.path, p) for p in own}))
    return found


def _drawn(module: _Module, level: int, scale: _Scale, depth: int) -> Html:
    """A box, or what unfolds to several; a module with one module in it is that one."""
    while module.part is None and len(module.inner) == 1:
        (module,) = module.inner.values()
    if not module.inner:
        assert module.part is not None
        return _box(module.part, level, scale)
    inner = [_drawn(each, min(level + 1, DEEPEST), scale, depth - 1) for each in module.inner.values()]
    if module.part is not None:
        inner.append(_box(module.part, min(level + 1, DEEPEST), scale, called=f"{module.path} itself"))
    heading = element(f"h{level}", module.path)
    summary = element("summary", heading, element("span", _sum(list(module.parts())), class_="dim"))
    folded = element("details", summary, element("ol", *inner, class_="parts"), open="" if depth > 0 else None)
    return element("li", folded, class_="module")


def _sum(parts: Sequence[Part]) -> str:
    """What a module is, while it is folded."""
    known = [part.macs for part in parts if part.macs is not None]
    said = [f"{len(parts)} parts", f"{count(sum(part.parameters for part in parts))} parameters"]
    said.append(f"{count(sum(known))} MACs")
    if all(part.after is not None for part in parts):
        before = None if any(p.before is None for p in parts) else sum(total(p.before) or 0 for p in parts)
        after = sum(total(p.after) or 0 for p in parts)
        said.append(f"{from_to(before, after)} operator{'' if after == 1 else 's'}")
    attention = sum(part.written is not None for part in parts)
    return ", ".join([*said, *([f"{attention} with attention"] if attention else [])])


def _box(part: Part, level: int, scale: _Scale, called: str = "") -> Html:
    heading = element(
        f"h{level}", called or part.path or ITSELF, element("span", part.kind, class_="kind") if part.kind else None
    )
    is_small = not part.macs and part.written is None and not part.applied and not part.left
    kind = "part attends" if part.written is not None else "part small" if is_small else "part"
    name = element("div", heading, _sizes(part), _operators(part), class_="name")
    return element("li", name, _figures(part, scale), _attention(part.written), _rules(part), class_=kind)


def _sizes(part: Part) -> Html | None:
    if part.reads is None and part.writes is None:
        return None
    return element("p", f"{shape(part.reads)} → {shape(part.writes)}", class_="sizes")


def _figures(part: Part, scale: _Scale) -> Html:
    """Each number with its bar, in a column of its own; what there is none of leaves its place empty."""
    is_gone = part.after is not None and not part.after and part.macs is None
    parameters = _figure("parameters", count(part.parameters)) if part.parameters else None
    macs = operators = None
    if part.macs or (part.macs is None and not is_gone):
        share = bars([((part.macs or 0) / scale.macs, "products")]) if part.macs else None
        macs = _figure("MACs", count(part.macs), share)
    if part.after is not None:
        now, was = total(part.after) or 0, total(part.before)
        pair = [(now / scale.operators, "moves")]
        if was is not None and was != now:
            pair.insert(0, (was / scale.operators, "was"))
        operators = _figure("operators", from_to(was, now), bars(pair))
    entries = (("of-parameters", parameters), ("of-macs", macs), ("of-operators", operators))
    return element("dl", *(element("div", each, class_=kind) for kind, each in entries if each), class_="figures")


def _figure(name: str, value: str, bar: Html | None = None) -> Html:
    return join([element("dt", name), element("dd", value, bar)])


def _attention(written: Written | None) -> Html | None:
    """How its attention is written out, and how many of its channels are attention's."""
    if written is None:
        return None
    why = [Html(": "), written.why] if written.why else []
    said = [element("p", Html("written out as "), element("strong", written.choice), *why)]
    if written.sizes is not None:
        said.insert(0, element("p", f"attention on a map of {written.sizes}"))
    if written.channels is not None:
        said.append(_channels(*written.channels))
    return element("div", *said, class_="how")


def _channels(convolution: int, attention: int) -> Html:
    """Which share of what comes out is attention's."""
    share = convolution / (convolution + attention)
    drawn = [
        element("rect", x="0", y=0, width=percent(share), height=8, class_="products"),
        element("rect", x=percent(share), y=0, width=percent(1 - share), height=8, class_="attention"),
    ]
    bar = element("svg", *drawn, width="100%", height=8, class_="bar", aria_hidden="true")
    words = f"{convolution} channels of the convolution, {attention} of attention"
    return element("div", bar, element("p", words, class_="dim"), class_="channels")


def _rules(part: Part) -> Html | None:
    """What the graph rules did there, and what they left."""
    did = [element("li", f"{times} × {title}", class_="did") for title, times in part.applied.items()]
    left = [element("li", f"left: {reason}", class_="left") for reason in part.left]
    return element("ul", *did, *left, class_="rules") if did or left else None


def _operators(part: Part) -> Html | None:
    if part.after is None:
        return None
    if not part.after:
        return element("p", "nothing of it is left: other parts do its work", class_="operators")
    return element("p", listed(part.after), class_="operators")


def listed(operators: Mapping[str, int]) -> str:
    """The most frequent first."""
    return ", ".join(f"{number} {name}" for name, number in Counter(operators).most_common())


def work(parts: Sequence[Part]) -> Html | None:
    """How much of all multiplications each of the outermost modules does; None where nobody knows any."""
    known = [part for part in parts if part.macs]
    if not known:
        return None
    shares: dict[str, list[int]] = {}
    for part in known:
        share = shares.setdefault(_outermost(part.path, known), [0, 0, 0])
        share[0] += part.macs or 0
        share[1] += part.parameters
        share[2] += part.written is not None
    most = max(macs for macs, *_ in shares.values())
    rows = []
    for name, (macs, parameters, attends) in shares.items():
        bar = bars([(macs / most, "attention" if attends else "products")])
        rows.append((name or ITSELF, count(parameters), count(macs), bar))
    kinds = WORK_KEY if any(attends for *_, attends in shares.values()) else WORK_KEY[:1]
    key = [element("span", element("b", "■", class_=kind), words) for kind, words in kinds]
    values = table("Parameters and MACs by module", ("module", "parameters", "MACs", ""), rows, words=("module",))
    return join([values, element("p", *key, class_="note key")])


def _outermost(path: str, parts: Sequence[Part]) -> str:
    """So much of the path that a few modules differ."""
    depth = 1 if len({part.path.split(".")[0] for part in parts}) > FEW else 2
    return ".".join(path.split(".")[:depth])
