"""Models trained in turn under one budget → what each came to, and the ratio of their times."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Unpack

from aaexport.errors import TrainingError
from aaexport.folder import ModelFolder
from aaexport.nn.own_settings import own_settings, torch_threads
from aaexport.outcome import Outcome, presenter, verb
from aaexport.overrides import overridden
from aaexport.training.budget import by_name, require_one_budget
from aaexport.training.distributed import Processes, joined
from aaexport.training.options import TrainOptions, TrainOverrides, folder_to_train
from aaexport.training.records import TrainResult, Watcher
from aaexport.training.run import Run, load_parts

FEWEST_TO_LEAVE_OUT = 3  # epochs; of fewer the first one is too much of what there is


@dataclass(frozen=True)
class TimeRatio:
    """A model's time ÷ the baseline's, epoch by epoch."""

    median: float
    lowest: float
    highest: float
    pairs: int


@dataclass(frozen=True)
class TrainedModel:
    """One model of a comparison.

    Attributes:
        parameters: how many numbers were learned.
        augmented: whether it has attention.
        epoch_seconds: the median of the epochs that count, training and evaluation.
        ratio: None of the baseline itself.
    """

    name: str
    parameters: int
    augmented: bool
    result: TrainResult
    epoch_seconds: float
    ratio: TimeRatio | None


@dataclass(frozen=True, repr=False)
class TrainingComparison(Outcome):
    """What several models came to under one budget.

    Attributes:
        models: in the order they were named.
        baseline: the name of the model that times are divided by.
        dataset, batch_size, classes: what all have in common.
        left_out: epochs that do not count in times per epoch and ratios: the first after each start, which warms up.
        notes: what a reader of the ratios should know.
    """

    models: tuple[TrainedModel, ...]
    baseline: str
    dataset: str
    batch_size: int
    classes: int
    left_out: tuple[int, ...]
    notes: tuple[str, ...] = ()

    @property
    def against_convolution(self) -> bool:
        """Whether the baseline is a plain convolution network."""
        return not next(model.augmented for model in self.models if model.name == self.baseline)

    @property
    def headline(self) -> str:
        """What they learned, and how well."""
        models = (f"{model.name} {model.result.test_accuracy:.2%}" for model in self.models)
        return f"on {self.dataset}: test accuracy {', '.join(models)}"

    def to_markdown(self) -> str:
        """The table that `aaexport train --compare` prints."""
        return presenter().markdown(self)

    def to_html(self) -> str:
        """The page with the curves of all models, as `aaexport train --compare` writes it into every folder."""
        return presenter().page(self)


@verb
@own_settings()
def compare_training(
    models: Sequence[str | Path | ModelFolder],
    *,
    options: TrainOptions | None = None,
    watcher: Callable[[str], Watcher] | None = None,
    on_epoch: Callable[[TrainResult], None] | None = None,
    **overrides: Unpack[TrainOverrides],
) -> TrainingComparison:
    """Trains models epoch by epoch in turn, each in its folder, and compares accuracy and time.

    The turns alternate (A B, B A, A B, …), so that a drift of the machine's speed hits all models alike, and times
    are divided pair by pair. The baseline is the first plain convolution network named, else the last model.

    Args:
        models: at least two model folders, all with the same epochs, batch size and data set.
        options: as of `train`, the same for all models; `resume` goes on with each from its own checkpoint, and
            begins those that have none.
        watcher: makes, of a model's name, who watches its training.
        on_epoch: as of `train`; `folder` tells whose epoch it was.
        overrides: fields of `TrainOptions` that are to be other than in `options`, or than their defaults.

    Raises:
        ArgumentError: fewer than two models, or one folder twice.
        TrainingError: the models' budgets differ, or one of their trainings fails.
        Others as `train` does.
    """
    asked = overridden(options or TrainOptions(), overrides, compare_training)
    with joined(asked.device) as processes, torch_threads(asked.threads):
        folders = by_name([folder_to_train(model) for model in models])
        runs = _prepared(folders, asked, processes, watcher, on_epoch)
        done = [len(run.records) for run in runs.values()]
        for epoch in range(min(done) + 1, _any(runs).recipe.training.epochs + 1):
            for name, run in _turns(runs, epoch):
                _blaming(name, partial(run.train_epoch, epoch))
        for name, run in runs.items():
            _blaming(name, run.finish)
        return _compared(runs, done)


def _prepared(
    folders: dict[str, ModelFolder],
    options: TrainOptions,
    processes: Processes,
    watcher: Callable[[str], Watcher] | None,
    on_epoch: Callable[[TrainResult], None] | None,
) -> dict[str, Run]:
    """All runs, where their next epoch begins; nothing is written before every one of them can start."""
    resumed = {name for name, folder in folders.items() if options.resume and folder.checkpoint_path.is_file()}
    if options.resume and not resumed:
        raise TrainingError("none of the models has a checkpoint to resume; train without --resume")
    require_one_budget(folders, options, processes.device.type)
    first = next(iter(folders.values()))
    images = load_parts(first, options.applied_to(first.recipe), options, processes)
    runs = {}
    for name, folder in folders.items():
        own = None if watcher is None else watcher(name)
        runs[name] = Run(folder, options, processes, own, images, on_epoch)
        runs[name].start(name in resumed)
    return runs


def _turns(runs: dict[str, Run], epoch: int) -> list[tuple[str, Run]]:
    """Who trains that epoch, in order: the first to come is in the next one the last."""
    in_turn = [(name, run) for name, run in runs.items() if epoch in run.epochs_to_come()]
    return in_turn if epoch % 2 else in_turn[::-1]


def _blaming(name: str, action: Callable[[], None]) -> None:
    try:
        action()
    except TrainingError as error:
        raise TrainingError(f"{name}: {error}") from error


def _compared(runs: dict[str, Run], done: Sequence[int]) -> TrainingComparison:
    recipe = _any(runs).recipe
    baseline = next((name for name, run in runs.items() if run.recipe.attention is None), list(runs)[-1])
    left_out = _left_out(recipe.training.epochs, done)
    counted = [epoch for epoch in range(1, recipe.training.epochs + 1) if epoch not in left_out]
    seconds = {name: [run.records[epoch - 1].seconds for epoch in counted] for name, run in runs.items()}
    models = [
        TrainedModel(
            name=name,
            parameters=sum(parameter.numel() for parameter in run.learner.module.parameters()),
            augmented=run.recipe.attention is not None,
            result=run.result(),
            epoch_seconds=statistics.median(seconds[name]),
            ratio=None if name == baseline else time_ratio(seconds[name], seconds[baseline]),
        )
        for name, run in runs.items()
    ]
    earlier = f"epochs 1 to {max(done)} were timed by an earlier call"
    return TrainingComparison(
        models=tuple(models),
        baseline=baseline,
        dataset=recipe.data.dataset,
        batch_size=recipe.training.batch_size,
        classes=recipe.input.classes,
        left_out=left_out,
        notes=(earlier,) if max(done) else (),
    )


def time_ratio(own: Sequence[float], others: Sequence[float]) -> TimeRatio:
    """The quotients of two sequences of times, pair by pair, in summary."""
    ratios = [mine / other for mine, other in zip(own, others, strict=True)]
    return TimeRatio(statistics.median(ratios), min(ratios), max(ratios), len(ratios))


def _left_out(epochs: int, done: Sequence[int]) -> tuple[int, ...]:
    """The epochs that do not count: the first, and after a resume those that two calls timed or that came first.

    `done` is how many epochs each model had when this call began. Of few epochs, all count.
    """
    cold = {1, *range(min(done) + 1, max(done) + 2)} & set(range(1, epochs + 1))
    return tuple(sorted(cold)) if epochs >= FEWEST_TO_LEAVE_OUT and len(cold) < epochs else ()


def _any(runs: dict[str, Run]) -> Run:
    return next(iter(runs.values()))
