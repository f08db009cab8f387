"""ONNX model → its parts: what it has of each PyTorch module, or of each stretch of nodes where it names none."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import onnx

from aaexport.graph.cost import Shape, macs_of, shapes_at_batch_1
from aaexport.graph.files import FLOATING, qualified, size_of
from aaexport.graph.intermediate import read_by
from aaexport.graph.metadata import MODULE_PATH, path_of

# What a stretch begins with: the products, and what else has weights and takes its time.
ANCHORS = frozenset(
    {"Attention", "Conv", "ConvInteger", "ConvTranspose", "Einsum", "GRU", "Gemm", "LSTM", "MatMul", "MatMulInteger",
     "QLinearConv", "QLinearMatMul", "RNN"}
)  # fmt: skip


@dataclass(frozen=True)
class GraphPart:
    """The nodes of one module, or of one stretch.

    Attributes:
        path: of the module, "" for the model itself; of a stretch the name of the node that it begins with.
        operators: how many of each.
        parameters: floating-point numbers that its nodes read and no part before it does.
        macs: of one image; None where a shape is not known.
        reads, writes: shapes of what goes in and what comes out, for one image; None where they are not known.
    """

    path: str
    operators: dict[str, int]
    parameters: int
    macs: int | None
    reads: Shape | None
    writes: Shape | None

    @property
    def anchor(self) -> str:
        """The operator that a stretch goes by; "" where it has no product."""
        return next((operator for operator in self.operators if operator in ANCHORS), "")


@dataclass
class _Gathered:
    operators: Counter[str] = field(default_factory=Counter)
    parameters: int = 0
    macs: float | None = 0.0
    read: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)


def graph_parts(model: onnx.ModelProto) -> tuple[GraphPart, ...]:
    """The parts in the order in which the graph comes to them, its outermost nodes only."""
    shapes = shapes_at_batch_1(model)
    unread = {tensor.name: size_of(tensor) for tensor in model.graph.initializer if tensor.data_type in FLOATING}
    constants = {tensor.name for tensor in model.graph.initializer}
    constants |= {name for node in model.graph.node if node.op_type == "Constant" for name in node.output}
    gathered: dict[str, _Gathered] = defaultdict(_Gathered)
    for node, path in zip(model.graph.node, paths_of(model.graph.node), strict=True):
        part, reads = gathered[path], read_by(node)
        part.operators[qualified(node)] += 1
        part.parameters += sum(unread.pop(name, 0) for name in reads)
        macs = macs_of(node, shapes)
        part.macs = None if macs is None or part.macs is None else part.macs + macs
        part.read += [name for name in reads if name not in constants]
        part.written += [name for name in node.output if name and name not in constants]
    outputs = {value.name for value in model.graph.output}
    readers = _readers(gathered)
    return tuple(_part(path, part, shapes, outputs, readers) for path, part in gathered.items())


def operators_by_path(model: onnx.ModelProto) -> dict[str, dict[str, int]]:
    """The operators of each part."""
    counted: dict[str, Counter[str]] = defaultdict(Counter)
    for node, path in zip(model.graph.node, paths_of(model.graph.node), strict=True):
        counted[path][qualified(node)] += 1
    return {path: dict(operators) for path, operators in counted.items()}


def names_modules(model: onnx.ModelProto) -> bool:
    """Whether the file tells of any node which module it came from."""
    return any(path is not None for path in _told(model.graph.node))


def paths_of(nodes: Sequence[onnx.NodeProto]) -> list[str]:
    """The part that each of the nodes is of; one that does not tell is of the part that it reads from."""
    told = _told(nodes)
    if not any(path is not None for path in told):
        return list(_stretches(nodes))
    paths: list[str] = []
    written: dict[str, str] = {}
    for node, own in zip(nodes, told, strict=True):
        path = own if own is not None else next((written[name] for name in read_by(node) if name in written), "")
        written.update(dict.fromkeys(node.output, path))
        paths.append(path)
    return paths


def _told(nodes: Sequence[onnx.NodeProto]) -> list[str | None]:
    scopes = (next((e.value for e in node.metadata_props if e.key == MODULE_PATH), "") for node in nodes)
    return [path_of(scope, node.name) for scope, node in zip(scopes, nodes, strict=True)]


def _stretches(nodes: Sequence[onnx.NodeProto]) -> Iterator[str]:
    """From each product to the one before the next."""
    path, taken = "", Counter[str]()
    for node in nodes:
        if node.op_type in ANCHORS or not path:
            name = node.name or next(iter(node.output), "") or node.op_type
            taken[name] += 1
            path = name if taken[name] == 1 else f"{name} ({taken[name]})"
        yield path


def _readers(gathered: Mapping[str, _Gathered]) -> dict[str, set[str]]:
    """Which parts read each tensor."""
    readers: dict[str, set[str]] = defaultdict(set)
    for path, part in gathered.items():
        for name in part.read:
            readers[name].add(path)
    return readers


def _part(
    path: str, part: _Gathered, shapes: Mapping[str, Shape], outputs: set[str], readers: Mapping[str, set[str]]
) -> GraphPart:
    own = set(part.written)
    entering = (name for name in part.read if name not in own)
    leaving = (name for name in reversed(part.written) if name in outputs or readers.get(name, set()) - {path})
    reads, writes = (next((shapes[name] for name in names if name in shapes), None) for names in (entering, leaving))
    macs = None if part.macs is None else round(part.macs)
    return GraphPart(path, dict(part.operators.most_common()), part.parameters, macs, reads, writes)
