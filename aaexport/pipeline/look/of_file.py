"""Parts of a graph → parts of a page: what is inside an augmented layer is the layer's."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from aaexport.graph.parts import ANCHORS, GraphPart
from aaexport.parts import Part, Written

Operators = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class FileParts:
    """What a file has of each module.

    Attributes:
        paths: in the order of the graph; of what is inside an augmented layer the layer's.
        after: the graph's parts by these paths.
        before: operators before the graph rules, likewise; None where nobody recorded them.
    """

    paths: tuple[str, ...]
    after: Mapping[str, Sequence[GraphPart]]
    before: Operators | None

    @classmethod
    def of(cls, parts: Iterable[GraphPart], before: Operators | None, augmented: Iterable[str]) -> FileParts:
        """`augmented` are the paths of the augmented layers."""
        layers = tuple(augmented)
        after: dict[str, list[GraphPart]] = {}
        for part in parts:
            after.setdefault(_owner(part.path, layers), []).append(part)
        was: dict[str, Counter[str]] | None = None if before is None else {}
        for path, operators in (before or {}).items():
            assert was is not None
            was.setdefault(_owner(path, layers), Counter()).update(operators)
        return cls(tuple(dict.fromkeys((*after, *(was or {})))), after, was)

    def part(self, path: str, *, kind: str = "", written: Written | None = None) -> Part:
        """All that the file tells of it."""
        inner = self.after.get(path, ())
        macs = [part.macs for part in inner]
        own = Part(
            path,
            kind,
            inner[0].reads if inner else None,
            inner[-1].writes if inner else None,
            sum(part.parameters for part in inner),
            None if None in macs or not inner else sum(each for each in macs if each is not None),
            written=written,
        )
        return self.with_operators(own)

    def with_operators(self, part: Part) -> Part:
        """The same with the operators that the file has of it."""
        after: Counter[str] = Counter()
        for inner in self.after.get(part.path, ()):
            after.update(inner.operators)
        before = None if self.before is None else dict(self.before.get(part.path, {}))
        return dataclasses.replace(part, before=before, after=dict(after.most_common()))

    def left(self, known: set[str]) -> list[str]:
        """The paths that are none of the known ones: what modules compute between their layers."""
        return [path for path in self.paths if path not in known]


def _owner(path: str, layers: Sequence[str]) -> str:
    """The augmented layer that the path is in, or the path itself; a layer that is the whole model owns all."""
    return next((layer for layer in layers if path == layer or not layer or path.startswith(f"{layer}.")), path)


def rejoined(parts: Iterable[Part]) -> Iterator[Part]:
    """The parts, where a product that bears the name of the layer behind it is with its own layer again.

    PyTorch's exporter joins a convolution and the normalization behind it, and notes the normalization's module.
    """
    held: Part | None = None
    for part in parts:
        own = part
        if held is not None and held.macs and not held.after and not part.macs:
            held, own = _moved(part, held)
        if held is not None:
            yield held
        held = own
    if held is not None:
        yield held


def _moved(source: Part, to: Part) -> tuple[Part, Part]:
    """(`to`, `source`), with the source's products in `to`, in both forms of the file."""
    changed = {}
    for form in ("before", "after"):
        operators = getattr(source, form)
        products = {name: count for name, count in (operators or {}).items() if name in ANCHORS}
        rest = None if operators is None else {n: c for n, c in operators.items() if n not in products}
        own = getattr(to, form)
        changed[form] = (own if own is None else {**own, **products}), rest
    (before, before_rest), (after, after_rest) = changed["before"], changed["after"]
    return (
        dataclasses.replace(to, before=before, after=after),
        dataclasses.replace(source, before=before_rest, after=after_rest),
    )
