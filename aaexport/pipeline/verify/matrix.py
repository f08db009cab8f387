"""(subject, file, what is wanted) → every computation judged on every kind of input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from aaexport.capture.input_name import INPUT_NAME
from aaexport.errors import AaexportError, ArgumentError, broken_rule
from aaexport.graph.evaluate import EVALUATOR, REFERENCE_MACS
from aaexport.graph.files import GraphSummary
from aaexport.graph.metadata import Provenance
from aaexport.parity import Accuracy, Array, Case, Computation, OutputParity, ParityReport, Stage
from aaexport.pipeline.export.export import as_converted
from aaexport.pipeline.subject.subject import Subject, decompositions_of
from aaexport.pipeline.verify.computations import Judge
from aaexport.pipeline.verify.feeding import fixed_batch
from aaexport.pipeline.verify.inputs import DEAR_MACS, gather_inputs
from aaexport.pipeline.verify.memory import Memory
from aaexport.pipeline.verify.options import VerifyOptions, check_runtimes
from aaexport.pipeline.verify.rows import REFERENCE, Row, file_rows, for_webgpu, suits_reference, torch_row
from aaexport.runners.web import LABELS, why_no_webgpu

Say = Callable[[str], None]
LEAST_CASES = 2
ILL_CONDITIONED = 1e-3  # PyTorch's own error in float32 ÷ the largest output, beyond which parity says little


class Matrix:
    """Rows × cases of one verification.

    `alive` is what the file has in tensors at a time (`bytes_alive`), for one image or the batch that it fixes.

    Raises:
        DataError: the inputs that are wanted cannot be read or do not fit.
    """

    def __init__(
        self,
        subject: Subject,
        summary: GraphSummary,
        options: VerifyOptions,
        alive: int | None = None,
        say: Say = lambda step: None,
    ) -> None:
        self.subject, self.summary, self.options, self._say = subject, summary, options, say
        self.inputs = gather_inputs(subject, options.inputs, options.seed)
        image = summary.inputs[0].shape[2:]
        self.fixed = fixed_batch(summary)
        self.judge = Judge(subject, say)
        self.notes = list(self.inputs.notes)
        self.is_cut_short = False
        self.is_dear = (summary.macs or 0) > DEAR_MACS
        self.memory = Memory(options.most_bytes(summary.bytes), alive, self.fixed)
        self.cases = self._affordable(tuple(self._cases()))
        if self.fixed is not None:
            self.notes.append(f"the file fixes the batch at {self.fixed}: no other size was tried")
            if options.batch not in (None, self.fixed):
                self.notes[-1] += f", nor {options.batch}"
        self.failures: list[str] = []
        if not all(isinstance(size, int) for size in image):
            self.cases += tuple(self._of_other_sizes())

    def _cases(self) -> Iterator[Case]:
        """Of as many images as the memory holds, and fewer where one takes long."""
        sizes = self.inputs.sizes(self.fixed, self.options.batch, dear=self.is_dear)
        single, shape = self.judge.baseline, self.subject.input_shape
        most = self.memory.images(max(sizes), single, self.judge.limit, self.summary.path, shape)
        most = max(most, min(sizes))
        self.memory.leave_out(sizes, most)
        if self.is_dear and self.fixed is None and self.subject.golden is None and self.options.most_macs is None:
            left = [str(size) for size in self.inputs.sizes(None, self.options.batch) if size not in sizes]
            self.notes.append(
                f"{self._cost} an image: no batch of {' and '.join(left)} was tried (`aaexport verify --batch N` "
                "does), and what is not about the batch was one image"
            )
        cases = self.inputs.cases(self.fixed, self.options.batch, most, dear=self.is_dear)
        if "web" not in (self.options.runtimes or ()):
            return cases
        # What a page proves itself by on its button is asked here too.
        return chain(cases, self.inputs.golden_cases(self.fixed, 1 if self.is_dear and self.fixed is None else most))

    @property
    def _cost(self) -> str:
        return f"{(self.summary.macs or 0) / 1e9:.0f} G MACs"

    def _announce(self, rows: Sequence[Row]) -> None:
        """How much there is to do, of a file that will take its time."""
        if not self.is_dear:
            return
        images = sum(len(case.batch) for case in self.cases)
        asked = "" if self.subject.golden is not None else "PyTorch in float64, PyTorch in float32 and "
        what = f"{_many(len(self.cases), 'input')}, {_many(images, 'image')} of {self._cost} each"
        self._say(f"asking {asked}{_many(len(rows), 'runtime')} for {what}")

    def rows(self, path: Path, provenance: Provenance | None, stage: Stage) -> tuple[Row, ...]:
        """PyTorch as the file has the layers, where that is not the definition itself, then whatever runs the file.

        `stage` is what is to blame if the file is wrong by whatever computes it.
        """
        options = self.options
        if self.is_cut_short:
            return file_rows(path, self.summary, ["onnxruntime"], options.device, options.judged, self.memory, stage)
        runtimes = check_runtimes(options.runtimes, options.device)
        if "reference" in runtimes and not suits_reference(self.summary):
            macs = "an unknown number of MACs" if self.summary.macs is None else f"{self.summary.macs:,} MACs"
            if options.runtimes is not None:
                rule = f"be for files of up to {REFERENCE_MACS:,} MACs if it is reference"
                raise ArgumentError(broken_rule("runtimes", rule, macs, "take unoptimized instead"))
            self.notes.append(f"onnx's reference evaluator is too slow for {macs}: not run")
        elif "reference" in runtimes:
            self._bound_evaluator()
        webgpu = "web" in runtimes and self._has_webgpu()
        of_file = file_rows(path, self.summary, runtimes, options.device, options.judged, self.memory, stage, webgpu)
        module = as_converted(self.subject, provenance)
        if module is None or (how := decompositions_of(module)) in ("skew", "none"):
            return of_file
        return (torch_row(self.subject, module, how, options.judged, self.judge.limited), *of_file)

    def _has_webgpu(self) -> bool:
        """Whether a browser here does WebGPU, and the CPU can imitate it for such a file; noted either way."""
        why_not = "the CPU would imitate it for too long" if not suits_reference(self.summary) else why_no_webgpu()
        if why_not is not None:
            self.notes.append(f"{LABELS['webgpu']} was not run: {why_not}")
            return False
        asked = sum(for_webgpu(case) for case in self.cases)
        self.notes.append(
            f"{LABELS['webgpu']} is imitated by the CPU here: asked {asked} of {len(self.cases)} inputs"
        )
        return True

    def _bound_evaluator(self) -> None:
        """Notes what onnx's evaluator has no room for. ArgumentError if that is all and somebody asked for it."""
        if self.options.runtimes is not None:
            self.memory.require_evaluator()
        sizes = {len(case.batch) for case in self.cases}
        self.memory.leave_out_evaluator(n for n in sizes if (self.summary.macs or 0) * n <= REFERENCE_MACS)

    def filled(self, report: ParityReport, rows: Sequence[Row]) -> ParityReport:
        """The report with every row judged, and the accuracy and the placement of the last of them."""
        self._announce(rows)
        self.judge.judge(rows, self.cases)
        self._try_sizes(rows)
        accuracy = self._accuracy(rows[-1])
        computations = _evaluator_in_doubt(tuple(row.result() for row in rows), narrows=self.summary.narrows)
        placement = next((row.placement for row in reversed(rows) if row.placement is not None), None)
        fallen_back = placement.fallen_back if placement is not None else None
        warnings = (
            *self.inputs.warnings,
            *self.judge.warnings,
            *(line for each in computations for line in each.warnings),
            *_ill_conditioned(computations),
            *([fallen_back] if fallen_back else []),
        )
        return replace(
            report,
            structure=(*report.structure, *self.failures),
            computations=computations,
            notes=(
                *report.notes,
                *self.notes,
                *self.memory.all_notes(),
                *(f"set by hand: {one}" for one in self.options.judged.on("cpu").by_hand),
            ),
            warnings=(*report.warnings, *warnings),
            accuracy=accuracy,
            placement=placement,
        )

    def _try_sizes(self, rows: Sequence[Row]) -> None:
        """Every batch that a live service takes, of images that were judged already."""
        for row in rows:
            if not row.sizes or row.failure is not None:
                continue
            images = self._images(row.sizes[-1])
            if images is None:
                self.notes.append(f"{row.name}: no other batches were tried than those of the golden vectors")
                continue
            batches = ((images[:size], np.zeros(size, np.int64)) for size in row.sizes)
            with row.open() as runner:
                for _ in self.judge.judge_more(row, runner, batches, f"batches 1–{row.sizes[-1]}"):
                    pass

    def _images(self, count: int) -> Array | None:
        """So many ordinary ones, those of the cases in turn; None where nobody can tell what comes of others."""
        if self.subject.golden is not None:
            return None
        held = [case.batch for case in self.cases if case.kind == "ordinary" and not case.degenerate]
        images = np.concatenate(held)
        return images[np.arange(count) % len(images)]

    def _affordable(self, cases: tuple[Case, ...]) -> tuple[Case, ...]:
        """As many as may be computed, small ordinary ones first; two at least, of two batch sizes where there are."""
        budget, macs = self.options.most_macs, self.summary.macs
        if budget is None or macs is None or len(cases) <= LEAST_CASES:
            return cases
        if macs * sum(len(case.batch) for case in cases) <= budget:
            return cases
        order = sorted(cases, key=lambda case: (case.kind != "ordinary", case.degenerate, len(case.batch)))
        self.is_cut_short = True
        other = next((case for case in order if len(case.batch) != len(order[0].batch)), order[1])
        chosen = [order[0], other]
        images = sum(len(case.batch) for case in chosen)
        for case in (case for case in order if case is not order[0] and case is not other):
            if macs * (images + len(case.batch)) <= budget:
                chosen.append(case)
                images += len(case.batch)
        left_out = f"{len(cases) - len(chosen)} of {len(cases)} inputs were left out, and all runtimes but one"
        self.notes.append(f"{self._cost} an image: {left_out}; `aaexport verify` tries them all")
        names = {case.name for case in chosen}
        return tuple(case for case in cases if case.name in names)

    def _of_other_sizes(self) -> Iterator[Case]:
        """Images of other sizes, for a file that says that it takes them, as far as PyTorch and the memory do."""
        if not self.memory.holds_other_sizes():
            return
        channels, height, width = self.subject.input_shape
        rng = np.random.default_rng(self.options.seed)
        for size in ((2 * height, width), (height, 2 * width)):
            case = Case(
                f"{size[0]}×{size[1]}, batch 1",
                rng.standard_normal((self.fixed or 1, channels, *size), dtype=np.float32),
            )
            try:
                self.judge.baseline.infer({INPUT_NAME: case.batch})
            except AaexportError:
                text = f"height and width must be fixed, got open ones: PyTorch takes no {size[0]}×{size[1]}"
                # Somebody's module may take other sizes than these; what ours take is known.
                (self.notes if self.subject.recipe is None else self.failures).append(text)
            else:
                yield case

    def _accuracy(self, served: Row) -> Accuracy | None:
        """By PyTorch and by the row that is nearest to what will be served; the scores are judged as well."""
        if served.failure is not None or any(o.failure and o.max_abs_error is None for o in served.outputs):
            return None  # nothing that could be compared: scores of another shape, say
        batches = self.inputs.labelled_batches(self.fixed, self.summary.macs, self.memory.labelled)
        if (first := next(batches, None)) is None:
            return None
        judged_before = len(served.outputs)
        scores = self.subject.output_names[0]
        seen, right = 0, [0, 0]
        with served.open() as runner:
            batches = chain([first], batches)
            for labels, *answers in self.judge.judge_more(served, runner, batches):
                seen += len(labels)
                right = [
                    count + _rightly(answer, scores, labels) for count, answer in zip(right, answers, strict=True)
                ]
        if not seen or any(output.max_abs_error is None for output in served.outputs[judged_before:]):
            return None
        return Accuracy(seen, right[0] / seen, right[1] / seen)


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _rightly(answer: Mapping[str, Array] | None, scores: str, labels: Array) -> int:
    """How many images the output `scores` classifies rightly; none if it is not there or of another shape."""
    given = None if answer is None else answer.get(scores)
    if given is None or given.ndim != 2 or len(given) != len(labels):
        return 0
    return int((given.argmax(axis=1) == labels).sum())


def _evaluator_in_doubt(computations: tuple[Computation, ...], *, narrows: bool) -> tuple[Computation, ...]:
    """Where onnx's evaluator stands alone against PyTorch and every onnxruntime, the file is right.

    But not where the file `narrows` numbers and it computes ordinary inputs otherwise: onnxruntime takes liberties
    with casts, and leaves them out. What it cannot run says nothing of a file that a runtime did run, right or wrong.
    """
    reference = next((done for done in computations if done.name == REFERENCE), None)
    runtimes = [done for done in computations if done.name.startswith("onnxruntime CPU")]
    if reference is None or not any(done.outputs and done.failure is None for done in runtimes):
        return computations
    is_alone = all(done.passed for done in runtimes)
    if is_alone and narrows:
        is_alone = all(_could_not_run(o) or o.extreme for o in reference.outputs if o.failure)
    ran = {o.case for done in runtimes for o in done.outputs if "cannot run" not in (o.failure or "")}
    outputs = tuple(
        replace(o, failure=None, warning=o.failure or o.warning)
        if is_alone or (_could_not_run(o) and o.case in ran)
        else o
        for o in reference.outputs
    )
    if reference.failure is not None:  # it could not even load the file
        names = dict.fromkeys(output.output for done in runtimes for output in done.outputs)
        outputs = tuple(
            OutputParity("every input", name, None, warning=reference.failure, compared=False) for name in names
        )
    cleared = replace(reference, failure=None, outputs=outputs)
    return tuple(cleared if done is reference else done for done in computations)


def _could_not_run(output: OutputParity) -> bool:
    """Whether onnx's evaluator refused, and gave no numbers."""
    return EVALUATOR in (output.failure or "")


def _ill_conditioned(computations: Sequence[Computation]) -> list[str]:
    """A warning if float32 itself is hardly the function: then agreement within its error is little."""
    worst = max(
        (
            output.baseline_max_abs_error / output.max_abs_expected
            for computation in computations
            for output in computation.outputs
            if not output.extreme and output.baseline_max_abs_error is not None and output.max_abs_expected
        ),
        default=0.0,
    )
    if worst <= ILL_CONDITIONED:
        return []
    return [f"PyTorch itself is off by {worst:.1e} of the largest output in float32: parity says little there"]
