"""What every graph rule has: a pattern, the reasons to leave a match alone, the rewriting, and where it pays."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnxscript.rewriter import MatchContext, MatchResult, RewriteRuleClassBase

from aaexport.device import Target

Builder = Any  # the library's: an operator is a method of its name


class Refusal(Exception):  # noqa: N818  it is an answer, not an error
    """Why a match is left as it is."""


class GraphRule(RewriteRuleClassBase):
    """One rewriting that leaves the function of the graph as it is.

    A rule has `pattern` (the library's), `require`, which raises `Refusal` for a match that cannot or should not be
    rewritten, and `rewrite`. Matches are refused rather than missed: the report tells each with its reason.
    """

    title: ClassVar[str]
    commutes: ClassVar[bool] = False  # whether the operands of its Add or Mul may stand either way
    no_gain: ClassVar[Mapping[Target, str]] = {}  # where it does not pay, and why

    def __init__(self, target: Target) -> None:
        # Nodes that a match covers may feed others as well: what nobody needs any more is removed afterwards.
        super().__init__(remove_nodes=False)
        self.target = target
        self.refusals: dict[str, str] = {}

    def is_candidate(self, *_: Any, **matched: Any) -> bool:
        """Whether the match is of the kind that the rule is made for; others are not worth a word."""
        return True

    @abstractmethod
    def require(self, *_: Any, **matched: Any) -> None:
        """Raises Refusal with the reason why this match is to be left."""

    def check(self, context: MatchContext, *_: Any, **matched: Any) -> MatchResult:  # type: ignore[override]
        """The library's question whether to rewrite a match; reasons are kept by the node's name."""
        result, node = MatchResult(), str(context.root.name)
        if not self.is_candidate(**matched):
            return result.fail("not what the rule is made for")
        try:
            self.require(**matched)
            if self.target in self.no_gain:
                raise Refusal(f"it does not pay on {self.target}: {self.no_gain[self.target]}")
        except Refusal as refusal:
            self.refusals[node] = str(refusal)
            return result.fail(str(refusal))
        self.refusals.pop(node, None)
        return result


def constant(value: ir.Value | None, what: str) -> NDArray[Any]:
    """The numbers of a constant; Refusal if it is computed, or given from outside."""
    if value is None or value.is_graph_input() or value.const_value is None:
        raise Refusal(f"{what} is not a constant")
    numbers: NDArray[Any] = value.const_value.numpy()
    return numbers


def channels(value: ir.Value) -> int:
    """The size of axis 1; Refusal if it is not known."""
    if value.shape is None or len(value.shape) < 2 or not isinstance(value.shape[1], int):
        raise Refusal(f"the channels of {value.name} are not known")
    return value.shape[1]


def producer(value: ir.Value) -> ir.Node:
    """The node that computes `value`, where the pattern has made sure that there is one."""
    node = value.producer()
    assert node is not None
    return node


def operands(node: ir.Node) -> list[ir.Value]:
    """The inputs that are there."""
    return [value for value in node.inputs if value is not None]


def sole_user(value: ir.Value) -> ir.Node | None:
    """The only node that reads `value`; None if there are more, or it is an output of the graph."""
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def require_sole_use(value: ir.Value) -> None:
    """Refusal if more than one node, or the user of the model, reads `value`: it would be computed twice."""
    if sole_user(value) is None:
        raise Refusal(f"the output of {_operator(value)} is read elsewhere too")


def is_convolution(value: ir.Value) -> bool:
    """Whether `value` is a convolution's output, read by one node only: then what follows folds into it."""
    node = value.producer()
    return node is not None and node.op_type == "Conv" and node.domain == "" and sole_user(value) is not None


def like(value: ir.Value, model: ir.Value) -> ir.Value:
    """`value`, typed and shaped as `model`: the rules that follow look at shapes."""
    value.shape, value.type = model.shape, model.type
    return value


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    """The value of an attribute, or what the operator takes without it."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def new_constant(op: Builder, numbers: NDArray[Any], name: str) -> ir.Value:
    """An initializer of that name; the library makes names unique."""
    value: ir.Value = op.initializer(ir.tensor(np.ascontiguousarray(numbers)), name=name)
    return value


def _operator(value: ir.Value) -> str:
    node = value.producer()
    return f"{node.op_type} {node.name}" if node is not None else f"input {value.name}"
