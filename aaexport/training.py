"""(module, images, recipe) → weights, golden vectors and a log; resumable bit for bit on the CPU.

All randomness of an epoch is drawn from (seed, epoch) alone, so a checkpoint needs no generator states and a
run that was interrupted goes on exactly as if it had not been.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from aaexport.data import LabelledImages, load_images, normalised, varied
from aaexport.device import parse_device
from aaexport.errors import ArgumentError, ProviderError, TrainingError, broken_rule, first_line
from aaexport.folder import ModelFolder, atomic_path, find_model
from aaexport.nn.build import build_network
from aaexport.recipe import MAX_SEED, Recipe, Training
from aaexport.weights import save_weights, write_tensors

GOLDEN_IMAGES = 4
EVALUATION_BATCH = 256
CHECKPOINT_KEYS = {"recipe", "finished", "module", "optimizer", "scaler", "records"}
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Epoch:
    """One line of train.jsonl. Accuracies are shares between 0 and 1; the rate is the epoch's last."""

    epoch: int
    loss: float
    train_accuracy: float
    test_accuracy: float
    learning_rate: float
    images_per_second: float
    seconds: float


@dataclass(frozen=True)
class TrainResult:
    """What a finished training left behind."""

    folder: Path
    epochs: tuple[Epoch, ...]
    device: str
    precision: str

    @property
    def test_accuracy(self) -> float:
        """The share of the test part that the last weights classify rightly."""
        return self.epochs[-1].test_accuracy


class Watcher(Protocol):
    """What a training tells whoever watches it."""

    def batch(self, epoch: int, images: int, loss: float, accuracy: float, images_per_second: float) -> None:
        """One batch is done; `images` is its size, the other numbers are the epoch's so far."""

    def epoch(self, record: Epoch) -> None:
        """One epoch is done and saved."""


class _NobodyWatches:
    def batch(self, *_: object) -> None: ...

    def epoch(self, record: Epoch) -> None: ...


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
    """Trains a model folder by its recipe, from fresh weights or on from its checkpoint.

    Writes train.jsonl and checkpoint.pt after every epoch, and at the end weights.safetensors and
    golden.safetensors. The test part is only ever looked at to report accuracy: it chooses nothing.

    Args:
        model: a model folder; a zoo model must be checked out first (`aaexport.folder.checkout`).
        device: `cpu`, `cuda` or `cuda:N`; None takes CUDA where torch can use it. The result says which it was.
        epochs, seed: replace the recipe's.
        resume: goes on after the last finished epoch.
        download: lets the data set be fetched from the network.
        watcher: is told every batch and epoch.

    Raises:
        DataError: the data set is not there or does not fit.
        TrainingError: `resume` without a fitting checkpoint, an unfinished run and no `resume`, or a loss that
            is not a number.
        ArgumentError: a zoo model by name, or `epochs` or `seed` break their rules.
        ProviderError: torch cannot use `device` here.
    """
    folder = model if isinstance(model, ModelFolder) else find_model(model)
    if folder.is_zoo:
        raise ArgumentError(f"model must be a folder to train in, got the zoo's {folder.name}; copy it first")
    recipe = _with_overrides(folder.recipe, epochs, seed)
    run = _Run(folder, recipe, _training_device(device), watcher or _NobodyWatches(), download)
    run.start(resume)
    for epoch in range(len(run.records) + 1, recipe.training.epochs + 1):
        run.train_epoch(epoch)
    run.finish()
    return TrainResult(folder.path, tuple(run.records), str(run.device), run.precision)


class _Run:
    """The state of one training: module, optimizer and the epochs done so far."""

    def __init__(
        self, folder: ModelFolder, recipe: Recipe, device: torch.device, watcher: Watcher, download: bool
    ) -> None:
        self.folder, self.recipe, self.device, self.watcher = folder, recipe, device, watcher
        self.images = load_images(recipe, "train", download=download)
        self.test_images = load_images(recipe, "test", download=download)
        self.module = build_network(recipe).to(device)
        self.optimizer = _optimizer(self.module, recipe.training)
        self.precision = recipe.training.gpu_precision if device.type == "cuda" else "float32"
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "float16")
        self.records: list[Epoch] = []

    def start(self, resume: bool) -> None:
        path = self.folder.checkpoint_path
        if not resume:
            if path.is_file():
                state = _read_checkpoint(path)
                if not state["finished"]:
                    raise TrainingError(
                        f"{self.folder.path} holds an unfinished training; go on with --resume, or delete {path}"
                    )
            return
        if not path.is_file():
            raise TrainingError(f"{self.folder.path} has no checkpoint to resume; train without --resume")
        state = _read_checkpoint(path)
        if state["recipe"] != self._identity():
            remedy = (
                "resume with the --epochs, --seed and --device that it was begun with, or delete it to begin anew"
            )
            raise TrainingError(f"{path} belongs to a run with other settings or another model.toml; {remedy}")
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.records = [Epoch(**record) for record in state["records"]]

    def train_epoch(self, epoch: int) -> None:
        began = time.perf_counter()
        generator = torch.Generator().manual_seed(_mixed(self.recipe.training.seed, epoch))
        loss_sum, right, seen, rate = 0.0, 0, 0, 0.0
        self.module.train()
        for step, (batch, labels) in enumerate(self._batches(generator)):
            rate = learning_rate(self.recipe.training, epoch - 1 + step / self.steps)
            loss, hits = self._step(batch.to(self.device), labels.to(self.device), rate)
            if not math.isfinite(loss):
                self._give_up(f"the loss must be a number, got {loss} at step {step + 1} of epoch {epoch}")
            loss_sum, right, seen = loss_sum + loss * len(labels), right + hits, seen + len(labels)
            speed = seen / (time.perf_counter() - began)
            self.watcher.batch(epoch, len(labels), loss_sum / seen, right / seen, speed)
        speed = seen / (time.perf_counter() - began)
        if not all(bool(tensor.isfinite().all()) for tensor in self.module.state_dict().values()):
            self._give_up(f"every weight must be a number, but one is not after epoch {epoch}")
        test_accuracy = accuracy(self.module, self.test_images, self.recipe, self.device)
        seconds = time.perf_counter() - began
        self.records.append(Epoch(epoch, loss_sum / seen, right / seen, test_accuracy, rate, speed, seconds))
        self._save()
        self.watcher.epoch(self.records[-1])

    def finish(self) -> None:
        self._write_log()
        module = self.module.eval().to("cpu")
        inputs = normalised(self.test_images, self.recipe.input, torch.arange(GOLDEN_IMAGES))
        with torch.no_grad():
            logits = module(inputs)
        if not bool(logits.isfinite().all()):
            self._give_up("every output must be a number, but one of the trained network is not")
        save_weights(module, self.folder.weights_path)
        write_tensors({"input": inputs, "logits": logits}, self.folder.golden_path)
        self._save(finished=True)
        self.folder.write_manifest()

    def _give_up(self, complaint: str) -> NoReturn:
        kept = f"the checkpoint of epoch {len(self.records)} is kept; " if self.records else ""
        raise TrainingError(f"{complaint}; {kept}lower [training] learning_rate")

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return math.ceil(len(self.images) / self.recipe.training.batch_size)

    def _batches(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.images), generator=generator)
        size = self.recipe.training.batch_size
        for index in order.split(size):
            if len(index) == 1 < size:
                continue  # batch normalization knows no variance of one image; another epoch has it elsewhere
            batch = normalised(self.images, self.recipe.input, index)
            yield varied(batch, self.recipe.data, generator), self.images.labels[index]

    def _step(self, batch: Tensor, labels: Tensor, rate: float) -> tuple[float, int]:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        lowered = self.precision != "float32"
        with torch.autocast(self.device.type, dtype=PRECISIONS[self.precision], enabled=lowered):
            logits = self._logits(batch)
            smoothing = self.recipe.training.label_smoothing
            loss = functional.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.item(), int((logits.argmax(1) == labels).sum())

    def _logits(self, batch: Tensor) -> Tensor:
        try:
            logits: Tensor = self.module(batch)
        except ValueError as error:
            if len(batch) > 1:
                raise
            cause = f"{first_line(error)}; raise [training] batch_size"
            raise TrainingError(f"the network cannot train on one image at a time: {cause}") from error
        return logits

    def _save(self, *, finished: bool = False) -> None:
        """Checkpoint first, then the log: a resumed run rewrites the log from the checkpoint."""
        state = {
            "recipe": self._identity(),
            "finished": finished,  # only once the weights are written: until then they are nowhere else
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "records": [dataclasses.asdict(record) for record in self.records],
        }
        checkpoint = io.BytesIO()  # through memory, so that a full disk is the operating system's error
        torch.save(state, checkpoint)
        with atomic_path(self.folder.checkpoint_path) as temporary:
            temporary.write_bytes(checkpoint.getbuffer())
        self._write_log()

    def _write_log(self) -> None:
        lines = [json.dumps(dataclasses.asdict(record)) + "\n" for record in self.records]
        with atomic_path(self.folder.training_log_path) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")

    def _identity(self) -> str:
        """Everything that decides the run; `gpu_precision` matters only where it is used."""
        return f"{self.recipe.digest()} {self.recipe.data} {self.recipe.training} {self.precision}"


def learning_rate(training: Training, epochs_done: float) -> float:
    """Linear warm-up to `learning_rate`, then half a cosine to zero (Loshchilov & Hutter 2017, eq. 5)."""
    warmup, total = training.warmup_epochs, training.epochs
    if epochs_done < warmup:
        # The first step of all must move too, so the ramp starts one part in a hundred up.
        return training.learning_rate * max(epochs_done / warmup, 0.01)
    share = (epochs_done - warmup) / max(total - warmup, 1e-9)
    return training.learning_rate * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


@torch.no_grad()
def accuracy(module: nn.Module, images: LabelledImages, recipe: Recipe, device: torch.device) -> float:
    """The share of `images` that `module` classifies rightly, in evaluation mode."""
    module.eval()
    right = 0
    for index in torch.arange(len(images)).split(EVALUATION_BATCH):
        logits = module(normalised(images, recipe.input, index).to(device))
        right += int((logits.argmax(1).cpu() == images.labels[index]).sum())
    return right / len(images)


def _with_overrides(recipe: Recipe, epochs: int | None, seed: int | None) -> Recipe:
    training = recipe.training
    if epochs is not None:
        if epochs < 1:
            raise ArgumentError(broken_rule("epochs", "be at least 1", epochs))
        warmup = min(training.warmup_epochs, epochs)
        training = dataclasses.replace(training, epochs=epochs, warmup_epochs=warmup)
    if seed is not None:
        if not 0 <= seed <= MAX_SEED:
            rule = "be at least 0" if seed < 0 else f"be at most {MAX_SEED}"
            raise ArgumentError(broken_rule("seed", rule, seed))
        training = dataclasses.replace(training, seed=seed)
    return dataclasses.replace(recipe, training=training)


def _training_device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if parse_device(name)[0] == "cuda" and not torch.cuda.is_available():
        reason = "torch was built without CUDA" if torch.version.cuda is None else "torch finds no NVIDIA GPU"
        raise ProviderError(f"device must be one that works here, got {name!r}: {reason}; use --device cpu")
    kind, index = parse_device(name)
    return torch.device(kind) if kind == "cpu" else torch.device(kind, index)


def _optimizer(module: nn.Module, training: Training) -> torch.optim.Optimizer:
    if training.optimizer == "adamw":
        return torch.optim.AdamW(module.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay)
    return torch.optim.SGD(
        module.parameters(),
        lr=training.learning_rate,
        momentum=training.momentum,
        nesterov=training.momentum > 0,
        weight_decay=training.weight_decay,
    )


def _read_checkpoint(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    # Of a damaged file the unpickler raises whatever the damage leads it to.
    except Exception as error:
        cause = first_line(error)
        raise TrainingError(f"{path} must be a whole checkpoint, but: {cause}; delete it") from error
    if not isinstance(state, dict) or set(state) != CHECKPOINT_KEYS:
        raise TrainingError(f"{path} must be a checkpoint of `aaexport train`, got something else; delete it")
    return state


def _mixed(seed: int, epoch: int) -> int:
    """One seed for a pair, without neighbours' streams overlapping as seed + epoch would."""
    return (seed * 1_000_003 + epoch) % 2**63
