"""An error of torch's ONNX exporter → the user's own line that it could not write, and what to write instead.

The exporter takes a program apart into smaller operators, and names the one that it has nothing for; the line of the
user's source, and the operator that they called, are known of it.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from torch.export import ExportedProgram
from torch.fx import Node

from aaexport.capture.limits import argument, shape_of, told
from aaexport.errors import root_cause
from aaexport.nn.outputs import Flattened

NAMESPACES = ("linalg", "fft", "special")
NO_OPERATOR = "ONNX has no operator for it: return what it is given, and compute it outside of the model"
Remedy = Callable[[Node], str]


def why_not_written(error: BaseException, program: ExportedProgram) -> str:
    """One line: the layer, the line of its source, what the exporter says of it, and the remedy where there is one.

    The exporter's own first line where it does not tell what it was at.
    """
    cause = root_cause(error)
    node = _node_at_work(error)
    if node is None:
        return cause
    called = _as_called(node, program)
    name = _operator(called)
    remedy = next((give(called) for pattern, give in REMEDIES if re.fullmatch(pattern, name)), "")
    if "No ONNX function found" in cause:
        cause, remedy = f"torch's exporter knows no torch.{_public(name)}", remedy or NO_OPERATOR
    stack: dict[str, tuple[str, Any]] = node.meta.get("nn_module_stack") or {}
    _, outermost = next(iter(stack.values()), ("", ""))
    inside = Flattened.INSIDE if str(outermost).endswith(Flattened.__name__) else ""
    return told(node, f"{cause}; {remedy}" if remedy else cause, inside)


def _node_at_work(error: BaseException) -> Node | None:
    """The innermost node of a program that some function of the exporter was at when it gave up."""
    found = None
    for raised in _chain(error):
        for frame, _ in traceback.walk_tb(raised.__traceback__):
            held = dict(frame.f_locals).get("node")
            if isinstance(held, Node) and held.op == "call_function":
                found = held
    return found


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _as_called(node: Node, program: ExportedProgram) -> Node:
    """The node of the program as it was captured that `node`, of its decomposition, is a part of; or itself."""
    captured = {each.name: each for each in program.graph.nodes if each.op == "call_function"}
    names = [str(getattr(source, "name", "")) for source in node.meta.get("from_node") or ()]
    return next((captured[name] for name in reversed(names) if name in captured), node)


def _operator(node: Node) -> str:
    """`median`, `linalg_svdvals`; without what it is overloaded by."""
    return str(getattr(node.target, "__name__", node.target)).partition(".")[0]


def _public(name: str) -> str:
    """As users write it: `linalg.svdvals`."""
    space, _, rest = name.partition("_")
    return f"{space}.{rest}" if space in NAMESPACES and rest else name


# Remedies, for the numbers of the very call. What x is called in the user's line nobody knows.


def _axis(node: Node, place: int) -> tuple[int, int]:
    """Which it is, counted from the first, and how long."""
    shape = shape_of(node.args[0])
    axis = int(argument(node, place, "dim") or 0) if len(shape) else 0
    return axis % len(shape), shape[axis]


def _median(node: Node) -> str:
    """The lower one of two."""
    if argument(node, 1, "dim") is None:
        return "write x.flatten().sort()[0][(x.numel() - 1) // 2]"
    axis, size = _axis(node, 1)
    return (
        f"write values, places = (each.select({axis}, {(size - 1) // 2}) for each in x.sort({axis})), "
        "which is the same where no NaN is"
    )


def _kth(node: Node) -> str:
    k, (axis, _) = argument(node, 1, "k"), _axis(node, 2) if argument(node, 2, "dim") is not None else _last(node)
    return f"write values, places = (each.select({axis}, -1) for each in x.topk({k}, {axis}, largest=False))"


def _last(node: Node) -> tuple[int, int]:
    shape = shape_of(node.args[0])
    return len(shape) - 1, shape[-1]


def _most_frequent(node: Node) -> str:
    axis, _ = _axis(node, 1) if argument(node, 1, "dim") is not None else _last(node)
    count = f"(x.unsqueeze({axis}) == x.unsqueeze({axis + 1})).sum({axis})"
    return f"write x = x.sort({axis})[0]; x.gather({axis}, {count}.argmax({axis}, keepdim=True)).squeeze({axis})"


def _running(reduction: str) -> Remedy:
    def remedy(node: Node) -> str:
        axis, size = _axis(node, 1)
        of_first = f"x.narrow({axis}, 0, i + 1).{reduction}({axis})"
        return f"write torch.stack([{of_first} for i in range({size})], {axis})"

    return remedy


def _distances(node: Node) -> str:
    p = argument(node, 2, "p")
    return f"write (x.unsqueeze(-2) - y.unsqueeze(-3)).norm({2.0 if p is None else p}, -1)"


def _searched(node: Node) -> str:
    edges = "edges" if len(shape_of(node.args[0])) == 1 else "edges.unsqueeze(-2)"
    is_right = argument(node, 3, "right") or argument(node, 4, "side") == "right"
    return f"write ({edges} {'<=' if is_right else '<'} x.unsqueeze(-1)).sum(-1)"


def _said(text: str) -> Remedy:
    return lambda node: text


REMEDIES: tuple[tuple[str, Remedy], ...] = (
    (r"(nan)?median", _median),
    (r"kthvalue", _kth),
    (r"mode", _most_frequent),
    (r"cummax", _running("amax")),
    (r"cummin", _running("amin")),
    (r"cumprod", _running("prod")),
    (r"_?cdist(_forward)?", _distances),
    (r"searchsorted", _searched),
    (r"hypot", _said("write (x * x + y * y).sqrt()")),
    (r"unique_consecutive", _said("give it whole numbers: x.long()")),
    (r"(fft_i?fftshift|roll)", _said("name the axes of the map, dim=(-2, -1): it moves images into one another")),
)
