"""A training, or several compared → JSON, Markdown to paste, and what a person reads in ten seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType

from aaexport.report.layout import Facts, Words
from aaexport.training import TrainingComparison, TrainResult
from aaexport.training.compare import TimeRatio, TrainedModel
from aaexport.training.evaluation import TOP

TRAIN_SCHEMA = "aaexport.train/1"
COMPARISON_SCHEMA = "aaexport.training-comparison/1"


def train_json(result: TrainResult) -> dict[str, Any]:
    """The last accuracy, and every epoch."""
    return {
        "schema": TRAIN_SCHEMA,
        "date": result.date,
        "command": result.command,
        "folder": str(result.folder),
        "test_accuracy": result.test_accuracy,
        "test_top5": result.test_top5,
        "best_epoch": result.best_epoch,
        "device": result.device,
        "precision": result.precision,
        "processes": result.processes,
        "resumed": result.resumed,
        "notes": list(result.notes),
        "epochs": [dataclasses.asdict(epoch) for epoch in result.epochs],
    }


def train_view(result: TrainResult) -> RenderableType:
    """How the training ended."""
    last, best = result.epochs[-1], result.epochs[result.best_epoch - 1]
    device = f"{result.device}, {result.precision}"
    rows = {
        "folder": str(result.folder),
        "test accuracy": f"{result.test_accuracy:.2%} (train {last.train_accuracy:.2%})",
        **({f"test top-{TOP}": f"{result.test_top5:.2%}"} if result.classes > TOP else {}),
        "best epoch": f"{best.epoch} with {best.test_accuracy:.2%}, in best.safetensors",
        "epochs": f"{len(result.epochs)} in {_duration(result.seconds)}",
        "device": device if result.processes == 1 else f"{device}, {result.processes} processes",
    }
    return Group(Facts(rows), *(Words(f"note: {note}", "dim") for note in result.notes))


def comparison_json(comparison: TrainingComparison) -> dict[str, Any]:
    """What the table shows, and every model's training; `time_ratio` is null for the baseline."""
    return {
        "schema": COMPARISON_SCHEMA,
        "date": comparison.date,
        "command": comparison.command,
        "baseline": comparison.baseline,
        "baseline_is_convolution": comparison.against_convolution,
        "dataset": comparison.dataset,
        "batch_size": comparison.batch_size,
        "epochs_left_out": list(comparison.left_out),
        "notes": list(comparison.notes),
        "models": [_model_json(model) for model in comparison.models],
    }


def comparison_markdown(comparison: TrainingComparison) -> str:
    """A table in Markdown, its columns aligned so that it reads as it stands, and what the figures mean."""
    ratio = "AA ÷ conv time ratio" if comparison.against_convolution else f"time ÷ that of {comparison.baseline}"
    accuracies = ["top-1", f"top-{TOP}"] if comparison.classes > TOP else ["top-1"]
    header = ["model", "parameters", *accuracies, "epochs", "training time", "time per epoch", ratio]
    rows = [_row(model, len(accuracies)) for model in comparison.models]
    return "\n".join((*_markdown_table([header, *rows]), "", *_captions(comparison)))


def _model_json(model: TrainedModel) -> dict[str, Any]:
    return {
        "model": model.name,
        "parameters": model.parameters,
        "augmented": model.augmented,
        "training_seconds": model.result.seconds,
        "epoch_seconds": model.epoch_seconds,
        "time_ratio": None if model.ratio is None else dataclasses.asdict(model.ratio),
        "training": train_json(model.result),
    }


def _row(model: TrainedModel, accuracies: int) -> list[str]:
    result = model.result
    shares = [f"{share:.2%}" for share in (result.test_accuracy, result.test_top5)[:accuracies]]
    times = [_duration(result.seconds), short_duration(model.epoch_seconds), _ratio(model.ratio)]
    return [model.name, f"{model.parameters:,}", *shares, str(len(result.epochs)), *times]


def _captions(comparison: TrainingComparison) -> list[str]:
    first = comparison.models[0].result
    processes = f", {first.processes} processes" if first.processes > 1 else ""
    pairs = next((model.ratio.pairs for model in comparison.models if model.ratio is not None), 0)
    left_out = f", without {_epochs(comparison.left_out)}" if comparison.left_out else ""
    ratio = f"median of {pairs} pair{'s' if pairs > 1 else ''} of epochs (lowest–highest){left_out}"
    notes = dict.fromkeys((*comparison.notes, *(note for model in comparison.models for note in model.result.notes)))
    return [
        f"{comparison.dataset}, batch {comparison.batch_size}, {first.device}, {first.precision}{processes}; "
        "accuracy of the last epoch on the test part.",
        "Trained in turn, epoch by epoch; times are of training and evaluation; "
        f"ratio to {comparison.baseline}: {ratio}.",
        *(f"Note: {note}." for note in notes),
    ]


def _markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first row is the header and the first column the names; everything else is aligned to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return [
        "| " + " | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) + " |"
        for row in (rows[0], rule, *rows[1:])
    ]


def _ratio(ratio: TimeRatio | None) -> str:
    return "1" if ratio is None else f"{ratio.median:.2f} ({ratio.lowest:.2f}–{ratio.highest:.2f})"


def _epochs(numbers: Sequence[int]) -> str:
    return f"epoch{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _duration(seconds: float) -> str:
    """Two units: a training takes seconds or days."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def short_duration(seconds: float) -> str:
    """Three digits of an epoch that takes less than a minute."""
    return f"{seconds:#.3g} s" if seconds < 60 else _duration(seconds)
