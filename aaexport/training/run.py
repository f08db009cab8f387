"""(model folder, options) → weights, golden vectors, a log and a checkpoint; resumable bit for bit on the CPU."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NoReturn, Unpack

import torch
from torch import Tensor

from aaexport.data import Images, batches, epoch_draws, load_images
from aaexport.errors import TrainingError, broken_rule, first_line
from aaexport.folder import ModelFolder
from aaexport.nn.build import build_network
from aaexport.nn.memory import BYTES_IN_FLOAT32, require_memory
from aaexport.nn.own_settings import own_settings, torch_threads
from aaexport.outcome import verb
from aaexport.overrides import overridden
from aaexport.recipe import Recipe
from aaexport.training.checkpoint import (
    GLIMPSES,
    identity,
    read_checkpoint,
    records_as_dicts,
    refuse,
    require_identity,
    write_checkpoint,
)
from aaexport.training.distributed import Processes, joined
from aaexport.training.evaluation import accuracies, golden_vectors
from aaexport.training.glimpses import Onlooker
from aaexport.training.learner import Learner
from aaexport.training.options import TrainOptions, TrainOverrides, folder_to_train
from aaexport.training.randomness import seeded, stream_seed
from aaexport.training.records import Epoch, NobodyWatches, TrainResult, Watcher, best_epoch
from aaexport.training.schedule import learning_rate
from aaexport.training.tally import Tally
from aaexport.weights.safetensors import save_weights, write_tensors
from aaexport.writing import write_text

LOOK_EVERY = {"cpu": 1, "cuda": 16}  # steps; to look at a GPU's loss is to wait for it


@verb
@own_settings()
def train(
    model: str | Path | ModelFolder,
    *,
    options: TrainOptions | None = None,
    watcher: Watcher | None = None,
    on_epoch: Callable[[TrainResult], None] | None = None,
    **overrides: Unpack[TrainOverrides],
) -> TrainResult:
    """Trains a model folder by its recipe, from fresh weights or on from its checkpoint.

    Writes train.jsonl and checkpoint.pt after every epoch, best.safetensors whenever an epoch's test accuracy is the
    highest so far, and at the end weights.safetensors and golden.safetensors. These are the last epoch's: weights
    chosen by their accuracy on the test part, as best.safetensors are, would make that accuracy optimistic.

    Under torchrun its processes train together, and the recipe's batch_size is that of all. They take the images
    in the order, and with the variation, of one process; only the first one writes and tells.

    Args:
        model: a model folder; a zoo model must be checked out first (`aaexport.folder.checkout`).
        options: how to train.
        watcher: is told every batch and epoch, and what is worth a note.
        on_epoch: is called whenever an epoch is saved, and when a training is resumed, with what it has come to so
            far; `result.to_html()` is then its page up to there. What it raises ends the training. Of some epochs the
            result tells where an augmented layer looks, which costs a run of a few images.
        overrides: fields of `TrainOptions` that are to be other than in `options`, or than their defaults.

    Raises:
        DataError: the data set is not there or does not fit.
        WeightsError, FolderError: `init` does not fit or is not there.
        TrainingError: a network without a classifier, `resume` without a fitting checkpoint, an unfinished run and
            no `resume`, too few images for so many parts, a loss that is not a number, or a network that
            torch.compile cannot compile.
        ArgumentError: a zoo model by name, an argument breaks its rule, or the network cannot take `size`.
        ProviderError: torch cannot use `device` here.
    """
    options = overridden(options or TrainOptions(), overrides, train)
    with joined(options.device) as processes, torch_threads(options.threads):
        run = Run(folder_to_train(model), options, processes, watcher, on_epoch=on_epoch)
        run.start(options.resume)
        for epoch in run.epochs_to_come():
            run.train_epoch(epoch)
        run.finish()
        return run.result()


class Run:
    """The state of one training: what it learns from and with, and the epochs done so far."""

    def __init__(
        self,
        folder: ModelFolder,
        options: TrainOptions,
        processes: Processes,
        watcher: Watcher | None = None,
        images: tuple[Images, Images] | None = None,
        on_epoch: Callable[[TrainResult], None] | None = None,
    ) -> None:
        self.folder, self.processes = folder, processes
        self.recipe = options.applied_to(folder.recipe)
        self.parts = processes.count * options.accumulate
        self._require_image_for_each_part()
        self.watcher = watcher if watcher is not None and processes.leads else NobodyWatches()
        self.on_epoch = on_epoch if processes.leads else None
        self.images, self.test_images = images or load_parts(folder, self.recipe, options, processes)
        self._require_a_batch()
        self.learner = Learner(self.recipe, options, processes)
        self._require_memory()
        self.onlooker = Onlooker(self.recipe, self.test_images)
        loaded = len(self.images), len(self.test_images)
        self.identity = identity(folder, self.recipe, options, self.learner.precision, loaded)
        self.records: list[Epoch] = []
        self.notes = self._first_notes()
        self.resumed = False

    def start(self, resume: bool) -> None:
        """Goes to where the first epoch begins, or to the end of the checkpoint's last."""
        if resume:
            self._resume()
        else:
            self._require_none_unfinished()
        for note in self.notes:
            self.watcher.note(note)
        self._tell_result()
        if not resume and self.folder.weights_path.is_file():
            self.watcher.note(f"{self.folder.weights_path} stays the former one until this training ends")
        if not resume:
            self._look_on()

    def epochs_to_come(self) -> range:
        """The numbers of the epochs that are not done."""
        return range(len(self.records) + 1, self.recipe.training.epochs + 1)

    def train_epoch(self, epoch: int) -> None:
        """Trains on every image once, but for a rest too small for its parts; evaluates, saves and tells."""
        began = time.perf_counter()
        tally, rate = self._train(epoch)
        speed = tally.images_per_second()
        self.learner.synchronise()
        if not self.learner.is_finite():
            self._give_up(f"every weight must be a number, but one is not after epoch {epoch}")
        top1, top5 = accuracies(self.learner.result, self.test_images, self.recipe, self.processes)
        seconds = time.perf_counter() - began
        self.records.append(Epoch(epoch, tally.loss, tally.accuracy, top1, top5, rate, speed, seconds))
        if self.processes.leads:
            self._look_on()
            self._save()
            self._keep_best()
        self._tell_result()
        self.watcher.epoch(self.records[-1])

    def finish(self) -> None:
        """The leader writes weights, golden vectors and manifest; the others wait for it."""
        self.processes.alone(self._write_results)

    def result(self) -> TrainResult:
        """What the training came to."""
        return TrainResult(
            folder=self.folder.path,
            epochs=tuple(self.records),
            device=str(self.processes.device),
            precision=self.learner.precision,
            classes=self.recipe.input.classes,
            processes=self.processes.count,
            resumed=self.resumed,
            notes=self.notes,
            dataset=self.recipe.data.dataset,
            planned=self.recipe.training.epochs,
            attention=self.onlooker.course,
        )

    def _tell_result(self) -> None:
        """What the training has come to, to who wants to know; before the watcher, whom Ctrl-C may hit."""
        if self.on_epoch is not None and self.records:
            self.on_epoch(self.result())

    def _look_on(self) -> None:
        """Glances at where the network looks, if somebody wants to know."""
        if self.on_epoch is None or not self.onlooker.wants(len(self.records)):
            return
        try:
            self.onlooker.look(self.learner.result, len(self.records), self.processes.device)
        except Exception as error:  # noqa: BLE001  whatever it is, hours of training must not end with it
            self.onlooker.is_blind = True
            note = f"attention is not drawn: {first_line(error)}"
            self.notes += (note,)
            self.watcher.note(note)

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return math.ceil(len(self.images) / self.recipe.training.batch_size)

    def _train(self, epoch: int) -> tuple[Tally, float]:
        """Takes the epoch's steps; what they came to, and the last one's learning rate."""
        plan, rate = self._plan(epoch), 0.0
        stream = self._stream(plan, epoch)
        tally = Tally(self.processes)
        self.learner.module.train()
        # Each process drops out other units; all else that is random is the same in all of them.
        with seeded(self._seed(epoch, f"dropout {self.processes.rank}"), self.processes.device):
            for step, batch in enumerate(plan):
                rate = learning_rate(self.recipe.training, epoch - 1 + step / self.steps)
                own = islice(stream, self.learner.accumulate)
                tally.add(self.learner.step(own, len(batch), rate), len(batch))
                if tally.unread == LOOK_EVERY[self.processes.device.type] or step + 1 == len(plan):
                    self._look(tally, epoch)
        return tally, rate

    def _look(self, tally: Tally, epoch: int) -> None:
        steps, images = tally.steps, tally.images
        for step, loss in enumerate(tally.look(), steps + 1):
            if not math.isfinite(loss):
                self._give_up(f"the loss must be a number, got {loss} at step {step} of epoch {epoch}")
        speed = tally.images_per_second()
        self.watcher.batch(epoch, tally.images - images, tally.loss, tally.accuracy, speed)

    def _plan(self, epoch: int) -> list[Tensor]:
        """The epoch's batches: the numbers of their images, in an order that only seed and epoch decide."""
        generator = torch.Generator().manual_seed(self._seed(epoch, "order"))
        order = torch.randperm(len(self.images), generator=generator)
        batches_of_all = order.split(self.recipe.training.batch_size)
        return [batch for batch in batches_of_all if len(batch) >= self._least_of_a_part * self.parts]

    @property
    def _least_of_a_part(self) -> int:
        """How many images a part of a batch must have.

        Batch normalization knows no variance of one image: a rest that would leave a part with one, or none, waits
        for another epoch, which has other images at its end. Batches that are so small on purpose are taken.
        """
        return min(2, self.recipe.training.batch_size // self.parts)

    def _stream(self, plan: list[Tensor], epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's part of each batch, in `accumulate` parts."""
        draws = epoch_draws(self.images, self._seed(epoch, "variation"))
        first = self.processes.rank * self.learner.accumulate
        parts = [part for batch in plan for part in batch.tensor_split(self.parts)[first:][: self.learner.accumulate]]
        return batches(self.images, self.recipe, parts, draws=draws, device=self.processes.device)

    def _seed(self, epoch: int, purpose: str) -> int:
        return stream_seed(self.recipe.training.seed, epoch, purpose)

    def _give_up(self, complaint: str) -> NoReturn:
        folder = self.folder
        remedy = f"lower [training] learning_rate in {folder.recipe_path}"
        if not self.records:
            raise TrainingError(f"{complaint}; {remedy}")
        # Resuming is no way on: a checkpoint goes on with the rate that it was begun with.
        kept = f"the checkpoint of epoch {len(self.records)} is kept"
        again = f"delete {folder.checkpoint_path}, and train {folder.path} again"
        init = f"with --init {folder.best_path} to go on from the best epoch"
        raise TrainingError(f"{complaint}; {kept}; {remedy}, {again}, {init}")

    def _require_image_for_each_part(self) -> None:
        size = self.recipe.training.batch_size
        if size < self.parts:
            rule = f"be at least {self._product_of_parts}"
            raise TrainingError(broken_rule("[training] batch_size", rule, size, "lower these"))

    def _require_memory(self) -> None:
        if self.processes.device.type == "cpu":
            network, shape, in_tiles = self.learner.result, self.recipe.input.shape, self.learner.attends_in_tiles
            require_memory(network, shape, bytes_a_number=BYTES_IN_FLOAT32, in_tiles=in_tiles)

    def _require_a_batch(self) -> None:
        """TrainingError if no batch of any epoch would be large enough for its parts."""
        each, images = self._least_of_a_part, len(self.images)
        if images < each * self.parts:
            rule = f"have at least {each * self.parts} images, {each} for each part of {self._product_of_parts}"
            remedy = "lower --accumulate, take fewer processes, or add images"
            raise TrainingError(broken_rule("the training part", rule, images, remedy))

    @property
    def _product_of_parts(self) -> str:
        return f"processes × --accumulate, {self.processes.count} × {self.parts // self.processes.count}"

    def _require_none_unfinished(self) -> None:
        path = self.folder.checkpoint_path
        if path.is_file() and not read_checkpoint(path)["finished"]:
            raise TrainingError(
                f"{self.folder.path} holds an unfinished training; go on with --resume, or delete {path}"
            )

    def _resume(self) -> None:
        path = self.folder.checkpoint_path
        if not path.is_file():
            raise TrainingError(f"{self.folder.path} has no checkpoint to resume; train without --resume")
        state = read_checkpoint(path)
        require_identity(path, state["identity"], self.identity)
        try:
            self.learner.load_state_dict(state["learner"])
            self.records = [Epoch(**record) for record in state["records"]]
            self.onlooker.load_state(state.get(GLIMPSES, []))
        except (RuntimeError, ValueError, TypeError, KeyError) as error:
            refuse(path, error)
        if state["processes"] != self.processes.count:
            self.notes += (f"begun with {state['processes']} processes, gone on with {self.processes.count}",)
        self.notes = tuple(dict.fromkeys((*state["notes"], *self.notes)))
        self.resumed = True
        if self.processes.leads:
            self._keep_best()  # a kill may have come between the checkpoint and this

    def _first_notes(self) -> tuple[str, ...]:
        notes = [*self.processes.notes, *self.images.notes, *self.test_images.notes, *self.learner.notes]
        own, trained = self.folder.recipe.input.size, self.recipe.input.size
        if own != trained:
            sizes = f"trained on images of {trained[0]}×{trained[1]}, model.toml says {own[0]}×{own[1]}"
            notes.append(f"{sizes}: give convert and verify --size {trained[0]} {trained[1]} too")
        late = [str(epoch) for epoch in self.recipe.training.milestones if epoch >= self.recipe.training.epochs]
        if late:
            notes.append(f"the training ends before the milestones {', '.join(late)}")
        return tuple(dict.fromkeys(notes))

    def _write_results(self) -> None:
        self._write_log()
        module = build_network(self.recipe)  # a plain one, on the CPU
        module.load_state_dict(self.learner.result.state_dict())
        golden = golden_vectors(module, self.test_images, self.recipe)
        if not bool(golden["logits"].isfinite().all()):
            self._give_up("every output must be a number, but one of the trained network is not")
        save_weights(module, self.folder.weights_path)
        write_tensors(golden, self.folder.golden_path)
        self._save(finished=True)
        self.folder.write_manifest()

    def _keep_best(self) -> None:
        """Saves this epoch's weights if none before was better on the test part."""
        if self.records and best_epoch(self.records) == len(self.records):
            save_weights(self.learner.result, self.folder.best_path)

    def _save(self, *, finished: bool = False) -> None:
        """Checkpoint first, then the log: a resumed run rewrites the log from the checkpoint."""
        state = {
            "identity": self.identity,
            "finished": finished,  # only once the weights are written: until then they are nowhere else
            "learner": self.learner.state_dict(),
            "records": records_as_dicts(self.records),
            "notes": list(self.notes),
            "processes": self.processes.count,
            **({GLIMPSES: self.onlooker.state()} if self.onlooker.glimpses else {}),
        }
        write_checkpoint(self.folder.checkpoint_path, state)
        self._write_log()

    def _write_log(self) -> None:
        lines = [json.dumps(record) + "\n" for record in records_as_dicts(self.records)]
        write_text(self.folder.training_log_path, "".join(lines))


def load_parts(
    folder: ModelFolder, recipe: Recipe, options: TrainOptions, processes: Processes
) -> tuple[Images, Images]:
    """The data set's training and test part; the leader reads first, as what it fetches the others then find."""

    def load() -> tuple[Images, Images]:
        train_images, test_images = (
            load_images(recipe, part, base=folder.path, download=options.download, skip_bad=options.skip_bad)
            for part in ("train", "test")
        )
        return train_images, test_images

    return processes.led(load)
