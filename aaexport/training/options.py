"""What a caller asks of a training, checked, and the recipe as that changes it."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

from aaexport.device import MAX_THREADS
from aaexport.errors import ArgumentError, ModelNotFoundError, TrainingError, broken_rule
from aaexport.folder import ModelFolder, find_model, zoo_models
from aaexport.recipe import MAX_SEED, Recipe

Amp = Literal["bf16", "fp16"]
AMP_PRECISIONS: dict[str, str] = {"bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What is asked of a training. ArgumentError for a value that breaks its rule.

    Attributes:
        device: `cpu`, `cuda` or `cuda:N`; None takes CUDA where torch can use it. The result says which it was.
        epochs, seed: replace the recipe's.
        size: (height, width) of the images, instead of the recipe's.
        init: begins with these weights instead of random ones: a safetensors file, a model folder or a zoo name.
        amp: the type of products under autocast; None takes the recipe's `gpu_precision`, on CUDA only.
        compile: trains what torch.compile makes of the network.
        channels_last: keeps images and weights with the channels innermost.
        accumulate: computes each batch in so many parts, which need less memory; batch normalization sees the parts.
        threads: of torch on the CPU, in each process; None leaves torch's own number, or the cores that a binding or
            a quota leaves. Sums are rounded in other ways with other threads, so that a resumed training is the same
            to the bit with the same number only.
        resume: goes on after the last finished epoch.
        download: lets the data set be fetched from the network.
        skip_bad: leaves out images that cannot be decoded, instead of refusing the data set.
    """

    device: str | None = None
    epochs: int | None = None
    seed: int | None = None
    size: tuple[int, int] | None = None
    init: str | Path | None = None
    amp: Amp | None = None
    compile: bool = False
    channels_last: bool = False
    accumulate: int = 1
    threads: int | None = None
    resume: bool = False
    download: bool = False
    skip_bad: bool = False

    def __post_init__(self) -> None:
        if self.epochs is not None:
            _require(self.epochs >= 1, "epochs", "be at least 1", self.epochs)
        if self.seed is not None:
            _require(self.seed >= 0, "seed", "be at least 0", self.seed)
            _require(self.seed <= MAX_SEED, "seed", f"be at most {MAX_SEED}", self.seed)
        _require(self.accumulate >= 1, "accumulate", "be at least 1", self.accumulate)
        allowed = self.threads is None or 1 <= self.threads <= MAX_THREADS
        _require(allowed, "threads", f"be between 1 and {MAX_THREADS}", self.threads)
        _require(self.amp is None or self.amp in AMP_PRECISIONS, "amp", "be bf16 or fp16", self.amp)

    def applied_to(self, recipe: Recipe) -> Recipe:
        """The recipe with these epochs, seed and size. ArgumentError if the network cannot take the size."""
        training = recipe.training
        if self.epochs is not None:
            warmup = min(training.warmup_epochs, self.epochs)
            training = dataclasses.replace(training, epochs=self.epochs, warmup_epochs=warmup)
        if self.seed is not None:
            training = dataclasses.replace(training, seed=self.seed)
        return dataclasses.replace(recipe.for_size(self.size), training=training)

    def precision_on(self, device: str, recipe: Recipe) -> str:
        """The name of the type that products are computed in; on the CPU the recipe's is not meant."""
        if self.amp is not None:
            return AMP_PRECISIONS[self.amp]
        return recipe.training.gpu_precision if device == "cuda" else "float32"

    def init_path(self) -> Path | None:
        """The weights to begin with: a file, or those of a model folder or zoo model, which must have some.

        Raises:
            ModelNotFoundError: `init` is none of these.
            NoWeightsError, FolderError: the folder has no weights, or no model.toml.
        """
        if self.init is None:
            return None
        path = Path(self.init)
        if _is_file(path):
            return path
        try:
            return find_model(self.init).require_weights()
        except ModelNotFoundError as error:
            rule = "be a safetensors file, a model folder or a zoo name"
            raise ModelNotFoundError(broken_rule("init", rule, str(self.init), _nearest(str(self.init)))) from error


class TrainOverrides(TypedDict, total=False):
    """The fields of `TrainOptions` as keywords."""

    device: str | None
    epochs: int | None
    seed: int | None
    size: tuple[int, int] | None
    init: str | Path | None
    amp: Amp | None
    compile: bool
    channels_last: bool
    accumulate: int
    threads: int | None
    resume: bool
    download: bool
    skip_bad: bool


def folder_to_train(model: str | Path | ModelFolder) -> ModelFolder:
    """The model's folder.

    Raises:
        ArgumentError: it is the zoo's own, which is never written to.
        TrainingError: its network has no classifier.
    """
    folder = model if isinstance(model, ModelFolder) else find_model(model)
    if folder.is_zoo:
        raise ArgumentError(f"model must be a folder to train in, got the zoo's {folder.name}; copy it first")
    require_classifier(folder)
    return folder


def require_classifier(folder: ModelFolder) -> None:
    """TrainingError, with the remedy, for a network that returns features."""
    if not folder.recipe.network.classifies:
        remedy = "train the same [network] without features and with labels: its weights.safetensors fit this one"
        raise TrainingError(f"{folder.name} must have a classifier to be trained, got [network] features; {remedy}")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long to be one
        return False


def _nearest(name: str) -> str:
    """The zoo name that was meant, or where they stand: all of them would hide the complaint."""
    close = difflib.get_close_matches(name, zoo_models(), n=1)
    return f"did you mean {close[0]!r}?" if close else "`aaexport list` names the zoo's"


def _require(holds: bool, name: str, rule: str, value: object) -> None:
    if not holds:
        raise ArgumentError(broken_rule(name, rule, value))
