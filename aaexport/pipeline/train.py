"""(model folder) → trained weights in it."""

from __future__ import annotations

from pathlib import Path

from aaexport.errors import ArgumentError
from aaexport.folder import ModelFolder, find_model
from aaexport.training import TrainResult, Watcher, train_folder


def train(
    model: str | Path | ModelFolder,
    *,
    device: str | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    resume: bool = False,
    download: bool = False,
    watcher: Watcher | None = None,
) -> TrainResult:
    """Trains a model folder by its recipe; writes weights.safetensors, golden.safetensors and train.jsonl.

    Args:
        model: a model folder; a zoo model must be checked out first (`aaexport.folder.checkout`).
        device: `cpu`, `cuda` or `cuda:N`; CUDA where torch can use it by default, in the recipe's `gpu_precision`.
        epochs, seed: replace the recipe's.
        resume: goes on from checkpoint.pt, bit for bit on the CPU.
        download: lets the data set be fetched from the network.
        watcher: is told every batch and epoch.

    Raises:
        ArgumentError: a zoo model by name, or an argument breaks its rule.
        DataError, TrainingError, ProviderError: as `aaexport.training.train_folder`.
    """
    folder = model if isinstance(model, ModelFolder) else find_model(model)
    if folder.is_zoo:
        raise ArgumentError(f"model must be a folder to train in, got the zoo's {folder.name}; copy it first")
    return train_folder(
        folder,
        device=device,
        epochs=epochs,
        seed=seed,
        resume=resume,
        download=download,
        watcher=watcher,
    )
