"""`aaexport train MODEL`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aaexport.cli import options
from aaexport.cli.console import console, say, settings, show, show_json
from aaexport.errors import AaexportError
from aaexport.folder import ModelFolder, checkout

if TYPE_CHECKING:
    from rich.progress import Progress

    from aaexport.training import Epoch, Watcher


class TrainingInterruptedError(AaexportError):
    """Ctrl-C, with how to go on."""

    exit_code = 130


@click.command("train")
@options.model
@options.out
@options.device(None, "By default CUDA where torch can use it, else the CPU.")
@click.option("--epochs", type=click.IntRange(min=1), help="Instead of the recipe's.")
@click.option("--seed", type=click.IntRange(min=0), help="Instead of the recipe's.")
@click.option("--resume", is_flag=True, help="Go on after the last finished epoch.")
@click.option("--download", is_flag=True, help="Fetch the data set from the network if it is not here.")
@options.as_json
def command(
    model: str,
    out: Path | None,
    device: str | None,
    epochs: int | None,
    seed: int | None,
    resume: bool,
    download: bool,
    as_json: bool,
) -> None:
    """Train MODEL from its recipe, on the training part of its data set.

    Writes weights.safetensors, golden.safetensors, train.jsonl and, after every epoch, checkpoint.pt.
    """
    folder = checkout(model, out, say)
    from aaexport.report.machine import train_json
    from aaexport.report.terminal import train_view
    from aaexport.training import train

    watching = _watcher(folder, epochs)
    try:
        with watching as watcher:
            result = train(
                folder,
                device=device,
                epochs=epochs,
                seed=seed,
                resume=resume,
                download=download,
                watcher=watcher,
            )
    except KeyboardInterrupt as interrupt:
        given = {"epochs": epochs, "seed": seed, "device": device}
        saved = resume or watching.epochs_saved > 0
        raise TrainingInterruptedError(_how_to_go_on(folder, given, saved)) from interrupt
    if as_json:
        show_json(train_json(result))
    else:
        show(train_view(result))


def _how_to_go_on(folder: ModelFolder, given: dict[str, int | str | None], saved: bool) -> str:
    if not saved:
        return "interrupted before the first epoch was saved: nothing was changed"
    options = [f"--{name} {value}" for name, value in given.items() if value is not None]
    command = " ".join(["aaexport train", shlex.quote(str(folder.path)), *options, "--resume"])
    return f"interrupted; the finished epochs are saved, go on with `{command}`"


def _watcher(folder: ModelFolder, epochs: int | None) -> _Lines | _Bars:
    total = epochs or folder.recipe.training.epochs
    return _Bars(total) if sys.stderr.isatty() and not settings.quiet else _Lines(total)


class _Lines:
    """One line an epoch, for logs."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.epochs_saved = 0

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *_: object) -> None: ...

    def batch(self, epoch: int, images: int, loss: float, accuracy: float, images_per_second: float) -> None: ...

    def epoch(self, record: Epoch) -> None:
        self.epochs_saved += 1
        say(_epoch_line(record, self.epochs))


class _Bars:
    """A bar an epoch, for terminals."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.epochs_saved = 0

    def __enter__(self) -> Watcher:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.progress: Progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
            console=console(sys.stderr),
        )
        self.progress.start()
        self.task = self.progress.add_task("training", total=None, numbers="")
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def batch(self, epoch: int, images: int, loss: float, accuracy: float, images_per_second: float) -> None:
        numbers = f"loss {loss:.3f}  accuracy {accuracy:.1%}  {images_per_second:,.0f} images/s"
        self.progress.update(self.task, description=f"epoch {epoch}/{self.epochs}", advance=images, numbers=numbers)

    def epoch(self, record: Epoch) -> None:
        self.epochs_saved += 1
        self.progress.console.print(_epoch_line(record, self.epochs))
        images_an_epoch = (
            self.progress.tasks[0].completed / self.epochs_saved
        )  # of this session, which may be resumed
        to_come = self.epochs - record.epoch
        self.progress.update(self.task, total=images_an_epoch * (self.epochs_saved + to_come))


def _epoch_line(record: Epoch, epochs: int) -> str:
    return (
        f"epoch {record.epoch:>3}/{epochs}  loss {record.loss:.4f}  train {record.train_accuracy:.2%}  "
        f"test {record.test_accuracy:.2%}  {record.images_per_second:,.0f} images/s"
    )
