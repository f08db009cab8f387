"""What a pass to another precision hands back: the new model, which nodes compute otherwise, which do not and why.

Nodes are told by the path of the PyTorch module that they came from and by their own names; both name them in `keep`.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from aaexport.errors import ArgumentError, broken_rule, first_few
from aaexport.graph.files import OnnxModel
from aaexport.graph.metadata import MODULE_PATH, module_path

NEAR = 3  # names that an unknown one may have been meant for
LISTED = 6
BY_REQUEST = "it was asked to stay in float32"


@dataclass(frozen=True)
class Layer:
    """A node of the outermost graph.

    Attributes:
        path: of the innermost PyTorch module that it, or else what it reads, came from; "" for the whole, or where
            the file does not tell.
        node: its own name, or that of its first output if it has none.
        operator: its type.
    """

    path: str
    node: str
    operator: str

    def is_named(self, name: str) -> bool:
        """Whether `name` is this node's, its module's, or that of a module around it."""
        return name in (self.node, self.path) or self.path.startswith(f"{name}.")

    def __str__(self) -> str:
        return f"{self.operator} {self.node}" + (f" of {self.path}" if self.path else "")


@dataclass(frozen=True)
class Kept:
    """A node that stays in float32, and why."""

    layer: Layer
    reason: str


@dataclass(frozen=True)
class Reduced:
    """A model in another precision, which is valid and of ai.onnx alone if the one it was made of is.

    Attributes:
        model: the new one; it says what it is (`kinds.read_origin`), and its digests are renewed.
        reduced: the nodes that compute in fewer bits now, in their order.
        kept: those that could have, and do not.
    """

    model: OnnxModel
    reduced: tuple[Layer, ...]
    kept: tuple[Kept, ...]


def layers_of(graph: ir.Graph) -> dict[ir.Node, Layer]:
    """The nodes of the graph, without those in its subgraphs."""
    found: dict[ir.Node, Layer] = {}
    for node in graph:
        path = module_path(node.metadata_props.get(MODULE_PATH, ""))
        if path is None:
            sources = (value.producer() for value in node.inputs if value is not None)
            path = next((found[source].path for source in sources if source in found and found[source].path), "")
        name = node.name or next((value.name for value in node.outputs if value.name), "")
        found[node] = Layer(path, name or "", node.op_type)
    return found


def asked_to_stay(keep: Collection[str], layers: Iterable[Layer], wanted: str) -> set[Layer]:
    """Those of `layers`, all that a pass to `wanted` would reduce, that `keep` names.

    Raises:
        ArgumentError: a name that is none of theirs.
    """
    known = tuple(layers)
    chosen: set[Layer] = set()
    for name in keep:
        named = {layer for layer in known if layer.is_named(name)}
        if not named:
            rule = f"name a module or a node that {wanted} reduces"
            raise ArgumentError(broken_rule("keep", rule, name, _near(name, known)))
        chosen |= named
    return chosen


def rows(kept: Sequence[Kept]) -> list[tuple[str, str, str, str]]:
    """As the metadata have them."""
    return [(each.layer.path, each.layer.node, each.layer.operator, each.reason) for each in kept]


def _near(name: str, layers: Sequence[Layer]) -> str:
    """The names that `name` is most like, else a few of those there are; modules before nodes."""
    paths = {path for layer in layers for path in _around(layer.path)}
    nodes = {layer.node for layer in layers}
    close = difflib.get_close_matches(name, sorted(paths | nodes), n=NEAR)
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    listed = sorted(paths) or [layer.node for layer in layers]
    return f"known: {first_few(listed, LISTED)}" if listed else "the model has none"


def _around(path: str) -> list[str]:
    """`a`, `a.b` and `a.b.c` of `a.b.c`."""
    parts = path.split(".") if path else []
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
