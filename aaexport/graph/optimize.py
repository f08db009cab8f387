"""ONNX model → the same function by faster operators, and a report of which rule did what, and why not."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
import onnx_ir as ir
from google.protobuf.message import EncodeError
from onnx import shape_inference
from onnx_ir.passes import PassManager
from onnx_ir.passes.common import (
    InlinePass,
    RemoveUnusedNodesPass,
    RemoveUnusedOpsetsPass,
    ShapeInferencePass,
)
from onnxscript.rewriter import RewriteRule, RewriteRuleSet
from onnxscript.rewriter.rules.common import reshape_reshape_rule

from aaexport.device import Target
from aaexport.errors import GraphError, broken_rule, first_line
from aaexport.graph.check import declared_opset
from aaexport.graph.hurried import hurried
from aaexport.graph.light import is_large, light
from aaexport.graph.metadata import MODULE_PATH, path_of
from aaexport.graph.outside import Room, move_out
from aaexport.graph.rules import RULES, GraphRule

MAX_ROUNDS = 10  # rules make each other possible; should two ever undo each other, it ends all the same
ROOT = "the module itself"  # whose path is empty
OLDEST_OPSET = 11  # the rules write operators as they are since then
SIZES = ShapeInferencePass(
    check_type=False, strict_mode=False, data_prop=True
)  # a rule may need those of another's work
TIDYING = PassManager((RemoveUnusedNodesPass(), RemoveUnusedOpsetsPass()))
INITIALIZERS_ARE_INPUTS = 3  # the last version of the format in which they must be


@dataclass(frozen=True)
class RuleReport:
    """What one rule did: how often it was applied, and how often it was refused for which reason.

    `left` tells the reasons by the path of the PyTorch module whose part was left, where the file tells its nodes';
    `where`, how often it was applied, likewise.
    """

    title: str
    applied: int
    refused: dict[str, int]
    left: dict[str, str] = field(default_factory=dict)
    where: dict[str, int] = field(default_factory=dict)


def optimize_model(
    model: onnx.ModelProto,
    *,
    target: Target = "cpu",
    rules: Sequence[Callable[[Target], GraphRule]] = RULES,
    then: Sequence[Callable[[Target], GraphRule]] = (),
    room: Room | None = None,
) -> tuple[onnx.ModelProto, tuple[RuleReport, ...]]:
    """Applies every one of `rules` that pays on `target` wherever it can be applied; `model` stays as it is.

    Those in `then` are applied when there is nothing left to do for the others. `room` is for the large tensors of a
    model above protobuf's limit, and has to be there as long as the result is used.

    Raises:
        GraphError: `model` is none, the shapes of it contradict each other, its opset is below 11, or it is above
            2 GiB and there is no room.
        FolderError: there is too little of it.
    """
    if declared_opset(model) < OLDEST_OPSET:
        remedy = "bring it there with onnx.version_converter"
        raise GraphError(broken_rule("opset", f"be at least {OLDEST_OPSET}", declared_opset(model), remedy))
    graph = editable(model)
    applied: Counter[str] = Counter()
    where: dict[str, Counter[str]] = defaultdict(Counter)
    bound: list[GraphRule] = []
    for stage in (rules, then):
        bound += (tried := [rule(target) for rule in stage])
        applied.update(apply_rules(tried, graph, where))
    tidy(graph)
    move_out(graph, room)
    reports = tuple(
        RuleReport(
            r.title, applied[r.title], dict(Counter(r.refusals.values())), _left(r.refusals), dict(where[r.title])
        )
        for r in bound
    )
    return ir.serde.serialize_model(graph), reports


def editable(model: onnx.ModelProto) -> ir.Model:
    """A copy for passes: with shapes, without functions, and no initializer is an input; its numbers are not copied.

    Raises:
        GraphError: `model` is none, its shapes contradict each other, or it is above 2 GiB without its large
            initializers.
    """
    graph = _with_shapes(_in_newer_format(model))
    InlinePass()(graph)  # runtimes inline functions when they load a file; rules look at one graph
    return graph


def _left(refusals: Mapping[ir.Node, str]) -> dict[str, str]:
    """The path of each module in which something was refused → the reasons."""
    reasons: dict[str, list[str]] = {}
    for node, reason in refusals.items():
        if (path := _path_of(node)) is not None:
            reasons.setdefault(path, []).append(reason)
    return {path: "; ".join(dict.fromkeys(each)) for path, each in reasons.items()}


def _path_of(node: ir.Node) -> str | None:
    """Of the module that it came from; None where the file does not tell."""
    path = path_of(node.metadata_props.get(MODULE_PATH, ""), node.name or "")
    return ROOT if path == "" else path


def _with_shapes(model: onnx.ModelProto) -> ir.Model:
    """The model with the shapes that can be inferred; its numbers stay where they are."""
    try:
        inferred = shape_inference.infer_shapes(light(model), data_prop=True)
    except (ValueError, EncodeError) as error:
        raise GraphError(f"the model must stay below 2 GiB, protobuf's limit, but: {error}") from error
    except shape_inference.InferenceError as error:
        raise GraphError(f"the shapes of the model must fit each other, but: {first_line(error)}") from error
    try:
        graph = ir.serde.deserialize_model(inferred)
    except ir.serde.SerdeError as error:  # which names the part that it was in; its cause what is wrong there
        raise GraphError(
            f"the model must be a whole ONNX model, but: {first_line(error.__cause__ or error)}"
        ) from error
    inputs = {value.name: value for value in graph.graph.inputs}
    given = {value.name for value in model.graph.input}
    for tensor in filter(is_large, model.graph.initializer):
        value = inputs[tensor.name]
        value.const_value = ir.serde.deserialize_tensor(tensor)
        if tensor.name not in given:
            graph.graph.inputs.remove(value)
        graph.graph.register_initializer(value)
    return graph


def tidy(graph: ir.Model) -> None:
    """Takes out what nothing needs; a tensor that is an output under several names keeps an Identity for each."""
    outputs = graph.graph.outputs
    names = [value.name for value in outputs]
    _drop_identities(graph)
    TIDYING(graph)
    first: dict[int, str | None] = {}
    for index, (value, name) in enumerate(zip(list(outputs), names, strict=True)):
        if id(value) not in first:
            first[id(value)] = name
            continue
        value.name = first[id(value)]
        again = ir.node("Identity", [value])
        again.outputs[0].name, again.outputs[0].type, again.outputs[0].shape = name, value.type, value.shape
        graph.graph.append(again)
        outputs[index] = again.outputs[0]


def _drop_identities(graph: ir.Model) -> None:
    """Whoever reads an Identity reads what it is of; but a graph answers with nothing that is only given to it."""
    for node in list(graph.graph.all_nodes()):
        if node.op_type != "Identity" or node.domain != "" or node.inputs[0] is None:
            continue
        given, same = node.inputs[0], node.outputs[0]
        is_given = given.is_graph_input() or given.is_initializer() or given.graph is not node.graph
        if same.is_graph_output() and is_given:
            continue
        name, is_output = same.name, same.is_graph_output()
        given.shape, given.type = given.shape or same.shape, given.type or same.type
        same.replace_all_uses_with(given, replace_graph_outputs=True)
        if is_output:
            given.name = name
        assert node.graph is not None
        node.graph.remove(node, safe=True)


def _in_newer_format(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in a newer version of the format, for a model in one in which every initializer must be an input.

    What the rules add is no input. The old version has initializers for constants all the same; in the newer one they
    would not be if they stayed inputs, for which whoever runs the model may give others.
    """
    if model.ir_version > INITIALIZERS_ARE_INPUTS:
        return model
    newer = onnx.ModelProto()
    newer.CopyFrom(model)
    newer.ir_version = INITIALIZERS_ARE_INPUTS + 1
    held = {tensor.name for tensor in newer.graph.initializer}
    kept = [value for value in newer.graph.input if value.name not in held]
    del newer.graph.input[:]
    newer.graph.input.extend(kept)
    return newer


def apply_rules(
    rules: Sequence[GraphRule], graph: ir.Model, where: dict[str, Counter[str]] | None = None
) -> Counter[str]:
    """Wherever they can be applied, until there is nothing left to do; how often each was, by its title.

    `where` is told the same by the paths of modules, rule by rule.
    """
    applied: Counter[str] = Counter()
    where = defaultdict(Counter) if where is None else where
    for _ in range(MAX_ROUNDS):
        counts = {rule.title: apply_rule(rule, graph, where[rule.title]) for rule in rules}
        applied.update(counts)
        if not any(counts.values()):
            break
        SIZES(graph)
    return applied


def apply_rule(rule: GraphRule, graph: ir.Model, where: Counter[str] | None = None) -> int:
    """Wherever it can be applied, once; how often that was, and in `where` of which modules."""
    rule.begin(graph)

    rewrite_match: Callable[..., Any] = rule.rewrite

    def rewrite(*given: Any, **matched: Any) -> Any:
        path = None if rule.accepted is None else _path_of(rule.accepted)
        result = rewrite_match(*given, **matched)
        if where is not None and path is not None and result is not None:
            where[path] += 1
        return result

    rewritings = [
        RewriteRule(pattern, rewrite, rule.check, name=rule.title, remove_nodes=False) for pattern in rule.patterns()
    ]
    together = RewriteRuleSet(rewritings, commute=rule.commutes)
    for each in together:
        hurried(each)
    count: int = together.apply_to_model(graph)
    if count:
        _join_reshapes(graph)
    return count


def _join_reshapes(graph: ir.Model) -> None:
    """A Reshape of a Reshape is one.

    The library calls the new sizes after the result, and lets them replace what has that name, such as those of a
    result that was called so before: they get other names first.
    """
    names = {value.name for value in graph.graph.initializers.values()}
    for value in list(graph.graph.initializers.values()):
        if value.name is not None and value.name.endswith("/shape"):
            numbered = (f"{value.name}_{number}" for number in itertools.count(1))
            value.name = next(name for name in numbered if name not in names)
            names.add(value.name)
    RewriteRuleSet([reshape_reshape_rule]).apply_to_model(graph)
