"""(model, ONNX file) → ParityReport: the file against the definition in float64, on real and random inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from aaexport.data import Images, evaluation_batch, load_images, sample
from aaexport.device import parse_device
from aaexport.errors import ArgumentError, DataError, FolderError, GraphError, RunnerError, broken_rule
from aaexport.folder import ModelFolder, find_model, write_json
from aaexport.graph.check import check_model
from aaexport.graph.files import GraphSummary, converted_size, read_onnx, summarize
from aaexport.graph.metadata import read_metadata
from aaexport.nn.augmented import augmented_layers
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
OBSERVED_ACCURACY_BATCH = 4  # with attention weights: a megabyte and more a layer, head and image
ACCURACY_IMAGES = 1000
FIXED_BATCHES = 100


def verify(
    model: nn.Module | str | Path | ModelFolder,
    onnx: str | Path | None = None,
    *,
    input_shape: ImageShape | None = None,
    size: tuple[int, int] | None = None,
    device: str = "cpu",
    atol: float | None = None,
    rtol: float | None = None,
    seed: int = 0,
) -> ParityReport:
    """Runs an ONNX file through onnxruntime and judges it against `model` (DESIGN: truth is float64).

    Inputs are held-out images of the recipe's data set, where it can be had offline, and seeded normal numbers,
    each at batch 1, 2 and 7, or at the batch that the file fixes. A wrong file is a failed report, not an
    exception. Attention weights that the file has as outputs are judged like every other output.

    Args:
        model: a zoo name, a model folder, or a module in float32 (then `input_shape` = (C, H, W) is needed).
        onnx: the file; the folder's model.onnx by default.
        input_shape: of one image, for a module.
        size: (H, W) of the images; by default the one that the file was converted for, else the recipe's.
        device: `cpu`, `cuda` or `cuda:N`, for onnxruntime; PyTorch's side always runs on the CPU.
        atol, rtol: replace those of the tolerance table (`aaexport.parity.TOLERANCES`).
        seed: of the random inputs and of the choice of images.

    Raises:
        GraphError: the file is not a whole ONNX model: it could not be verified.
        ProviderError: onnxruntime cannot use `device` here.
        Others as `aaexport.convert` raises for `model`.
    """
    folder = _folder_of(model)
    path = _onnx_path(folder, onnx)
    subject = as_subject(folder or model, input_shape, size or (None if folder is None else converted_size(path)))
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
    if _has_attention(summary) and augmented_layers(subject.module) and not subject.with_attention:
        subject = subject.observed()
    unfit = _input_failures(summary, subject)
    structure = (*_structure(path), *unfit, *_output_failures(summary, subject), *_staleness(summary, subject))
    report = ParityReport(
        str(named or path), f"onnxruntime on {device}", tolerance, (), structure, notes=_notes(subject)
    )
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
    images, chosen, notes = _held_out_images(subject, seed)
    fixed = runner.inputs[0].shape[0]
    if fixed is not None:
        notes = (*notes, f"the file fixes the batch at {fixed}: no other size was tried")
    cases = tuple(_cases(subject, images, chosen, BATCHES if fixed is None else (fixed,), seed))
    definition, baseline = _torch_runner(subject, torch.float64), _torch_runner(subject, torch.float32)
    classified = images if subject.recipe is not None and subject.recipe.network.classifies else None
    # All of PyTorch first, then all of onnxruntime: in turns, each would run against the other's idle threads. But
    # case by case where there are attention weights, because those of all cases would fill the memory.
    torch_accuracy = None if classified is None else _accuracy(classified, chosen, subject, baseline, fixed)
    outputs: list[OutputParity] = []
    for group in [(case,) for case in cases] if subject.with_attention else [cases]:
        outputs += _compare_cases(group, definition, baseline, runner, report.tolerance)
    accuracy = None
    if (
        classified is not None
        and torch_accuracy is not None
        and all(output.max_abs_error is not None for output in outputs)
    ):
        seen, share = _accuracy(classified, chosen, subject, runner, fixed)
        accuracy = Accuracy(seen, torch_accuracy[1], share) if seen else None
    return replace(report, outputs=tuple(outputs), notes=(*report.notes, *notes), accuracy=accuracy)


@dataclass(frozen=True)
class _Case:
    name: str
    batch: Array  # (B, C, H, W), float32


def _compare_cases(
    cases: Sequence[_Case], definition: TorchRunner, baseline: TorchRunner, runner: OrtRunner, tolerance: Tolerance
) -> Iterator[OutputParity]:
    expected = [definition.infer({INPUT_NAME: case.batch}) for case in cases]
    own = [baseline.infer({INPUT_NAME: case.batch}) for case in cases]
    for case, truth, plain in zip(cases, expected, own, strict=True):
        try:
            actual = runner.infer({runner.inputs[0].name: case.batch})
        except RunnerError as error:
            yield from (OutputParity(case.name, name, str(error)) for name in truth)
        else:
            yield from compare(case.name, truth, plain, actual, tolerance)


def _cases(
    subject: Subject, images: Images | None, chosen: torch.Tensor, batches: Sequence[int], seed: int
) -> Iterator[_Case]:
    """Different images and different numbers in every case, all decided by `seed`."""
    generator = torch.Generator().manual_seed(seed)
    for size in batches:
        if images is not None and subject.recipe is not None:
            index = chosen[torch.randint(len(chosen), (size,), generator=generator)]
            batch = evaluation_batch(images, subject.recipe, index)
            yield _Case(f"images, batch {size}", batch.numpy())
        noise = torch.randn(size, *subject.input_shape, generator=generator)
        yield _Case(f"random, batch {size}", noise.numpy())


def _accuracy(
    images: Images, chosen: torch.Tensor, subject: Subject, runner: Runner, fixed: int | None
) -> tuple[int, float]:
    """How many of the `chosen` images were classified, and the share that the first output classifies rightly.

    A file that fixes its batch is given whole batches only, and no more than `FIXED_BATCHES` of them.
    """
    assert subject.recipe is not None
    right = seen = 0
    for index in chosen.split(fixed or (OBSERVED_ACCURACY_BATCH if subject.with_attention else ACCURACY_BATCH)):
        if fixed is not None and (len(index) != fixed or seen >= fixed * FIXED_BATCHES):
            break
        batch = evaluation_batch(images, subject.recipe, index).numpy()
        scores = runner.infer({runner.inputs[0].name: batch})[subject.output_names[0]]
        right += int((scores.argmax(axis=1) == images.labels[index].numpy()).sum())
        seen += len(index)
    return seen, right / seen if seen else 0.0


def _held_out_images(subject: Subject, seed: int) -> tuple[Images | None, torch.Tensor, tuple[str, ...]]:
    """The data set's test part, the numbers of the images to use, and what is to be told of them."""
    if subject.recipe is None or subject.folder is None:
        return None, torch.empty(0), ("a bare module has no data set: random inputs only",)
    try:
        images = load_images(subject.recipe, "test", base=subject.folder.path)
        chosen, notes = sample(images, ACCURACY_IMAGES, seed)
    except DataError as error:
        return None, torch.empty(0), (f"random inputs only: {error}",)
    return images, chosen, (*images.notes, *notes)


def _torch_runner(subject: Subject, dtype: torch.dtype) -> TorchRunner:
    # The paper's own decomposition is the definition, in float32 too: a fault in another one, exported or not, must
    # not pass for PyTorch's own error.
    module = subject.runnable(with_decomposition(subject.module, "skew"))
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


def _has_attention(summary: GraphSummary) -> bool:
    provenance = read_metadata(summary.metadata)
    return provenance is not None and provenance.with_attention


def _staleness(summary: GraphSummary, subject: Subject) -> tuple[str, ...]:
    provenance = read_metadata(summary.metadata)
    if provenance is None:
        return ()
    failures = []
    remedy = "the file is stale: convert again"
    if provenance.weights_digest != weights_digest(subject.module):
        failures.append(f"the file must hold the model's weights, but their digests differ; {remedy}")
    folder = subject.folder
    if folder is not None and provenance.recipe_digest not in (None, folder.recipe.digest()):
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


def _folder_of(model: nn.Module | str | Path | ModelFolder) -> ModelFolder | None:
    if isinstance(model, nn.Module):
        return None
    return model if isinstance(model, ModelFolder) else find_model(model)


def _onnx_path(folder: ModelFolder | None, onnx: str | Path | None) -> Path:
    if onnx is not None:
        return Path(onnx)
    if folder is None:
        raise ArgumentError("onnx must be given for a module, got None")
    if not folder.onnx_path.is_file():
        remedy = f"write it with `aaexport convert {folder.path}`"
        raise FolderError(f"{folder.path} has no model.onnx yet; {remedy}")
    return folder.onnx_path


def _notes(subject: Subject) -> tuple[str, ...]:
    if subject.own_size is None:
        return subject.notes
    height, width = subject.own_size
    return (f"for images of {height}×{width}, which is not the recipe's size", *subject.notes)
