"""Models to be compared → whether they have one budget, by their recipes, before anything is trained or copied."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from aaexport.errors import ArgumentError, TrainingError, broken_rule
from aaexport.folder import ModelFolder
from aaexport.training.options import TrainOptions, require_classifier


def require_comparable(models: Sequence[ModelFolder], options: TrainOptions, device: str) -> None:
    """Refuses what `compare_training` would refuse of the models' recipes, before they are copied.

    Args:
        device: where they are to be trained, `cpu` or `cuda`.

    Raises:
        ArgumentError: fewer than two models, or one folder twice.
        TrainingError: a network without a classifier, or the models' budgets differ.
    """
    for model in models:
        require_classifier(model)
    require_one_budget(by_name(models), options, device)


def by_name(folders: Sequence[ModelFolder]) -> dict[str, ModelFolder]:
    """The folders by the names that the table calls them: their own, or their paths where two share one."""
    if len(folders) < 2:
        raise ArgumentError(broken_rule("models", "be at least two", len(folders)))
    twice = [str(path) for path, count in Counter(folder.path.resolve() for folder in folders).items() if count > 1]
    if twice:
        raise ArgumentError(broken_rule("models", "be different folders", twice[0], "name each once"))
    names = Counter(folder.name for folder in folders)
    return {folder.name if names[folder.name] == 1 else str(folder.path): folder for folder in folders}


def _budget(folder: ModelFolder, options: TrainOptions, device: str) -> dict[str, object]:
    """What models must have in common to be compared, by the names that people give it."""
    recipe = options.applied_to(folder.recipe)
    path = recipe.data.path and (folder.path / recipe.data.path).resolve()
    return {
        "[training] epochs": recipe.training.epochs,
        "[training] batch_size": recipe.training.batch_size,
        **{f"[data] {key}": value for key, value in vars(recipe.data).items()},
        "[data] path": path,
        "[input] channels, height and width": recipe.input.shape,
        "[input] labels": recipe.input.labels,
        "the precision": options.precision_on(device, recipe),
    }


def require_one_budget(folders: dict[str, ModelFolder], options: TrainOptions, device: str) -> None:
    """TrainingError if the models differ in what they must have in common."""
    (first, wanted), *others = ((name, _budget(folder, options, device)) for name, folder in folders.items())
    for name, budget in others:
        for key, value in budget.items():
            if value != wanted[key]:
                values = f"{wanted[key]} for {first} and {value} for {name}"
                raise TrainingError(f"models must be compared under one budget, got {key} {values}; make them equal")
