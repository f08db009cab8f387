"""An exported program → the first thing in it that torch's ONNX exporter refuses or writes wrongly, with a remedy.

The exporter's own words name operators that nobody wrote, and some of these it does not notice at all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram
from torch.fx import Node

from aaexport.capture.failures import OURS, TORCH, is_below, shown

ATTENTION_AXES = 4
MOST_STEPS = 9  # of float32, from a factor to one that is as good
FILE_LINE = re.compile(r'File "([^"]+)", line (\d+)')


def fault_of(program: ExportedProgram, inside: str = "") -> str | None:
    """One line with the layer, the line of its source, the cause and the remedy; None where nothing is known.

    `inside` is what the paths of the user's layers begin with in the program, and not for them.
    """
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        name = str(getattr(node.target, "__name__", node.target)).partition(".")[0]
        for pattern, rule in RULES:
            if re.fullmatch(pattern, name) and (fault := rule(node)):
                return told(node, fault, inside)
    return _complex_output(program, inside)


def _divisor(node: Node) -> str | None:
    """Left out without a word: what is written divides by what the window holds."""
    divisor = argument(node, 6, "divisor_override")
    if divisor is None:
        return None
    none = [0] * int(str(node.target).partition("avg_pool")[2][0])
    kernel, padding = _sides(node, 1, "kernel_size", none), _sides(node, 3, "padding", none)
    area, without = math.prod(kernel), argument(node, 5, "count_include_pad") is False and any(padding)
    beyond = _beyond(node, kernel, _sides(node, 2, "stride", kernel), padding)
    if any(beyond):  # windows that a plain average takes for smaller
        pads = tuple(
            pad for side, more in zip(padding[::-1], beyond[::-1], strict=True) for pad in (side, side + more)
        )
        instead = ["leave it, ceil_mode and padding out", f"pool torch.nn.functional.pad(x, {pads})"]
    else:
        instead = ["leave it out"] + ["give count_include_pad=True"] * without
    instead += [f"multiply the result by {area} / {divisor}"] * (divisor != area)
    if instead == ["leave it out"]:
        return None
    remedy = " and ".join(filter(None, (", ".join(instead[:-1]), instead[-1])))
    return f"torch's exporter leaves out divisor_override={divisor}; {remedy}"


def _beyond(node: Node, kernel: list[int], stride: list[int], padding: list[int]) -> list[int]:
    """How far the last window of each axis reaches beyond the padded map."""
    sizes, made = (shape_of(one)[-len(kernel) :] for one in (node.args[0], node))
    axes = zip(sizes, made, kernel, stride, padding, strict=True)
    return [max(0, (count - 1) * step + window - size - 2 * pad) for size, count, window, step, pad in axes]


def _sides(node: Node, place: int, name: str, otherwise: list[int]) -> list[int]:
    """One number for each axis."""
    given: Any = argument(node, place, name)
    return [*given] * (len(otherwise) // len(given)) if given else otherwise


def _adaptive_maximum(node: Node) -> str | None:
    """The exporter knows windows of one size."""
    given: Any = node.args[1]
    wanted = tuple(int(side) for side in given)
    sizes = shape_of(node.args[0])[-len(wanted) :]
    axes = [
        (axis, size, side)
        for axis, size, side in zip(range(-len(wanted), 0), sizes, wanted, strict=True)
        if side and size % side
    ]
    if not axes:
        return None
    # The maximum over a window is that over one axis after the other.
    steps = ", then ".join(_maxima(*one) for one in axes)
    whole = [side if size % side else size for size, side in zip(sizes, wanted, strict=True)]
    rest = "" if whole == [*wanted] else ", then the same pooling"
    what = f"torch's exporter knows no adaptive_max_pool whose windows differ, and {sizes} is not divided by {wanted}"
    return f"{what}; write {steps}{rest}"


def _maxima(axis: int, size: int, side: int) -> str:
    """The maxima of the windows along one axis, as PyTorch lays them."""
    window = f"[..., i * {size} // {side} : (i * {size} + {size + side - 1}) // {side}{', :' * (-axis - 1)}]"
    return f"x = torch.stack([x{window}.amax({axis}) for i in range({side})], {axis})"


def _autocast(node: Node) -> str | None:
    device, dtype, enabled = node.args[:3]
    if device != "cpu" or dtype != torch.bfloat16 or not enabled:
        return None
    remedy = "export it in float32: torch.autocast(…, enabled=False), or leave it to the training loop"
    return f"it computes in bfloat16 inside torch.autocast, which runtimes on the CPU do not; {remedy}"


def _scale(node: Node) -> str | None:
    """ONNX keeps the factor in float32, and makes another size of it where the product is a whole number."""
    before, factors, after = _resized(node)
    for size, factor, made in zip(before, factors, after, strict=False):
        if other := next(((who, count) for who, count in _sizes_in_file(size, factor) if count != made), None):
            what = f"scale_factor={factor} makes {made} of {size} in PyTorch, and {other[1]} {other[0]}"
            remedy = f"give size={after}, which places the samples by the sizes themselves"
            alike = [(one, count) for one, own, count in zip(before, factors, after, strict=False) if own == factor]
            # The nearest pixel may be another one by another factor, however near it is.
            near = None if "nearest" in str(node.target) else _near_factor(factor, alike)
            return f"{what}; {remedy}" + (f", or scale_factor={near}, which makes {made} in both" if near else "")
    return None


def _sizes_in_file(size: int, factor: float) -> list[tuple[str, int]]:
    """By whose rule → how many of `size`: the standard's is exact, and onnxruntime's product is in float32 too."""
    kept = np.float32(factor)
    return [
        ("by ONNX's rule, which has the factor in float32", math.floor(float(kept) * size)),
        ("in onnxruntime, which multiplies in float32", math.floor(kept * np.float32(size))),
    ]


def _antialiased(node: Node) -> str | None:
    """Written with its sizes, which place the samples as the factors do only where these make them."""
    before, factors, after = _resized(node)
    for size, factor, made in zip(before, factors, after, strict=False):
        if not math.isclose(size * factor, made, rel_tol=1e-6):
            what = f"torch's exporter leaves out scale_factor={factor} of an antialiased resize, which makes {made}"
            return f"{what} of {size}; give size={after}, which places the samples by the sizes themselves"
    return None


def _resized(node: Node) -> tuple[tuple[int, ...], Any, tuple[int, ...]]:
    """The sizes before, the factors, none where sizes were given, and the sizes after."""
    factors: Any = next((one for one in reversed(node.args) if _are_factors(one)), ())
    return shape_of(node.args[0])[2:], factors, shape_of(node)[2:]


def _near_factor(factor: float, sizes: list[tuple[int, int]]) -> str | None:
    """The nearest number of float32 with which the file makes of every size what PyTorch makes of it."""
    for steps in range(1, MOST_STEPS):
        for towards in (np.float32(np.inf), -np.float32(np.inf)):
            near = np.float32(factor)
            for _ in range(steps):
                near = np.nextafter(near, towards)
            text = str(near)
            if all(_counts(size, float(text)) == {made} for size, made in sizes):
                return text
    return None


def _counts(size: int, factor: float) -> set[int]:
    return {math.floor(factor * size), *(count for _, count in _sizes_in_file(size, factor))}


def _without_heads(node: Node) -> str | None:
    """What could be given the axes that it lacks has them by now (`heads`)."""
    shapes = [tuple(held.meta["val"].shape) for held in node.args[:3] if isinstance(held, Node)]
    if all(len(shape) == ATTENTION_AXES for shape in shapes):
        return None
    got = " and ".join(dict.fromkeys(str(len(shape)) for shape in shapes))
    remedy = "reshape queries, keys, values and mask to (batch, heads, tokens, depth) before it, and the result after"
    return f"torch's exporter takes scaled_dot_product_attention of four axes only, got {got}; {remedy}"


RULES: tuple[tuple[str, Callable[[Node], str | None]], ...] = (
    (r"avg_pool[123]d", _divisor),
    (r"adaptive_max_pool[123]d", _adaptive_maximum),
    (r"wrap_with_autocast", _autocast),
    (r"scaled_dot_product_attention", _without_heads),
    (r"_upsample_\w+_aa", _antialiased),
    (r"_?upsample_(?!\w*_aa$)\w+", _scale),
)


def _complex_output(program: ExportedProgram, inside: str) -> str | None:
    named = {node.name: node for node in program.graph.nodes}
    for output in program.graph_signature.user_outputs:
        node = named.get(str(output))
        value = None if node is None else node.meta.get("val")
        if node is not None and isinstance(value, torch.Tensor) and value.is_complex():
            remedy = "return torch.view_as_real(y), two numbers for each, or its absolute value"
            return told(node, f"it returns complex numbers, which no runtime has; {remedy}", inside)
    return None


def argument(node: Node, place: int, name: str) -> Any:
    """Of a call, by its place or its name; None if it was not given."""
    return node.kwargs.get(name, node.args[place] if len(node.args) > place else None)


def _are_factors(argument: Any) -> bool:
    return isinstance(argument, list | tuple) and bool(argument) and all(isinstance(one, float) for one in argument)


def shape_of(node: Any) -> tuple[int, ...]:
    """Of what the node computes, with 0 for the batch, wherever it lies, whose size is open."""
    value = node.meta["val"]
    value = value[0] if isinstance(value, tuple | list) else value
    return tuple(size if isinstance(size, int) else 0 for size in value.shape)


def told(node: Node, fault: str, inside: str) -> str:
    """After `path (Class), file:line`, as far as it is known."""
    stack: dict[str, tuple[str, Any]] = node.meta.get("nn_module_stack") or {}
    path, kind = next(reversed(list(stack.values())), ("", ""))
    path = f"{path}.".removeprefix(inside).removesuffix(".")
    layer = f"{path} ({str(getattr(kind, '__name__', kind)).rpartition('.')[2]})" if path else ""
    lines = [(Path(file), int(number)) for file, number in FILE_LINE.findall(node.meta.get("stack_trace") or "")]
    own = [(file, number) for file, number in lines if not is_below(file, (TORCH, OURS))]
    place = ", ".join(filter(None, (layer, shown(*own[-1]) if own else "")))
    return f"{place}: {fault}" if place else fault
