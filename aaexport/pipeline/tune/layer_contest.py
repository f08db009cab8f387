"""One augmented layer → how long each way to write out its attention takes, and the one to take.

What is timed is the layer without the convolution beside its attention: pooling, queries, keys and values, attention,
projection, exported as `convert` exports them. That convolution is the same for every candidate, and in small maps
takes so much longer than attention that its noise would decide.

Every candidate first has a process to itself: for the memory of its first query, a block of warm latencies, and its
parity. Those much slower than the best are dropped. The others take turns in warm blocks, each in a process of its
own, and who begins changes from round to round.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from aaexport.capture.input_name import INPUT_NAME
from aaexport.device import parse_device
from aaexport.errors import AaexportError, MeasurementError, ParityError, ProviderError, RunnerError
from aaexport.load.contest import settle
from aaexport.load.single_stream import BlockPlan
from aaexport.load.statistics import typical
from aaexport.nn.augmented import AugmentedConv2d
from aaexport.nn.choice import MAX_BLOCKS, AttentionSizes, Choice, cached_blocks
from aaexport.parity import Case, Computation, OutputParity, ParityReport, Truth, compare, tolerances
from aaexport.pipeline.bench.contender import Contender
from aaexport.pipeline.bench.worker_models import WorkerSpec
from aaexport.pipeline.convert.convert import convert
from aaexport.pipeline.export.plan import ATTENTION_OPSET, unmeasured
from aaexport.pipeline.subject.subject import with_decomposition
from aaexport.recipe import DecompositionName
from aaexport.results import Candidate, TunedLayer
from aaexport.runners.base import Arrays
from aaexport.runners.ort import OrtRunner
from aaexport.runners.ort_settings import EXACT
from aaexport.runners.torch import TorchRunner

ROUNDS = 6
WARMUP = 0.1
MIN_QUERIES = 3  # a round
PATIENCE = 10  # a round may last this many times longer than planned to reach its queries
CLEARLY_SLOWER = 2.0  # times the best at first look: not worth a process and a turn
SAMPLES = 16
PARITY_IMAGES = 2  # no candidate depends on how many there are, and the definition's logits in float64 are large
OUTPUT_NAME = "output"
FAILURES = (RunnerError, MeasurementError)  # of one candidate; the others go on

Tick = Callable[[str, float], None]


@dataclass(frozen=True)
class Conditions:
    """Under which all candidates are timed; `duration` is of each one's rounds together, in seconds.

    `opset` is that of their files, `untuned_opset` that of a file without a tuning, which says who the incumbent is,
    if it is another.
    """

    opset: int
    images: int
    device: str
    threads: int | None
    duration: float
    seed: int
    untuned_opset: int | None = None

    @property
    def block(self) -> BlockPlan:
        """One round."""
        seconds = self.duration / ROUNDS
        return BlockPlan(WARMUP, seconds, MIN_QUERIES, max(seconds, 1.0) * PATIENCE)


def candidates(sizes: AttentionSizes, opset: int, images: int) -> tuple[Choice, ...]:
    """What is tried: the paper's own way as the baseline, and every other in the blocks that may pay.

    Those are one, as many as the caches ask for, half of them and twice as many. Without relative tables `skew`,
    `table`, `shift` and `fold` are one and the same.
    """
    names: list[DecompositionName] = ["table", "shift", "fold"] if sizes.relative else ["fold"]
    if opset >= ATTENTION_OPSET:
        names.append("fused")
    cached, most = cached_blocks(sizes, images), min(MAX_BLOCKS, sizes.positions)
    blocks = sorted({min(max(count, 1), most) for count in (1, cached // 2, cached, cached * 2)})
    baseline = [Choice("skew")] if sizes.relative else []
    tried = [*baseline, *(Choice(name, count) for name in names for count in blocks)]
    return tuple(dict.fromkeys([*tried, unmeasured(sizes, opset, images)]))


class LayerContest:
    """One layer and its inputs; files go to `scratch`, which is the caller's to remove."""

    def __init__(self, layer: AugmentedConv2d, conditions: Conditions, scratch: Path) -> None:
        self.sizes, self.conditions, self.scratch = layer.sizes, conditions, scratch
        self.input_shape = (layer.in_channels, layer.height, layer.width)
        self.layer = copy.deepcopy(layer).eval()
        self.layer.conv = None
        rng = np.random.default_rng(conditions.seed)
        count = max(min(conditions.images, SAMPLES), PARITY_IMAGES)
        self.samples = rng.standard_normal((count, *self.input_shape), dtype=np.float32)
        np.save(self._samples_path, self.samples)

    def run(self, paths: tuple[str, ...], tick: Tick, choices: Sequence[Choice] | None = None) -> TunedLayer:
        """Times the `choices`, `candidates` by default; `paths` name the layers that the choice will hold for.

        Raises:
            ParityError: none of them is inside the parity bound.
            MeasurementError: none of them ran.
            ProviderError: the device does not work here.
        """
        conditions = self.conditions
        target = parse_device(conditions.device)[0]
        incumbent = unmeasured(self.sizes, conditions.untuned_opset or conditions.opset, conditions.images, target)
        if choices is None:
            choices = candidates(self.sizes, conditions.opset, conditions.images)
            choices = tuple(dict.fromkeys((*choices, incumbent)))
        expected, baseline = self._torch_answers(torch.float64), self._torch_answers(torch.float32)
        tried: dict[Choice, Candidate] = {}
        for number, choice in enumerate(choices):
            tick(f"first look at {choice}", number / len(choices) / 2)
            tried[choice] = self._first_look(choice, expected, baseline)
        if all(candidate.failure is not None for candidate in tried.values()):
            raise self._nothing_left(paths, tuple(tried.values()))
        tried |= self._take_turns(_worth_a_turn(tried.values(), incumbent), tick)
        rounds = {choice: candidate.rounds for choice, candidate in tried.items() if candidate.rounds}
        if not rounds:
            raise MeasurementError(f"no decomposition of {paths[0]} ran to the end; {_last_words(tried.values())}")
        verdict = settle(rounds, incumbent)
        return TunedLayer(
            self.sizes, paths, tuple(tried.values()), verdict.winner, incumbent, verdict.rival, verdict.ratio
        )

    def _first_look(self, choice: Choice, expected: Arrays, baseline: Arrays) -> Candidate:
        """Memory, then time, then parity: what cannot run in a process of its own must not run in this one."""
        self._export(choice)
        images = self.conditions.images
        try:
            with Contender(self._spec(choice)) as contender:
                memory = contender.peak_memory(images)
                latencies = contender.block(images, self.conditions.block)
        except FAILURES as error:
            return _failed(Candidate(choice), error)
        looked_at = Candidate(choice, latencies, peak_memory=memory)
        try:
            with OrtRunner(self._path(choice), EXACT, device=self.conditions.device) as runner:
                actual = runner.infer({INPUT_NAME: self.samples[:PARITY_IMAGES]})
        except FAILURES as error:
            return _failed(looked_at, error)
        truth = Truth(Case("random inputs", self.samples[:PARITY_IMAGES]), expected, baseline, {})
        (parity,) = compare(truth, actual, tolerances("float32", parse_device(self.conditions.device)[0]))
        return replace(looked_at, max_abs_error=parity.max_abs_error, failure=parity.failure)

    def _take_turns(self, those: Sequence[Candidate], tick: Tick) -> dict[Choice, Candidate]:
        entered = {candidate.choice: candidate for candidate in those}
        with ExitStack() as stack:
            contenders = {choice: stack.enter_context(Contender(self._spec(choice))) for choice in entered}
            for number in range(ROUNDS):
                tick(f"round {number + 1} of {ROUNDS}", (1 + number / ROUNDS) / 2)
                # Whoever goes later runs on a warmer machine: they take turns in that too.
                for choice in list(entered)[:: 1 if number % 2 == 0 else -1]:
                    entered[choice] = self._one_round(entered[choice], contenders[choice])
        return entered

    def _one_round(self, candidate: Candidate, contender: Contender) -> Candidate:
        """The candidate with one round more, or as it is if it has failed before."""
        if candidate.failure is not None:
            return candidate
        try:
            latencies = contender.block(self.conditions.images, self.conditions.block)
        except FAILURES as error:
            return _failed(candidate, error)
        return replace(candidate, rounds=(*candidate.rounds, latencies))

    def _export(self, choice: Choice) -> None:
        self.layer.decomposition, self.layer.blocks = choice.decomposition, choice.blocks
        opset, target = self.conditions.opset, parse_device(self.conditions.device)[0]
        shape = self.input_shape
        convert(self.layer, self._path(choice), input_shape=shape, opset=opset, target=target, verify=False)

    def _torch_answers(self, dtype: torch.dtype) -> Arrays:
        """The definition's, as `verify` has it."""
        module = with_decomposition(self.layer, "skew")
        runner = TorchRunner(module, (INPUT_NAME,), (OUTPUT_NAME,), input_shape=self.input_shape, dtype=dtype)
        with runner:
            return runner.infer({INPUT_NAME: self.samples[:PARITY_IMAGES]})

    def _nothing_left(self, paths: tuple[str, ...], tried: tuple[Candidate, ...]) -> AaexportError:
        if any(candidate.first_look is not None for candidate in tried):
            outputs = tuple(
                OutputParity(str(one.choice), paths[0], one.failure, max_abs_error=one.max_abs_error) for one in tried
            )
            device = self.conditions.device
            row = tolerances("float32", parse_device(device)[0]).row
            report = ParityReport(paths[0], (Computation(f"onnxruntime on {device}", "device", row, outputs),))
            message = f"no decomposition of {paths[0]} is inside the parity bound; {_last_words(tried)}"
            return ParityError(message, report)
        remedy = "where memory is what lacks, a smaller --batch takes less of it"
        return MeasurementError(f"no decomposition of {paths[0]} could be run; {_last_words(tried)}; {remedy}")

    def _spec(self, choice: Choice) -> WorkerSpec:
        where = (self.conditions.device, self.conditions.threads)
        return WorkerSpec("onnxruntime", str(self._path(choice)), str(self._samples_path), *where)

    def _path(self, choice: Choice) -> Path:
        return self.scratch / f"{choice.decomposition}_{choice.blocks}.onnx"

    @property
    def _samples_path(self) -> Path:
        return self.scratch / "samples.npy"


def _worth_a_turn(tried: Iterable[Candidate], incumbent: Choice) -> list[Candidate]:
    """Those inside the parity bound that are not clearly slower than the best of them, and the incumbent.

    Clearly means that even its quickest query is: on a busy machine a block can be slow, or one query lucky.
    """
    sound = [candidate for candidate in tried if candidate.failure is None]
    looks = {one.choice: one.first_look for one in sound if one.first_look is not None}
    limit = CLEARLY_SLOWER * min(typical([look]) for look in looks.values())
    return [one for one in sound if looks[one.choice].min() <= limit or one.choice == incumbent]


def _failed(candidate: Candidate, error: AaexportError) -> Candidate:
    """Not one candidate's failure, but everyone's: a provider that does not work is raised again."""
    if isinstance(error, ProviderError):
        raise error
    return replace(candidate, rounds=(), failure=str(error))


def _last_words(tried: Iterable[Candidate]) -> str:
    *_, last = (candidate for candidate in tried if candidate.failure is not None)
    return f"{last.choice}: {last.failure}"
