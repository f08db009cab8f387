"""A file, or a runtime, that computes something else → the first node where it does."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from aaexport.graph.evaluate import EVALUATOR
from aaexport.graph.files import read_onnx
from aaexport.graph.intermediate import (
    NodeFacts,
    changed_constants,
    changed_nodes,
    input_names,
    namesakes,
    output_names,
    read_nodes,
)
from aaexport.graph.metadata import Provenance
from aaexport.graph.outside import Room
from aaexport.graph.serialized import Serialized
from aaexport.parity import Case, Divergence
from aaexport.pipeline.export.export import Exported, export, export_again
from aaexport.pipeline.subject.subject import Subject, with_decomposition
from aaexport.pipeline.verify.search import BUDGET, OTHER_WAY, Search, live_tensors
from aaexport.pipeline.verify.sides import Side, Start, Trusted
from aaexport.pipeline.verify.traced import TracedSide
from aaexport.recipe import DEFAULT_OPSET
from aaexport.runners.base import Runner
from aaexport.runners.ort import OrtRunner
from aaexport.runners.ort_settings import AS_WRITTEN, UNOPTIMIZED
from aaexport.runners.reference import ReferenceRunner

BY_NUMBERS = "by their numbers: at or before this node"
VANISHED = "in nodes that the runtime fuses: with all tensors asked for, the difference vanishes"


def locate_in_file(
    path: Path,
    subject: Subject,
    provenance: Provenance | None,
    case: Case,
    exported: Exported | None = None,
    changed_initializers: Collection[str] = (),
    room: Room | None = None,
) -> Divergence | None:
    """Where a file parts from the same model exported afresh, both computed as they are written.

    Args:
        path: the file.
        subject: the model that it should hold.
        provenance: what its metadata tells of its making.
        case: inputs for which it is wrong.
        exported: what it should be, where that is at hand.
        changed_initializers: names of those known to hold other numbers than the model.
        room: for the weights of a large model that is exported afresh.

    Raises:
        ExportError, GraphError: the file cannot be read, or the model not be exported.
        RunnerError: onnxruntime refuses the fresh export.
    """
    exported = exported or export_again(subject, provenance, room) or _exported_plainly(subject, room)
    model = read_onnx(path)
    nodes = read_nodes(model)
    fresh = max((exported.model, exported.written_by_torch), key=lambda each: len(namesakes(nodes, read_nodes(each))))
    wrong = changed_constants(model, fresh).union(changed_initializers)
    accused = {node.name for node in nodes if wrong.intersection(node.inputs)}
    changed = dict.fromkeys(accused, ()) | changed_nodes(model, fresh)
    suspect, trusted = Side(model, as_written, "the file"), Side(fresh, as_written, "the model exported afresh")
    return locate(suspect, trusted, case, changed=changed, accused=accused)


def locate_in_export(exported: Exported, case: Case) -> Divergence | None:
    """Where torch's exporter wrote something else than PyTorch computes."""
    suspect = Side(exported.written_by_torch, as_written, "the graph that torch's exporter wrote")
    return locate(
        suspect, TracedSide(exported.program, suspect.output_names, "the module, traced by torch.export"), case
    )


def locate_in_rules(exported: Exported, case: Case) -> Divergence | None:
    """Where aaexport's graph rules changed the function that torch's exporter wrote."""
    suspect = Side(exported.model, as_written, "the graph after aaexport's rules")
    trusted = Side(exported.written_by_torch, as_written, "the graph that torch's exporter wrote")
    return locate(suspect, trusted, case)


def locate_in_runtime(
    path: Path, start: Start, name: str, case: Case, *, kernels: bool = False, slack: float = OTHER_WAY
) -> Divergence | None:
    """Where a runtime parts from onnxruntime on the CPU without its optimizer, for the same file.

    Args:
        path: the file.
        start: loads a model without a file into the runtime.
        name: what the runtime is called in the report.
        case: inputs for which it is wrong.
        kernels: whether that onnxruntime itself is in doubt: then onnx's reference evaluator is trusted.
        slack: units in the last place of a tensor's largest number that it may be off by.
    """
    model = read_onnx(path)
    by_evaluator, unoptimized = (ReferenceRunner, EVALUATOR), (as_written, UNOPTIMIZED)
    trusted = Side(model, *(by_evaluator if kernels else unoptimized))
    suspect = Side(model, start, name)
    return locate(suspect, trusted, case, slack=slack) or _locate_fused(suspect, trusted, case, slack)


def as_written(model: Serialized) -> Runner:
    """Loads a model into onnxruntime on the CPU, its optimizer off: every node is computed as it stands."""
    return OrtRunner(model, AS_WRITTEN)


def locate(
    suspect: Side,
    trusted: Trusted,
    case: Case,
    *,
    changed: Mapping[str, tuple[str, ...]] | None = None,
    accused: Collection[str] = (),
    slack: float | None = None,
    budget: int = BUDGET,
) -> Divergence | None:
    """The first node of `suspect` whose output differs from the trusted one although its inputs do not.

    Tensors are compared with their namesakes, and those that have none with all trusted ones. Where names tell
    nothing, all are looked for among all trusted ones, by what does not depend on the order of their numbers.

    Args:
        suspect, trusted: what is wrong, and what is right.
        case: the inputs.
        changed: names of nodes known to be written otherwise, with what is different. If there are any, only they
            can be at fault; and one of them is, however small the difference.
        accused: names of nodes whose numbers are known to be wrong: where it may be one of several nodes, it is they.
        slack: units in the last place that a tensor may be off by; by default 4 if both models are alike, else 256.
        budget: bytes of tensors of one model held at a time.

    Returns:
        None if no difference reaches an output.

    Raises:
        RunnerError: the trusted model does not run.
    """
    search = Search(suspect, trusted, case, slack, budget)
    by_numbers = not search.names_tell
    if by_numbers:
        search.compare_by_numbers()
    else:
        search.compare()
        search.match_unnamed()
    changed = {} if by_numbers or changed is None else changed
    node = search.first_diverging(accused)
    if (node is None or (changed and node.name not in changed)) and search.stopped is None:
        node = _nearest_changed(search.nodes, node, accused) or _nearest_changed(search.nodes, node, changed) or node
    if node is None:
        return None
    found = search.describe(node, changed.get(node.name, ()))
    return replace(found, compared_with=f"{trusted.name}, {BY_NUMBERS}") if by_numbers else found


def _locate_fused(suspect: Side, trusted: Side, case: Case, slack: float) -> Divergence | None:
    """Where the outputs differ although no tensor does once all are asked for: between two narrow places.

    Only tensors through which all that follows must pass are looked at, one at a time, so that the runtime may fuse
    what lies between them as it does in the whole model.
    """
    places = _narrow_places(suspect)
    found = _divergence_at(places[-1], suspect, trusted, case, slack)
    low, high = 0, len(places) - 1
    while found is not None and low < high:
        middle = (low + high) // 2
        earlier = _divergence_at(places[middle], suspect, trusted, case, slack)
        if earlier is None:
            low = middle + 1
        else:
            found, high = earlier, middle
    if found is None:
        return None
    begin = f"between {places[low - 1][0]} and here, " if low else ""
    return replace(found, hints=(f"{begin}{VANISHED}", *found.hints))


def _divergence_at(
    place: tuple[str, ...], suspect: Side, trusted: Side, case: Case, slack: float
) -> Divergence | None:
    """The node that writes the first of the tensors of `place` that differs while nothing else is asked for."""
    search = Search(suspect, trusted, case, slack, BUDGET)
    search.chunks = [place]
    search.compare()
    if search.stopped:
        return search.describe(search.stopped[0], ())
    nodes = (node for node in search.nodes for name in node.outputs if name in search.errors.keys() - search.agreeing)
    return next((search.describe(node, ()) for node in nodes), None)


def _narrow_places(side: Side) -> list[tuple[str, ...]]:
    """Tensors of which each alone determines all that follows, in order, and in the end the outputs."""
    nodes, outputs = read_nodes(side.model), output_names(side.model)
    fed = set(input_names(side.model))
    begin = max((index for index, node in enumerate(nodes) if fed.intersection(node.inputs)), default=0)
    places = [live_tensors(nodes[:end], nodes[end:], outputs) for end in range(begin + 1, len(nodes))]
    return [*dict.fromkeys(place for place in places if len(place) == 1), outputs]


def _nearest_changed(
    nodes: Sequence[NodeFacts], node: NodeFacts | None, changed: Collection[str]
) -> NodeFacts | None:
    """The last changed node on the way to `node`; without a `node`, the first changed one of all."""
    if node is None:
        return next((each for each in nodes if each.name in changed), None)
    needed = set(node.inputs)
    for each in reversed(nodes[: nodes.index(node)]):
        if needed.intersection(each.outputs):
            if each.name in changed:
                return each
            needed.update(each.inputs)
    return None


def _exported_plainly(subject: Subject, room: Room | None) -> Exported:
    """The model as `convert` writes it when nothing else is asked for."""
    module = with_decomposition(subject.module, None).requires_grad_(False)
    return export(subject, module, opset=DEFAULT_OPSET, batch="dynamic", target="cpu", room=room)
