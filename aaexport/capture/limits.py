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
FILE_LINE = re.compile(r'File "([^"]+)", line (\d+)')


def fault_of(program: ExportedProgram) -> str | None:
    """One line with the layer, the line of its source, the cause and the remedy; None where nothing is known."""
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        name = str(getattr(node.target, "__name__", node.target)).partition(".")[0]
        for pattern, rule in RULES:
            if re.fullmatch(pattern, name) and (fault := rule(node)):
                return ": ".join(filter(None, (_place(node), fault)))
    return _complex_output(program)


def _divisor(node: Node) -> str | None:
    """Left out without a word."""
    kernel: Any = node.args[1]
    divisor = _argument(node, 6, "divisor_override")
    if divisor is None or not isinstance(kernel, list | tuple):
        return None
    area = math.prod(kernel)
    remedy = f"leave it out and multiply the result by {area} / {divisor}"
    return f"torch's exporter leaves out divisor_override={divisor}; {remedy}"


def _adaptive_maximum(node: Node) -> str:
    given: Any = node.args[1]
    wanted = [int(side) for side in given]
    sizes = _shape(node.args[0])[-len(wanted) :]
    if all(side == 1 for side in wanted):
        axes = ", ".join(str(axis) for axis in range(-len(wanted), 0))
        remedy = f"write x.amax(({axes}), keepdim=True)"
    elif all(size % side == 0 for size, side in zip(sizes, wanted, strict=True)):
        window = tuple(size // side for size, side in zip(sizes, wanted, strict=True))
        remedy = f"write a max_pool with a kernel of {window}, which is the same for maps of {sizes}"
    else:
        remedy = (
            f"{sizes} is not divided by {tuple(wanted)}: write the maxima of slices, x[…, a:b, c:d].amax((-2, -1))"
        )
    return f"torch's exporter knows no adaptive_max_pool; {remedy}"


def _autocast(node: Node) -> str | None:
    device, dtype, enabled = node.args[:3]
    if device != "cpu" or dtype != torch.bfloat16 or not enabled:
        return None
    remedy = "export it in float32: torch.autocast(…, enabled=False), or leave it to the training loop"
    return f"it computes in bfloat16 inside torch.autocast, which runtimes on the CPU do not; {remedy}"


def _scale(node: Node) -> str | None:
    """ONNX keeps the factor in float32, and makes another size of it where the product is a whole number."""
    factors: Any = next((one for one in reversed(node.args) if _are_factors(one)), None)
    if factors is None:
        return None
    before, after = _shape(node.args[0])[2:], _shape(node)[2:]
    for size, factor, made in zip(before, factors, after, strict=False):
        in_file = math.floor(float(np.float32(factor)) * size)
        if in_file != made:
            what = (
                f"scale_factor={factor} makes {made} of {size} in PyTorch, and {in_file} in ONNX, which has float32"
            )
            return f"{what}; give size={after}, which places the samples by the sizes themselves"
    return None


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
    (r"_?upsample_\w+", _scale),
)


def _complex_output(program: ExportedProgram) -> str | None:
    named = {node.name: node for node in program.graph.nodes}
    for output in program.graph_signature.user_outputs:
        node = named.get(str(output))
        value = None if node is None else node.meta.get("val")
        if node is not None and isinstance(value, torch.Tensor) and value.is_complex():
            remedy = "return torch.view_as_real(y), two numbers for each, or its absolute value"
            return ": ".join(
                filter(None, (_place(node), f"it returns complex numbers, which no runtime has; {remedy}"))
            )
    return None


def _argument(node: Node, place: int, name: str) -> Any:
    return node.kwargs.get(name, node.args[place] if len(node.args) > place else None)


def _are_factors(argument: Any) -> bool:
    return isinstance(argument, list | tuple) and bool(argument) and all(isinstance(one, float) for one in argument)


def _shape(node: Any) -> tuple[int, ...]:
    """Of what the node computes; a dynamic batch is only ever the first."""
    value = node.meta["val"]
    value = value[0] if isinstance(value, tuple | list) else value
    return (0, *(int(size) for size in value.shape[1:]))


def _place(node: Node) -> str:
    """`path (Class), file:line`, as far as it is known."""
    stack: dict[str, tuple[str, Any]] = node.meta.get("nn_module_stack") or {}
    path, kind = next(reversed(list(stack.values())), ("", ""))
    layer = f"{path} ({str(getattr(kind, '__name__', kind)).rpartition('.')[2]})" if path else ""
    lines = [(Path(file), int(number)) for file, number in FILE_LINE.findall(node.meta.get("stack_trace") or "")]
    own = [(file, number) for file, number in lines if not is_below(file, (TORCH, OURS))]
    return ", ".join(filter(None, (layer, shown(*own[-1]) if own else "")))
