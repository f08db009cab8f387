"""What a training tells: a record an epoch, a result at the end, and the watcher who hears of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from aaexport.outcome import Outcome, presenter

if TYPE_CHECKING:
    from aaexport.training.glimpses import AttentionCourse


@dataclass(frozen=True)
class Epoch:
    """One line of train.jsonl.

    Attributes:
        epoch: counted from 1.
        loss: the mean over the epoch's images, label smoothing included.
        train_accuracy: the share of training images classified rightly on the way, between 0 and 1.
        test_accuracy: the share of test images that the epoch's weights classify rightly (top-1).
        test_top5: the share whose class is among the five likeliest, or among all if there are fewer.
        learning_rate: that of the epoch's last step.
        images_per_second: of training alone, by all processes together.
        seconds: training and evaluation.
    """

    epoch: int
    loss: float
    train_accuracy: float
    test_accuracy: float
    test_top5: float
    learning_rate: float
    images_per_second: float
    seconds: float


def best_epoch(records: Sequence[Epoch]) -> int:
    """The epoch of the highest test accuracy; of equals the earliest."""
    return max(records, key=lambda record: record.test_accuracy).epoch


@dataclass(frozen=True, repr=False)
class TrainResult(Outcome):
    """What a training left behind, or has come to so far (`on_epoch`).

    The saved weights are the last epoch's. Those of `best_epoch` lie beside them, in best.safetensors: because the
    test part chose them, their accuracy on it is optimistic.

    Attributes:
        precision: that of the products in training, such as "bfloat16"; weights are float32 always.
        classes: how many the network tells apart; the top-5 of five or fewer is always 1.
        processes: how many trained together.
        resumed: whether an earlier call did some of the epochs.
        notes: what a reader of the numbers should know of images, weights and processes.
        dataset: the name of what it is trained on.
        planned: how many epochs it is to have; None where nobody has said.
        attention: where one of its augmented layers looks by epoch; None of a network without one, and where nobody
            followed the training.
    """

    folder: Path
    epochs: tuple[Epoch, ...]
    device: str
    precision: str
    classes: int
    processes: int = 1
    resumed: bool = False
    notes: tuple[str, ...] = ()
    dataset: str = ""
    planned: int | None = None
    attention: AttentionCourse | None = field(default=None, compare=False)

    @property
    def test_accuracy(self) -> float:
        """The share of the test part that the last weights classify rightly."""
        return self.epochs[-1].test_accuracy

    @property
    def test_top5(self) -> float:
        """The share of the test part whose class is among the last weights' five likeliest."""
        return self.epochs[-1].test_top5

    @property
    def best_epoch(self) -> int:
        """The epoch whose weights best.safetensors holds: the earliest of the highest test accuracy."""
        return best_epoch(self.epochs)

    @property
    def seconds(self) -> float:
        """Training and evaluation of all epochs."""
        return sum(record.seconds for record in self.epochs)

    @property
    def headline(self) -> str:
        """Where the weights are, and how good."""
        done = f"{len(self.epochs)} epochs in {self.seconds:.1f} s on {self.device}"
        return f"of {self.folder}: test accuracy {self.test_accuracy:.2%}, {done}"

    def to_html(self) -> str:
        """The page that `aaexport train` writes as train.html, for a file in UTF-8; it needs nothing else."""
        return presenter().page(self)


class Watcher(Protocol):
    """What a training tells whoever watches it; of several processes only the first tells."""

    def batch(self, epoch: int, images: int, loss: float, accuracy: float, images_per_second: float) -> None:
        """Some batches are done, on the CPU one; `images` is their size, the other numbers are the epoch's so far."""

    def epoch(self, record: Epoch) -> None:
        """One epoch is done and saved."""

    def note(self, line: str) -> None:
        """Something to know about this run."""


class NobodyWatches:
    """A watcher that hears and says nothing."""

    def batch(self, *_: object) -> None:
        """Nothing."""

    def epoch(self, record: Epoch) -> None:
        """Nothing."""

    def note(self, line: str) -> None:
        """Nothing."""
