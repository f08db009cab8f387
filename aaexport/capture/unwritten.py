"""An error of torch's ONNX exporter → the user's own line that it could not write, and what to write instead.

The exporter takes a program apart into smaller operators, and names the one that it has nothing for; the line of the
user's source, and the operator that they called, are known of it.
"""

from __future__ import annotations

import math
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
WITHOUT_NAN = "which is the same where no NaN is"
Remedy = Callable[[Node], str]  # empty where none is known for such a call


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


def _axis(node: Node, place: int) -> tuple[int, int] | None:
    """Which it is, counted from the first, or the last by default, and how long: 0 if that is open.

    None for a number without axes.
    """
    shape, axis = shape_of(node.args[0]), argument(node, place, "dim")
    axis = -1 if axis is None else axis
    return (axis % len(shape), shape[axis]) if shape and isinstance(axis, int) else None


def _is_kept(node: Node, place: int) -> bool:
    return bool(argument(node, place, "keepdim"))


def _median(node: Node) -> str:
    """The lower one of two."""
    if argument(node, 1, "dim") is None:
        return f"write x.flatten().sort()[0][(x.numel() - 1) // 2], {WITHOUT_NAN}"
    axis, size = _axis(node, 1) or (0, 0)
    if not size:
        return ""
    middle = (size - 1) // 2
    taken = f"narrow({axis}, {middle}, 1)" if _is_kept(node, 2) else f"select({axis}, {middle})"
    return f"write values, places = (each.{taken} for each in x.sort({axis})), {WITHOUT_NAN}"


def _median_of_numbers(node: Node) -> str:
    """The lower one of two, of those that are no NaN: these are sorted before all others."""
    found = _axis(node, 1)
    if argument(node, 1, "dim") is None or found is None:
        return ""
    axis, _ = found
    middle = f"((~x.isnan()).sum({axis}, keepdim=True) - 1).clamp(min=0) // 2"
    squeezed = "" if _is_kept(node, 2) else f".squeeze({axis})"
    values = f'x.masked_fill(x.isnan(), float("inf")).sort({axis})[0]'
    return f"write {values}.gather({axis}, {middle}){squeezed}, which is the same where not all are NaN"


def _kth(node: Node) -> str:
    k, found = argument(node, 1, "k"), _axis(node, 2)
    if found is None or not isinstance(k, int):
        return ""
    axis, _ = found
    taken = f"narrow({axis}, {k - 1}, 1)" if _is_kept(node, 3) else f"select({axis}, -1)"
    return f"write values, places = (each.{taken} for each in x.topk({k}, {axis}, largest=False))"


def _most_frequent(node: Node) -> str:
    found = _axis(node, 1)
    if found is None:
        return ""
    axis, _ = found
    count = f"(x.unsqueeze({axis}) == x.unsqueeze({axis + 1})).sum({axis})"
    squeezed = "" if _is_kept(node, 2) else f".squeeze({axis})"
    return f"write x = x.sort({axis})[0]; x.gather({axis}, {count}.argmax({axis}, keepdim=True)){squeezed}"


def _running(reduction: str) -> Remedy:
    def remedy(node: Node) -> str:
        axis, size = _axis(node, 1) or (0, 0)
        if not size or argument(node, 2, "dtype") is not None:
            return ""
        of_first = f"x.narrow({axis}, 0, i + 1).{reduction}({axis})"
        return f"write torch.stack([{of_first} for i in range({size})], {axis})"

    return remedy


def _distances(node: Node) -> str:
    p = argument(node, 2, "p")
    norm = 2.0 if p is None else f'float("{p}")' if math.isinf(p) else p
    return f"write (x.unsqueeze(-2) - y.unsqueeze(-3)).norm({norm}, -1)"


def _searched(node: Node) -> str:
    is_tensor = isinstance(argument(node, 1, "self"), Node)
    if not is_tensor or any(node.kwargs.get(name) not in (None, False) for name in ("sorter", "out_int32")):
        return ""
    edges = "edges" if len(shape_of(node.args[0])) == 1 else "edges.unsqueeze(-2)"
    is_right = node.kwargs.get("right") or node.kwargs.get("side") == "right"
    return f"write ({edges} {'<=' if is_right else '<'} x.unsqueeze(-1)).sum(-1)"


def _moved(place: int) -> Remedy:
    """Over all axes, the batch among them, as where none is named."""

    def remedy(node: Node) -> str:
        named, rank = argument(node, place, "dims" if place > 1 else "dim"), len(shape_of(node.args[0]))
        axes = [named] if isinstance(named, int) else named or range(rank)
        is_everywhere = len({axis % rank for axis in axes}) == rank if rank else False
        return "name the axes of the map, dim=(-2, -1): it moves images into one another" if is_everywhere else ""

    return remedy


def _said(text: str) -> Remedy:
    return lambda node: text


REMEDIES: tuple[tuple[str, Remedy], ...] = (
    (r"median", _median),
    (r"nanmedian", _median_of_numbers),
    (r"kthvalue", _kth),
    (r"mode", _most_frequent),
    (r"cummax", _running("amax")),
    (r"cummin", _running("amin")),
    (r"cumprod", _running("prod")),
    (r"_?cdist(_forward)?", _distances),
    (r"searchsorted", _searched),
    (r"hypot", _said("write (x * x + y * y).sqrt()")),
    (r"unique_consecutive", _said("give it whole numbers: x.long()")),
    (r"fft_i?fftshift", _moved(1)),
    (r"roll", _moved(2)),
)
