"""What torch's exporter does anew or for nothing → left out, so that the same file takes less time.

Each of them reaches into parts of no public name: in a version of torch or onnxscript that nobody has looked at, or
that has no such part, it does nothing, and the exporter is only slower.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
from onnxscript import values
from torch import fx

LOOKED_AT = ("2.13.",)  # versions of torch whose passes and tables are as these functions take them


@contextlib.contextmanager
def shortcuts() -> Iterator[None]:
    """All of them, for a block that calls `torch.onnx.export` once."""
    with _without_reading_sources(), _without_idle_promotion(), _with_operators_collected_once():
        yield


@contextlib.contextmanager
def _without_reading_sources() -> Iterator[None]:
    """Tells the exporter which domain a function is in, without the function's whole signature.

    It asks each of its five hundred functions for that, for which onnxscript reads and parses their sources anew: a
    twelfth of the time that a small network takes. Whatever else is asked is answered by onnxscript as before.
    """
    kind = getattr(values, "TracedOnnxFunction", None)
    whole = getattr(kind, "function_ir", None)
    if kind is None or not isinstance(whole, property) or whole.fget is None:
        yield
        return
    read = whole.fget
    kind.function_ir = property(lambda function: _Told(function, read))
    try:
        yield
    finally:
        kind.function_ir = whole


class _Told:
    """A function's own description, read when more than its domain is wanted."""

    def __init__(self, function: Any, read: Callable[[Any], Any]) -> None:
        self.domain = function.opset.domain
        self._function, self._read = function, read

    def __getattr__(self, name: str) -> Any:
        return getattr(self._read(self._function), name)


@contextlib.contextmanager
def _without_idle_promotion() -> Iterator[None]:
    """Leaves out the pass that writes out type promotion, of a graph in which torch's own rules promote nothing.

    The pass computes all shapes of the graph anew to find that: a tenth of the exporter's time.
    """
    passes = _looked_at("torch.onnx._internal.exporter._fx_passes", "insert_type_promotion_nodes")
    if passes is None:
        yield
        return
    promote = passes.insert_type_promotion_nodes

    def insert_type_promotion_nodes(graph_module: fx.GraphModule) -> None:
        if any(_promotes(module) for module in graph_module.modules()):
            promote(graph_module)

    with _in_place_of([passes], "insert_type_promotion_nodes", insert_type_promotion_nodes):
        yield


def _promotes(module: torch.nn.Module) -> bool:
    """Whether an argument of a node is of another type than torch's rule for the node wants."""
    from torch.onnx._internal.fx.passes.type_promotion import TypePromotionTable, get_type_promotion_rule

    if not isinstance(module, fx.GraphModule):
        return True  # the pass has its own word on that
    table = TypePromotionTable()
    for node in module.graph.nodes:
        rule = get_type_promotion_rule(node, table) if node.op == "call_function" else None
        if rule is None:
            continue
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda each: each.meta["val"])
        wanted = rule.preview_type_promotion(args, kwargs)
        arguments = [(arg, wanted.args_dtypes.get(number)) for number, arg in enumerate(args)]
        arguments += [(arg, wanted.kwargs_dtypes.get(name)) for name, arg in kwargs.items()]
        if any(dtype is not None and not _is_of(arg, dtype) for arg, dtype in arguments):
            return True
    return False


def _is_of(arg: Any, dtype: torch.dtype) -> bool:
    from torch.onnx._internal.fx.type_utils import from_scalar_type_to_torch_dtype

    if isinstance(arg, (list, tuple)):
        return all(_is_of(each, dtype) for each in arg)
    return (arg.dtype if isinstance(arg, torch.Tensor) else from_scalar_type_to_torch_dtype(type(arg))) == dtype


@contextlib.contextmanager
def _with_operators_collected_once() -> Iterator[None]:
    """Lets torch go through its operators once for those that are made of others; the exporter asks fifty times.

    torch itself cannot remember them, as operators may be defined between two exports.
    """
    with contextlib.ExitStack() as held:
        for name, modules in (
            ("_collect_all_valid_cia_ops", ("torch.export.exported_program", "torch.export.decomp_utils")),
            ("_materialize_cpp_cia_ops", ("torch._export.utils",)),
        ):
            found = [_looked_at(module, name) for module in modules]
            askers = [module for module in found if module is not None]
            if askers:
                # What it gives nobody is to change, says torch.
                held.enter_context(_in_place_of(askers, name, functools.cache(getattr(askers[0], name))))
        yield


def _looked_at(module: str, name: str) -> ModuleType | None:
    """The module, if torch is of a version that was looked at and has that name in it."""
    if not torch.__version__.startswith(LOOKED_AT):
        return None
    try:
        found = importlib.import_module(module)
    except ImportError:
        return None
    return found if callable(getattr(found, name, None)) else None


@contextlib.contextmanager
def _in_place_of(modules: list[ModuleType], name: str, function: Callable[..., Any]) -> Iterator[None]:
    before = [getattr(module, name) for module in modules]
    try:
        for module in modules:
            setattr(module, name, function)
        yield
    finally:
        for module, one in zip(modules, before, strict=True):
            setattr(module, name, one)
