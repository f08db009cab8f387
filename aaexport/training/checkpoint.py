"""A run between two epochs ↔ checkpoint.pt, with what the run was begun with."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any, NoReturn

import torch

from aaexport.errors import TrainingError, first_line
from aaexport.folder import ModelFolder, sha256
from aaexport.recipe import Recipe
from aaexport.training.options import TrainOptions
from aaexport.writing import atomic_path

KEYS = {"identity", "finished", "learner", "records", "notes", "processes"}
GLIMPSES = "glimpses"  # of a training that somebody followed; older checkpoints have none
REMEDY = "resume with the options and the model.toml that it was begun with, or delete it to begin anew"
ABSENT = "not given"


def identity(
    folder: ModelFolder, recipe: Recipe, options: TrainOptions, precision: str, images: tuple[int, int]
) -> dict[str, str]:
    """Everything that decides the numbers of a run but its machine, by the names that people give it.

    `gpu_precision` is there as what it comes to, the data set as how many `images` its training and test part have.
    Keys that have their default are left out, so that a later version may add some.
    """
    tables = {"data": recipe.data.stated(), "training": recipe.training.stated()}
    values = {f"[{table}] {key}": str(value) for table, keys in tables.items() for key, value in keys.items()}
    values.pop("[training] gpu_precision", None)
    given = {
        "init": _digest(options.init_path(), folder),
        "accumulate": options.accumulate if options.accumulate > 1 else None,
        "compile": options.compile or None,
        "channels_last": options.channels_last or None,
    }
    values |= {f"--{name.replace('_', '-')}": str(value) for name, value in given.items() if value is not None}
    height, width = recipe.input.size
    return {
        "the image size": f"{height}×{width}",
        "[network], [attention] or [input]": recipe.digest()[:12],
        **values,
        "the data set": f"{images[0]} + {images[1]} images",
        "the precision": precision,
    }


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint, atomically."""
    checkpoint = io.BytesIO()  # through memory, so that a full disk is the operating system's error
    torch.save(state, checkpoint)
    with atomic_path(path) as temporary:
        temporary.write_bytes(checkpoint.getbuffer())


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The checkpoint at `path`, its tensors on the CPU. TrainingError if it is damaged or something else."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    # Of a damaged file the unpickler raises whatever the damage leads it to.
    except Exception as error:
        raise TrainingError(f"{path} must be a whole checkpoint, but: {_cause(error)}; delete it") from error
    if not isinstance(state, dict) or set(state) - {GLIMPSES} != KEYS:
        raise TrainingError(f"{path} must be a checkpoint of this version's `aaexport train`; delete it")
    return state


def require_identity(path: Path, begun: dict[str, str], now: dict[str, str]) -> None:
    """TrainingError, naming the first difference, unless the checkpoint belongs to this very run."""
    for name in dict.fromkeys((*begun, *now)):
        before, after = begun.get(name, ABSENT), now.get(name, ABSENT)
        if before != after:
            raise TrainingError(f"{path} belongs to another run: {name} was {before}, is {after}; {REMEDY}")


def refuse(path: Path, error: Exception) -> NoReturn:
    """TrainingError for a checkpoint that has the run's identity and does not fit its network."""
    cause = f"{path} must fit the network, but: {_cause(error)}"
    raise TrainingError(f"{cause}; it was written by another version of aaexport: delete it to begin anew") from error


def records_as_dicts(records: list[Any]) -> list[dict[str, Any]]:
    """For the checkpoint and the log."""
    return [dataclasses.asdict(record) for record in records]


def _digest(init: Path | None, folder: ModelFolder) -> str | None:
    """The file's sha256; of the folder's own weights, which the run itself replaces, only that it was them."""
    if init is None:
        return None
    replaced = {folder.weights_path.resolve(), folder.best_path.resolve()}
    return "the folder's own weights" if init.resolve() in replaced else sha256(init)[:12]


def _cause(error: Exception) -> str:
    """The first sentence of an error's text: torch goes on with advice that is not ours."""
    return first_line(error).partition(". ")[0].rstrip(".:")
