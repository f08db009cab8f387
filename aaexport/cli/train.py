"""`aaexport train MODEL…`."""

from __future__ import annotations

import os
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from aaexport.cli import options
from aaexport.cli.collector import loading
from aaexport.cli.command import Command
from aaexport.cli.console import console, say, settings, show, show_json, show_text
from aaexport.cli.progress import steps
from aaexport.cli.spinning import spin_briefly
from aaexport.cli.training_page import TrainingPage
from aaexport.cli.types import Model, PathTo, Whole
from aaexport.device import parse_device
from aaexport.errors import AaexportError, ArgumentError
from aaexport.folder import CheckOut, ModelFolder, copies, find_model
from aaexport.recipe import check_data_set

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from aaexport.recipe import Recipe
    from aaexport.training import Epoch, Watcher
    from aaexport.training.distributed import Processes

UNDER_TORCHRUN = "LOCAL_RANK"


class TrainingInterruptedError(AaexportError):
    """Ctrl-C, with how to go on."""

    exit_code = 130


SECTIONS = {
    "The training": ("epochs", "seed", "size", "init", "resume"),
    "How it computes": ("device", "amp", "compiled", "channels_last", "accumulate", "threads"),
    "The data set": ("download", "skip_bad"),
}
EXAMPLES = (
    ("aaexport train wrn10_1_digits --epochs 2", "Trains a copy of the zoo's model for two epochs."),
    ("aaexport train wrn10_1_digits --resume", "Goes on where an interrupted training ended."),
    (
        "aaexport train aa_wrn10_1_digits wrn10_1_digits --compare --out side-by-side",
        "Trains two in turn, and prints a table of what attention costs.",
    ),
)


@click.command("train", cls=Command, sections=SECTIONS, examples=EXAMPLES)
@click.argument("models", metavar="MODEL...", type=Model(), nargs=-1, required=True)
@click.option("--out", type=PathTo("FOLDER", file_okay=False),
              help="Work on a copy in this folder, of several below it; a zoo model goes to ./NAME.")  # fmt: skip
@click.option("--compare", is_flag=True, help="Train several models in turn, and print a table of them.")
@options.device(None, "By default CUDA where torch can use it, else the CPU.")
@click.option("--epochs", type=Whole(), help="Instead of the recipe's.")
@click.option("--seed", type=Whole(0), help="Instead of the recipe's.")
@click.option("--size", type=Whole(), nargs=2, metavar="H W", help="Train on images of this size.")
@click.option(
    "--init", type=Model(), metavar="WEIGHTS|MODEL", help="Begin with these weights instead of random ones."
)
@click.option("--amp", type=click.Choice(["bf16", "fp16"]), help="Autocast; on CUDA the recipe's by default.")
@click.option("--compile", "compiled", is_flag=True, help="Train what torch.compile makes of the network.")
@click.option("--channels-last", is_flag=True, help="Keep images and weights with the channels innermost.")
@click.option("--accumulate", type=Whole(), default=1, help="Compute each batch in N parts.")
@click.option("--threads", type=Whole(), help="Of torch on the CPU; its default if not given.")
@click.option("--resume", is_flag=True, help="Go on after the last finished epoch.")
@click.option("--download", is_flag=True, help="Fetch the data set from the network if it is not here.")
@click.option("--skip-bad", is_flag=True, help="Leave out images that cannot be decoded.")
@options.as_json
def command(
    models: tuple[str, ...], out: Path | None, compare: bool, as_json: bool, compiled: bool, **given: Any
) -> None:
    """Train MODEL from its recipe, on the training part of its data set.

    Writes weights.safetensors, golden.safetensors and, after every epoch, train.jsonl, train.html with the curves,
    checkpoint.pt and best.safetensors. Under torchrun several processes train together. With --compare, models with
    one data set, batch size and number of epochs are trained in turn, the table says what attention costs, and one
    page has all curves.
    """
    _check_number(models, compare)
    given |= {"compile": compiled}
    session = _Session(models, out, compare, given)
    if UNDER_TORCHRUN not in os.environ:
        session.require_right_options()  # which need not wait for torch
    spin_briefly()
    # Of several processes one speaks: their live lines would write over each other.
    with steps(f"reading {models[0]}") if os.environ.get("RANK", "0") == "0" else nullcontext():
        from aaexport.training.distributed import AnotherProcessFailedError, joined

    try:
        with joined(given["device"]) as processes:
            session.train(processes)
    except AnotherProcessFailedError:
        raise click.exceptions.Exit(1) from None  # that one says why
    except KeyboardInterrupt as interrupt:
        raise TrainingInterruptedError(session.how_to_go_on()) from interrupt
    if processes.leads:
        session.report(as_json)


def _check_number(models: Sequence[str], compare: bool) -> None:
    if compare and len(models) < 2:
        raise click.UsageError("--compare needs at least two models")
    if len(models) > 1 and not compare:
        raise click.UsageError(f"one model is trained at a time, got {len(models)}; --compare trains several in turn")


class _Session:
    """One call of the command: its models, its options, and what came of them."""

    def __init__(self, models: Sequence[str], out: Path | None, compare: bool, given: dict[str, Any]) -> None:
        self.models, self.out, self.compare, self.given = models, out, compare, given
        self.folders: list[ModelFolder] = []
        self.epochs_saved = 0
        self.result: Any = None
        self.page: TrainingPage | None = None

    def train(self, processes: Processes) -> None:
        """Copies what must be copied, and trains; the first process shows how it goes."""
        with loading():
            from aaexport.training import compare_training, train

        tell = say if processes.leads else _say_nothing
        with ExitStack() as stack:
            check_out = stack.enter_context(copies(tell))
            self.folders = processes.led(lambda: self._to_work_in(processes.device.type, check_out))
            progress = _Bars(self) if sys.stderr.isatty() and not settings.quiet else _Lines(self)
            if processes.leads:
                stack.enter_context(progress)
            self.page = page = TrainingPage(self.folders, progress.note)
            if self.compare:
                self.result = compare_training(self.folders, watcher=progress.watcher, on_epoch=page, **self.given)
            else:
                self.result = train(self.folders[0], watcher=progress.watcher(""), on_epoch=page, **self.given)

    def report(self, as_json: bool) -> None:
        """The result, on stdout."""
        from aaexport.report import training

        for path in self.page.written if self.page is not None else ():
            say(f"wrote {path}")
        if self.compare and as_json:
            show_json(training.comparison_json(self.result))
        elif self.compare:
            show_text(training.comparison_markdown(self.result))  # as it is: a terminal's width must not break it
        elif as_json:
            show_json(training.train_json(self.result))
        else:
            show(training.train_view(self.result))

    def recipe_of(self, name: str) -> Recipe:
        """The recipe of the model of that name; of one model alone the name is empty."""
        named = (folder for folder in self.folders if name in (folder.name, str(folder.path)))
        return next(named, self.folders[0]).recipe

    def epochs_of(self, name: str) -> int:
        """How many epochs the model of that name is to have."""
        return int(self.given["epochs"] or self.recipe_of(name).training.epochs)

    def how_to_go_on(self) -> str:
        """What an interrupted run left, and the command that goes on with it."""
        if not self.folders or not (self.given["resume"] or self.epochs_saved):
            return "interrupted before the first epoch was saved: nothing was changed"
        if UNDER_TORCHRUN in os.environ:
            return "interrupted; the finished epochs are saved, go on with the same command and --resume"
        words = [shlex.quote(str(folder.path)) for folder in self.folders]
        words += ["--compare"] if self.compare else []
        command = " ".join(["aaexport train", *words, *_as_typed(self.given | {"resume": True})])
        return f"interrupted; the finished epochs are saved, go on with `{command}`"

    def require_right_options(self) -> None:
        """Refuses what the options and the recipes alone let one refuse, wherever it is to be trained."""
        device = "cpu" if self.given["device"] is None else parse_device(self.given["device"])[0]
        self._require_trainable([find_model(model) for model in self.models], device)

    def _to_work_in(self, device: str, check_out: CheckOut) -> list[ModelFolder]:
        """The models' folders, or copies; none is made where the recipes alone let the training be refused."""
        sources = [find_model(model) for model in self.models]
        self._require_trainable(sources, device)
        named = zip(self.models, [source.name for source in sources], strict=True)
        return [check_out(model, self._target(name)) for model, name in named]

    def _require_trainable(self, sources: Sequence[ModelFolder], device: str) -> None:
        from aaexport.training.budget import require_comparable
        from aaexport.training.options import TrainOptions, require_classifier

        asked = TrainOptions(**self.given)
        asked.init_path()
        if self.compare:
            require_comparable(sources, asked, device)
            self._require_names_below_out([source.name for source in sources])
        else:
            require_classifier(sources[0])
            asked.applied_to(sources[0].recipe)
        for source in sources:
            check_data_set(source.recipe.data)

    def _require_names_below_out(self, names: Sequence[str]) -> None:
        name, count = Counter(names).most_common(1)[0]
        if self.out is not None and count > 1:
            rule = f"models must have names of their own to lie below --out {self.out}"
            raise ArgumentError(f"{rule}, got {name!r} {count} times; rename a folder, or leave out --out")

    def _target(self, name: str) -> Path | None:
        return self.out / name if self.out is not None and self.compare else self.out


def _as_typed(given: dict[str, Any]) -> list[str]:
    """Options as a person types them, without those that have their default."""
    words = []
    for name, value in given.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(option)
        elif isinstance(value, tuple):
            words.append(f"{option} {' '.join(map(str, value))}")
        elif value is not None and value is not False and (name, value) != ("accumulate", 1):
            words.append(f"{option} {shlex.quote(str(value))}")
    return words


def _say_nothing(line: str) -> None: ...


class _Progress(Protocol):
    """Shows how trainings go."""

    def watcher(self, name: str) -> Watcher:
        """Who watches the model of that name; the name is empty where there is one model only."""

    def note(self, line: str) -> None:
        """Something to know of all of them."""


class _Lines:
    """One line an epoch, for logs."""

    def __init__(self, session: _Session) -> None:
        self.session = session

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def watcher(self, name: str) -> Watcher:
        """Its lines begin with the name."""
        return _LinesOfOne(self.session, name)

    def note(self, line: str) -> None:
        """A line of its own."""
        say(f"note: {line}")


class _LinesOfOne:
    def __init__(self, session: _Session, name: str) -> None:
        from aaexport.training.evaluation import TOP

        self.session, self.name = session, name
        self.prefix, self.total = f"{name}  " if name else "", session.epochs_of(name)
        self.others = None if UNDER_TORCHRUN in os.environ else _Others()
        self.tells_top5 = session.recipe_of(name).input.classes > TOP

    def batch(self, epoch: int, images: int, loss: float, accuracy: float, images_per_second: float) -> None: ...

    def epoch(self, record: Epoch) -> None:
        self.session.epochs_saved += 1
        self.show(_epoch_line(record, self.total, self.tells_top5))
        if self.others is not None and (line := self.others.since_the_last_epoch()):
            self.note(line)
            if self.session.page is not None:
                self.session.page.remarks.append(f"{self.prefix}{line}".strip())

    def note(self, line: str) -> None:
        self.show(f"note: {line}")

    def show(self, line: str) -> None:
        say(f"{self.prefix}{line}")


class _Others:
    """Watches whether other processes have the CPU; under torchrun the processes that train along would be such."""

    def __init__(self) -> None:
        from aaexport.load.machine import MachineWatch

        self.watch, self.has_said_it = MachineWatch(), False

    def since_the_last_epoch(self) -> str | None:
        """What to know of them, once: the time of an epoch is then not the training's own."""
        from aaexport.load.machine import MachineWatch
        from aaexport.load.validity import is_starved

        found, self.watch = self.watch.environment(), MachineWatch()
        if self.has_said_it or not is_starved(found):
            return None
        self.has_said_it = True
        taken = (found.other_load_share or 0.0) + (found.steal_share or 0.0)
        return (
            f"others took {taken:.0%} of the CPU during this epoch: training takes longer, and its times are not its "
            "own; stop them, or take fewer threads with --threads"
        )


class _Bars:
    """A bar for each model, for terminals."""

    def __init__(self, session: _Session) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.session = session
        self.progress: Progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
            console=console(sys.stderr),
        )

    def __enter__(self) -> None:
        self.progress.start()

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def watcher(self, name: str) -> Watcher:
        """Its bar begins with the name."""
        return _Bar(self.session, name, self.progress)

    def note(self, line: str) -> None:
        """A line above the bars."""
        self.progress.console.print(f"note: {line}")


class _Bar(_LinesOfOne):
    def __init__(self, session: _Session, name: str, progress: Progress) -> None:
        super().__init__(session, name)
        self.progress, self.epochs_done = progress, 0
        self.task: TaskID = progress.add_task(f"{self.prefix}training", total=None, numbers="")

    def batch(self, epoch: int, images: int, loss: float, accuracy: float, images_per_second: float) -> None:
        numbers = f"loss {loss:.3f}  accuracy {accuracy:.1%}  {images_per_second:,.0f} images/s"
        description = f"{self.prefix}epoch {epoch}/{self.total}"
        self.progress.update(self.task, description=description, advance=images, numbers=numbers)

    def epoch(self, record: Epoch) -> None:
        super().epoch(record)
        self.epochs_done += 1  # of this call, which may have been resumed
        images = next(task.completed for task in self.progress.tasks if task.id == self.task)
        all_epochs = self.epochs_done + self.total - record.epoch
        self.progress.update(self.task, total=images / self.epochs_done * all_epochs)

    def show(self, line: str) -> None:
        self.progress.console.print(f"{self.prefix}{line}")


def _epoch_line(record: Epoch, epochs: int, tells_top5: bool) -> str:
    top5 = f"  top-5 {record.test_top5:.2%}" if tells_top5 else ""
    return (
        f"epoch {record.epoch:>3}/{epochs}  loss {record.loss:.4f}  train {record.train_accuracy:.2%}  "
        f"test {record.test_accuracy:.2%}{top5}  {record.images_per_second:,.0f} images/s"
    )
