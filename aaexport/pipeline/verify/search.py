"""Two models on the same inputs → which of the tensors inside them agree, and the first node after which they do not.

Both are asked for the tensors inside them, a chunk at a time and one model after the other, so that the memory stays
bounded. A tensor that differs matters only if the difference reaches an output: rules that move a factor from one
operator into another change the numbers between the two, and rightly so.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from aaexport.errors import ProviderError, RunnerError
from aaexport.graph.intermediate import (
    NodeFacts,
    constant_shapes,
    constants_of,
    namesakes,
    plan_chunks,
)
from aaexport.parity import Array, Case, Divergence, ErrorStep, TensorFacts
from aaexport.parity.hints import another_preprocessing, constant_hints, other_axis, tensor_hints
from aaexport.parity.tensors import facts, fingerprint, relative_error, unit
from aaexport.pipeline.verify.sides import Side, Trusted, each_once

BUDGET = 256 * 2**20  # bytes of a model's tensors that are held at a time
# What a tensor may differ by from another way of computing it, in units in the last place of its largest number. The
# same nodes give the same bits; 16 units of float16 are as much as the tolerance table allows an output.
SAME_WAY, OTHER_WAY, OTHER_WAY_COARSE = 4.0, 256.0, 16.0
MAX_STEPS = 12
NEVER = TensorFacts("none", (), None, None, None, None, 0)  # of a tensor that was not computed
_STOPPED = (re.compile(r"running \S+ node\. Name:'([^']+)'"), re.compile(r"Node ?\(([^)]+)\) Op ?\("))


@dataclass
class Search:
    """What is known of the tensors of `suspect` so far.

    Attributes:
        nodes: of the suspect, in order.
        names: tensor of the suspect → its namesake.
        errors: of each tensor compared so far; None where it cannot be subtracted.
        agreeing: the tensors that are as they should be.
        stopped: the node that the runtime could not run, and what it said.
    """

    suspect: Side
    trusted: Trusted
    case: Case
    slack: float | None
    budget: int
    nodes: tuple[NodeFacts, ...] = ()
    names: dict[str, str] = field(default_factory=dict)
    errors: dict[str, float | None] = field(default_factory=dict)
    agreeing: set[str] = field(default_factory=set)
    stopped: tuple[NodeFacts, str] | None = None

    def __post_init__(self) -> None:
        self.nodes, others = self.suspect.nodes, self.trusted.nodes
        self.tensors = self.suspect.tensors
        found = namesakes(self.nodes, others)
        self.names = {name: found[name] for name in self.tensors if name in found}
        self.alike = [_outline(node) for node in self.nodes] == [_outline(node) for node in others]
        self.outputs = self.suspect.output_names
        self.chunks = self._plan(self.suspect, list(self.names))

    @property
    def names_tell(self) -> bool:
        """Whether most tensors have a namesake that the same operator computes: tools may use old names for others.

        Of a program the names are all there is: what its nodes give need not be tensors.
        """
        if not isinstance(self.trusted, Side):
            return True
        known = {name: node.operator for node in self.trusted.nodes for name in node.outputs}
        own = {name: node.operator for node in self.nodes for name in node.outputs}
        same = [name for name, other in self.names.items() if known[other] in ("", own[name])]
        return 2 * len(same) >= len(self.tensors)

    def compare(self) -> None:
        """Compares chunk by chunk; in models that are alike, the first difference is a fault, and the end."""
        for chunk in self.chunks:
            self._compare_chunk(chunk)
            if self.stopped or (self.alike and any(name not in self.agreeing for name in chunk)):
                return

    def match_unnamed(self) -> None:
        """Looks among all trusted tensors for those without a namesake that might be where the difference begins.

        A node that only passes a tensor on is no fault. Here the order of the numbers counts: it may be the fault.
        """
        if self.stopped or not isinstance(self.trusted, Side):
            return
        asked = {name for node in self._suspicious() for name in node.outputs} - self.names.keys()
        unnamed = self._plan(self.suspect, [name for name in self.tensors if name in asked])
        known = self._plan(self.trusted, self.trusted.tensors) if unnamed else []
        for names in unnamed:
            given = self._given_away(names)
            for wanted in (array for chunk in known for array in self.trusted.run(chunk, self.case).values()):
                self.agreeing.update(name for name, array in given.items() if self._is(array, wanted))

    def compare_by_numbers(self) -> None:
        """Looks for each tensor among all trusted ones, and compares outputs with the ones of the same name."""
        trusted = self.trusted
        assert isinstance(trusted, Side), "a program is compared by its names"
        known = np.stack([print_ for prints in self._fingerprints(trusted) for print_ in prints.values()])
        limit = OTHER_WAY * float(np.finfo(np.float32).eps)
        for prints in self._fingerprints(self.suspect):
            for name, given in prints.items():
                near = np.abs(known[:, 1:] - given[1:]).max(axis=1) <= limit * np.abs(given[1:]).max()
                if bool(np.any(near & (known[:, 0] == given[0]))):
                    self.agreeing.add(name)
        expected = trusted.output_names
        self.names = {name: name for name in self.outputs if name in expected}
        self.agreeing -= self.names.keys()
        self.chunks = [tuple(self.names)]
        self._compare_chunk(self.chunks[0])

    def first_diverging(self, accused: Collection[str] = ()) -> NodeFacts | None:
        """The first node with a tensor from which a difference goes all the way to an output.

        Where nodes before it have tensors that could not be compared, it may be any of them: then one whose name is
        in `accused`, or else the first.
        """
        if self.stopped and all(name in self.agreeing for name in self.errors):
            return self.stopped[0]
        found = self._suspicious()
        return next((node for node in found if node.name in accused), found[0] if found else None)

    def _suspicious(self) -> list[NodeFacts]:
        """On the ways of a difference to an output: the first node that was seen to differ, behind all before it of
        which that is not known.
        """
        differing = {name for name in self.errors if name not in self.agreeing}
        reached = differing if self.alike or self.stopped else differing.intersection(self.outputs)
        found: list[NodeFacts] = []
        for node in reversed(self.nodes):
            if any(name in reached and name not in self.agreeing for name in node.outputs):
                found = [node] if differing.intersection(node.outputs) else [node, *found]
                reached = reached.union(node.inputs)
        return found

    def describe(self, node: NodeFacts, changes: Sequence[str]) -> Divergence:
        """The report on `node`, its tensor computed once more."""
        tensor = self._tensor_to_show(node)
        blank = Divergence(
            node.name,
            node.operator,
            tensor,
            node.module,
            self.case.name,
            self.trusted.name,
            NEVER,
            NEVER,
            None,
            self._growth(node),
            tuple(changes),
        )
        if self.stopped and node is self.stopped[0]:
            return replace(blank, hints=(self.stopped[1], *changes))
        chunk = next(chunk for chunk in self.chunks if tensor in chunk)
        actual = self.suspect.run(self._runnable(chunk), self.case)[tensor]
        expected = self.trusted.run(each_once(self.names[name] for name in chunk), self.case)[self.names[tensor]]
        error = relative_error(actual, expected)
        hints = (*changes, *self._input_hints(node), *self._constant_hints(node), *tensor_hints(actual, expected))
        if node.operator == "Softmax":
            hints = (*hints, *filter(None, [other_axis(actual, expected)]))
        error = None if error is None or not np.isfinite(error) else error
        return replace(blank, expected=facts(expected), actual=facts(actual), relative_error=error, hints=hints)

    def _compare_chunk(self, chunk: Sequence[str]) -> None:
        chunk, actual = self._run_suspect(chunk)
        expected = self.trusted.run(each_once(self.names[name] for name in chunk), self.case) if chunk else {}
        for name in chunk:
            given, wanted = actual.pop(name), expected[self.names[name]]
            self.errors[name] = error = relative_error(given, wanted)
            if error is not None and error <= self._limit(given, wanted):
                self.agreeing.add(name)

    def _given_away(self, names: Sequence[str]) -> dict[str, Array]:
        """The tensors `names` of the suspect; none where the runtime has a type among them that numpy has not."""
        try:
            return self.suspect.run(names, self.case)
        except RunnerError:
            return {}

    def _is(self, actual: Array, expected: Array) -> bool:
        """Whether a tensor of any name is that one; what rounds it to a coarser type does more than pass it on."""
        error = relative_error(actual, expected)
        return error is not None and error <= self._limit(expected, expected)

    def _run_suspect(self, chunk: Sequence[str]) -> tuple[Sequence[str], dict[str, Array]]:
        """What the runtime gives of `chunk`; where it refuses to load, it may name a later node than when it runs."""
        while chunk:
            try:
                return chunk, self.suspect.run(chunk, self.case)
            except ProviderError:
                raise
            except RunnerError as error:
                self.stopped = self._stopping_node(chunk, error), str(error)
                chunk = self._runnable(chunk)
        return (), {}

    def _limit(self, actual: Array, expected: Array) -> float:
        step = unit(actual.dtype, expected.dtype)
        if self.slack is not None:
            return self.slack * step
        coarse = step > float(np.finfo(np.float32).eps)
        return step * (SAME_WAY if self.alike else OTHER_WAY_COARSE if coarse else OTHER_WAY)

    def _plan(self, side: Trusted, names: Sequence[str]) -> list[tuple[str, ...]]:
        return plan_chunks(names, side.sizes(len(self.case.batch)), self.budget)

    def _fingerprints(self, side: Side) -> Iterable[dict[str, Array]]:
        for chunk in self._plan(side, side.tensors):
            arrays = side.run(chunk, self.case)
            yield {name: fingerprint(arrays.pop(name)) for name in chunk}

    def _stopping_node(self, chunk: Sequence[str], error: RunnerError) -> NodeFacts:
        """The node that the runtime names, or else the first one without which it runs."""
        for pattern in _STOPPED:
            found = pattern.search(str(error))
            named = [node for node in self.nodes if found is not None and node.name == found[1]]
            if named:
                return named[0]
        low, high = 0, max(i for i, node in enumerate(self.nodes) if set(node.outputs) & set(chunk))
        while low < high:
            middle = (low + high) // 2
            try:
                self.suspect.run(
                    live_tensors(self.nodes[: middle + 1], self.nodes[middle + 1 :], self.outputs), self.case
                )
                low = middle + 1
            except RunnerError:
                high = middle
        return self.nodes[low]

    def _runnable(self, chunk: Sequence[str]) -> tuple[str, ...]:
        """What of `chunk` does not need the node that could not be run."""
        if self.stopped is None:
            return tuple(chunk)
        before = self.nodes[: self.nodes.index(self.stopped[0])]
        written = {name for node in before for name in node.outputs}
        return tuple(name for name in chunk if name in written)

    def _tensor_to_show(self, node: NodeFacts) -> str:
        """Its own output, or else the nearest one behind it that was compared and differs."""
        own = [name for name in node.outputs if name in self.errors]
        own.sort(key=lambda name: name in self.agreeing)
        if own or (self.stopped and node is self.stopped[0]):
            return own[0] if own else node.outputs[0]
        behind = set(node.outputs)
        for each in self.nodes[self.nodes.index(node) + 1 :]:
            if behind.intersection(each.inputs):
                behind.update(each.outputs)
                differing = [name for name in each.outputs if name in self.errors and name not in self.agreeing]
                if differing:
                    return differing[0]
        return next(name for name in reversed(self.errors))

    def _growth(self, node: NodeFacts) -> tuple[ErrorStep, ...]:
        """Back from `node`, at every step to the input with the largest error; thinned where the way is long."""
        writer = {name: each for each in self.nodes for name in each.outputs}
        steps: list[ErrorStep] = []
        while True:
            known = [(self.errors.get(name), name) for name in node.inputs if name in writer]
            compared = [(error, name) for error, name in known if error is not None]
            if not compared:
                break
            error, name = max(compared, key=lambda pair: pair[0])
            node = writer[name]
            steps.append(ErrorStep(node.name, node.operator, node.module, error))
        kept = np.linspace(len(steps) - 1, 0, min(MAX_STEPS, len(steps))).round().astype(int)
        return tuple(steps[index] for index in kept)

    def _input_hints(self, node: NodeFacts) -> tuple[str, ...]:
        """What the network is fed instead, where the node reads the image or what pointwise operators make of it."""
        if not isinstance(self.trusted, Side) or not self.suspect.near_input.intersection(node.inputs):
            return ()
        right = self.trusted.fed(self.case)
        found = (another_preprocessing(array, right, self.case.batch) for array in self.suspect.fed(self.case))
        return each_once(hint for hint in found if hint)

    def _constant_hints(self, node: NodeFacts) -> tuple[str, ...]:
        """What became of the node's initializers, where they have namesakes in the trusted model.

        They may hold what others of the same module should: a layer has tables of its own.
        """
        held = constants_of(self.suspect.model, node)
        neighbours = (each for each in self.nodes if each.module == node.module)
        right = self.trusted.constants(constant_shapes(self.suspect.model, neighbours))
        return tuple(
            hint
            for name, array in held.items()
            if name in right
            for hint in constant_hints(name, array, right[name], right)
        )


def live_tensors(before: Sequence[NodeFacts], behind: Sequence[NodeFacts], outputs: Sequence[str]) -> tuple[str, ...]:
    """The tensors written `before` that are read `behind`, or are outputs."""
    read = {name for node in behind for name in node.inputs}.union(outputs)
    return tuple(name for node in before for name in node.outputs if name in read)


def _outline(node: NodeFacts) -> tuple[object, ...]:
    return node.name, node.operator, node.inputs, node.outputs
