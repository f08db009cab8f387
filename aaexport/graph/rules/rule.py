"""What every graph rule has: a pattern, the reasons to leave a match alone, the rewriting, and where it pays."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnxscript.rewriter import MatchContext, MatchResult, RewriteRuleClassBase

from aaexport.device import Target
from aaexport.graph.names import names_of, new_name

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
        self.refusals: dict[ir.Node, str] = {}
        self.accepted: ir.Node | None = None  # the root of the match that is rewritten next
        self.names: set[str | None] = set()  # of all values of the graph
        self.model: ir.Model

    def begin(self, model: ir.Model) -> None:
        """Is called before each pass over a model: what was refused in the last one does not count any more."""
        self.refusals.clear()
        self.names = names_of(model.graph)
        self.model = model

    def patterns(self) -> tuple[Callable[..., Any], ...]:
        """What is looked for: `pattern`, or several where no one pattern has all the kinds of node."""
        return (self.pattern,)

    def is_candidate(self, *_: Any, **matched: Any) -> bool:
        """Whether the match is of the kind that the rule is made for; others are not worth a word."""
        return True

    @abstractmethod
    def require(self, *_: Any, **matched: Any) -> None:
        """Raises Refusal with the reason why this match is to be left."""

    def check(self, context: MatchContext, *_: Any, **matched: Any) -> MatchResult:  # type: ignore[override]
        """The library's question whether to rewrite a match; the reasons why not are kept."""
        result, node = MatchResult(), context.root
        if not self.is_candidate(**matched):
            return result.fail("not what the rule is made for")
        try:
            if node.graph is not context.model.graph:
                raise Refusal("it lies in the branch of an If or the body of a loop")
            self.require(**matched)
            if self.target in self.no_gain:
                raise Refusal(f"it does not pay on {self.target}: {self.no_gain[self.target]}")
        except Refusal as refusal:
            self.refusals[node] = str(refusal)
            return result.fail(str(refusal))
        self.refusals.pop(node, None)
        self.accepted = node
        return result

    def new_constant(self, op: Builder, numbers: NDArray[Any], name: str) -> ir.Value:
        """An initializer of that name, or one like it: the library would let it replace one that is there."""
        free = new_name(name, self.names)
        value: ir.Value = op.initializer(ir.tensor(np.asarray(numbers, order="C")), name=free)
        return value


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


def require_read_by(value: ir.Value, nodes: Collection[ir.Node]) -> None:
    """Refusal if others than `nodes`, or the user of the model, read `value`."""
    if value.is_graph_output() or any(use.node not in nodes for use in value.uses()):
        raise Refusal(f"the output of {_operator(value)} is read elsewhere too")


def is_convolution(value: ir.Value) -> bool:
    """Whether `value` is a convolution's output, read by one node only: then what follows folds into it."""
    node = value.producer()
    return node is not None and node.op_type == "Conv" and node.domain == "" and sole_user(value) is not None


def takes_normalization(value: ir.Value) -> bool:
    """Whether a normalization of `value` folds into the weights of the convolution that computes it, and it alone."""
    node = value.producer()
    parameters = operands(node)[1:] if node is not None and is_convolution(value) else []
    return bool(parameters) and all(_is_own_constant(parameter) for parameter in parameters)


def _is_own_constant(value: ir.Value) -> bool:
    return value.const_value is not None and not value.is_graph_input() and sole_user(value) is not None


def require_normalization(normalized: ir.Value) -> None:
    """Refusal unless the node normalises by constants, as in inference."""
    if attribute(producer(normalized), "training_mode", 0):
        raise Refusal("it normalises by the batch, as in training")
    for value in operands(producer(normalized))[1:]:
        constant(value, "a parameter of the normalization")


def normalized_by(op: Builder, normalization: ir.Node, x: ir.Value, parameters: Sequence[ir.Value]) -> ir.Value:
    """`x` normalised by `parameters`, and for the rest as the node `normalization` does it."""
    epsilon = attribute(normalization, "epsilon", 1e-5)
    return like(op.BatchNormalization(x, *parameters, epsilon=epsilon), x)


def from_module_of(node: ir.Node, value: ir.Value) -> ir.Value:
    """`value`, its node said to come from the PyTorch module of `node`, where several are replaced by one."""
    producer(value).metadata_props.update(node.metadata_props)
    return value


def like(value: ir.Value, model: ir.Value) -> ir.Value:
    """`value`, typed and shaped as `model`: the rules that follow look at shapes."""
    value.shape, value.type = model.shape, model.type
    return value


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    """The value of an attribute, or what the operator takes without it."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def _operator(value: ir.Value) -> str:
    node = value.producer()
    return f"{node.op_type} {node.name or value.name}" if node is not None else f"input {value.name}"
