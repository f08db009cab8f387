"""(model, ONNX file) → ParityReport: the file against the definition in float64, on real and random inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from aaexport.data import LabelledImages, load_images, normalised
from aaexport.device import parse_device
from aaexport.errors import ArgumentError, DataError, FolderError, GraphError, RunnerError, broken_rule
from aaexport.folder import ModelFolder, write_json
from aaexport.graph.check import check_model
from aaexport.graph.files import GraphSummary, read_onnx, summarize
from aaexport.graph.metadata import read_metadata
from aaexport.parity import (
    TOLERANCES,
    Accuracy,
    Array,
    OutputParity,
    ParityReport,
    Tolerance,
    compare,
)
from aaexport.pipeline.subject import ImageShape, Subject, as_subject, with_decomposition
from aaexport.program import INPUT_NAME
from aaexport.report.machine import parity_json
from aaexport.runners.base import Runner
from aaexport.runners.ort import OrtRunner
from aaexport.runners.torch import TorchRunner
from aaexport.weights import weights_digest

BATCHES = (1, 2, 7)
ACCURACY_BATCH = 64
FIXED_BATCHES = 100


def verify(
    model: nn.Module | str | Path | ModelFolder,
    onnx: str | Path | None = None,
    *,
    input_shape: ImageShape | None = None,
    device: str = "cpu",
    atol: float | None = None,
    rtol: float | None = None,
    seed: int = 0,
) -> ParityReport:
    """Runs an ONNX file through onnxruntime and judges it against `model` (DESIGN: truth is float64).

    Inputs are held-out images of the recipe's data set, where it can be had offline, and seeded normal numbers,
    each at batch 1, 2 and 7, or at the batch that the file fixes. A wrong file is a failed report, not an
    exception.

    Args:
        model: a zoo name, a model folder, or a module in float32 (then `input_shape` = (C, H, W) is needed).
        onnx: the file; the folder's model.onnx by default.
        input_shape: of one image, for a module.
        device: `cpu`, `cuda` or `cuda:N`, for onnxruntime; PyTorch's side always runs on the CPU.
        atol, rtol: replace those of the tolerance table (`aaexport.parity.TOLERANCES`).
        seed: of the random inputs and of the choice of images.

    Raises:
        GraphError: the file is not a whole ONNX model: it could not be verified.
        ProviderError: onnxruntime cannot use `device` here.
        Others as `aaexport.convert` raises for `model`.
    """
    subject = as_subject(model, input_shape)
    path = _onnx_path(subject, onnx)
    report = verify_subject(subject, path, device=device, atol=atol, rtol=rtol, seed=seed)
    if subject.folder is not None and path == subject.folder.onnx_path:
        write_json(subject.folder.parity_path, parity_json(report))
        subject.folder.write_manifest()
    return report


def verify_subject(
    subject: Subject,
    path: Path,
    *,
    device: str = "cpu",
    atol: float | None = None,
    rtol: float | None = None,
    seed: int = 0,
    named: Path | None = None,
) -> ParityReport:
    """As `verify`, for a subject at hand; `named` is what the report calls the file."""
    tolerance = tolerance_for(device, atol, rtol)
    summary = summarize(path)
    unfit = _input_failures(summary, subject)
    structure = (*_structure(path), *unfit, *_output_failures(summary, subject), *_staleness(summary, subject))
    report = ParityReport(str(named or path), f"onnxruntime on {device}", tolerance, (), structure)
    try:
        runner = OrtRunner(path, device=device, exact=True)
    except RunnerError as error:
        if type(error) is not RunnerError:
            raise  # a provider that does not work says nothing about the file
        return replace(report, structure=(*structure, str(error)))
    with runner:
        if unfit:
            return replace(report, runner=runner.label)
        return _compare_all(replace(report, runner=runner.label), subject, runner, seed)


def _compare_all(report: ParityReport, subject: Subject, runner: OrtRunner, seed: int) -> ParityReport:
    images, notes = _held_out_images(subject)
    fixed = runner.inputs[0].shape[0]
    if fixed is not None:
        notes = (*notes, f"the file fixes the batch at {fixed}: no other size was tried")
    cases = tuple(_cases(subject, images, BATCHES if fixed is None else (fixed,), seed))
    # All of PyTorch first, then all of onnxruntime: in turns, each would run against the other's idle threads.
    definition, baseline = _torch_runner(subject, torch.float64), _torch_runner(subject, torch.float32)
    expected = [definition.infer({INPUT_NAME: case.batch}) for case in cases]
    own = [baseline.infer({INPUT_NAME: case.batch}) for case in cases]
    torch_accuracy = None if images is None else _accuracy(images, subject, baseline, fixed)
    outputs: list[OutputParity] = []
    for case, truth, plain in zip(cases, expected, own, strict=True):
        try:
            actual = runner.infer({runner.inputs[0].name: case.batch})
        except RunnerError as error:
            outputs += [OutputParity(case.name, name, str(error)) for name in truth]
        else:
            outputs += compare(case.name, truth, plain, actual, report.tolerance)
    accuracy = None
    if (
        images is not None
        and torch_accuracy is not None
        and all(output.max_abs_error is not None for output in outputs)
    ):
        seen, share = _accuracy(images, subject, runner, fixed)
        accuracy = Accuracy(seen, torch_accuracy[1], share) if seen else None
    return replace(report, outputs=tuple(outputs), notes=(*report.notes, *notes), accuracy=accuracy)


@dataclass(frozen=True)
class _Case:
    name: str
    batch: Array  # (B, C, H, W), float32


def _cases(subject: Subject, images: LabelledImages | None, batches: Sequence[int], seed: int) -> Iterator[_Case]:
    """Different images and different numbers in every case, all decided by `seed`."""
    generator = torch.Generator().manual_seed(seed)
    for size in batches:
        if images is not None and subject.recipe is not None:
            index = torch.randint(len(images), (size,), generator=generator)
            batch = normalised(images, subject.recipe.input, index)
            yield _Case(f"images, batch {size}", batch.numpy())
        noise = torch.randn(size, *subject.input_shape, generator=generator)
        yield _Case(f"random, batch {size}", noise.numpy())


def _accuracy(images: LabelledImages, subject: Subject, runner: Runner, fixed: int | None) -> tuple[int, float]:
    """How many held-out images, and the share that the first output classifies rightly.

    A file that fixes its batch is given whole batches only, and no more than `FIXED_BATCHES` of them.
    """
    assert subject.recipe is not None
    right = seen = 0
    for index in torch.arange(len(images)).split(fixed or ACCURACY_BATCH):
        if fixed is not None and (len(index) != fixed or seen >= fixed * FIXED_BATCHES):
            break
        batch = normalised(images, subject.recipe.input, index).numpy()
        scores = runner.infer({runner.inputs[0].name: batch})[subject.output_names[0]]
        right += int((scores.argmax(axis=1) == images.labels[index].numpy()).sum())
        seen += len(index)
    return seen, right / seen if seen else 0.0


def _held_out_images(subject: Subject) -> tuple[LabelledImages | None, tuple[str, ...]]:
    if subject.recipe is None:
        return None, ("a bare module has no data set: random inputs only",)
    try:
        return load_images(subject.recipe, "test"), ()
    except DataError as error:
        return None, (f"random inputs only: {error}",)


def _torch_runner(subject: Subject, dtype: torch.dtype) -> TorchRunner:
    # The paper's own decomposition is the definition, in float32 too: a fault in another one, exported or not, must
    # not pass for PyTorch's own error.
    module = with_decomposition(subject.module, "skew")
    return TorchRunner(module, (INPUT_NAME,), subject.output_names, input_shape=subject.input_shape, dtype=dtype)


def _structure(path: Path) -> tuple[str, ...]:
    try:
        check_model(read_onnx(path))
    except GraphError as error:
        return (str(error),)
    return ()


def _input_failures(summary: GraphSummary, subject: Subject) -> tuple[str, ...]:
    failures = []
    if len(summary.inputs) != 1:
        failures.append(f"the file must have one input, got {len(summary.inputs)}")
    for tensor in summary.inputs[:1]:
        fits = len(tensor.shape) == 4 and all(
            got == want or not isinstance(got, int)
            for got, want in zip(tensor.shape[1:], subject.input_shape, strict=False)
        )
        if not fits:
            wanted = ("batch", *subject.input_shape)
            failures.append(broken_rule(f"input {tensor.name}", f"have the shape {wanted}", tensor.shape))
        if tensor.dtype != "float":
            failures.append(broken_rule(f"input {tensor.name}", "be of float", tensor.dtype))
        if tensor.shape and isinstance(tensor.shape[0], int) and tensor.shape[0] < 1:
            failures.append(broken_rule(f"input {tensor.name}", "have a batch of at least 1", tensor.shape))
    return tuple(failures)


def _output_failures(summary: GraphSummary, subject: Subject) -> tuple[str, ...]:
    names = [tensor.name for tensor in summary.outputs]
    if sorted(names) == sorted(subject.output_names):
        return ()
    return (broken_rule("outputs", f"be {list(subject.output_names)}", names),)


def _staleness(summary: GraphSummary, subject: Subject) -> tuple[str, ...]:
    provenance = read_metadata(summary.metadata)
    if provenance is None:
        return ()
    failures = []
    remedy = "the file is stale: convert again"
    if provenance.weights_digest != weights_digest(subject.module):
        failures.append(f"the file must hold the model's weights, but their digests differ; {remedy}")
    recipe = subject.recipe
    if recipe is not None and provenance.recipe_digest not in (None, recipe.digest()):
        failures.append(f"the file must be made from this recipe, but their digests differ; {remedy}")
    return tuple(failures)


def tolerance_for(device: str, atol: float | None, rtol: float | None) -> Tolerance:
    """The tolerance table's row for float32 on `device`, with what was set by hand.

    Raises:
        ArgumentError: `device` is unknown, or `atol` or `rtol` is negative or not a number.
    """
    tolerance = TOLERANCES["float32", parse_device(device)[0]]
    for name, value in (("atol", atol), ("rtol", rtol)):
        if value is not None and not (np.isfinite(value) and value >= 0):
            raise ArgumentError(broken_rule(name, "be at least 0 and finite", value))
    if atol is None and rtol is None:
        return tolerance
    atol = tolerance.atol if atol is None else atol
    rtol = tolerance.rtol if rtol is None else rtol
    return replace(tolerance, atol=atol, rtol=rtol, reason=f"atol or rtol set by hand; {tolerance.reason}")


def _onnx_path(subject: Subject, onnx: str | Path | None) -> Path:
    if onnx is not None:
        return Path(onnx)
    if subject.folder is None:
        raise ArgumentError("onnx must be given for a module, got None")
    if not subject.folder.onnx_path.is_file():
        remedy = f"write it with `aaexport convert {subject.folder.path}`"
        raise FolderError(f"{subject.folder.path} has no model.onnx yet; {remedy}")
    return subject.folder.onnx_path
