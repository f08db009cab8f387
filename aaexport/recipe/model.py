"""The whole of model.toml, and every table of it but [network]."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tomllib
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from aaexport.errors import ArgumentError, RecipeError, broken_rule, parameter
from aaexport.recipe.network import Network
from aaexport.recipe.section import Section, parse

SCHEMA = 1
OPSETS = range(18, 26)
DEFAULT_OPSET = 20
MAX_SEED = 2**63 - 1  # what torch's generators take
MAX_SIDE = 65536
MAX_BATCH = 65536
MAX_DKH = 1024
MAX_CLASSES = 1_000_000
DecompositionName = Literal["auto", "skew", "table", "shift", "fold", "fused"]  # all but auto: aaexport.nn.relative
Batch = int | Literal["dynamic"]  # images that a file takes at once
DECOMPOSITION_NAMES: tuple[str, ...] = typing.get_args(DecompositionName)
DEFAULT_DECOMPOSITION: DecompositionName = "auto"
HeadLayout = Literal["permuted", "unpermuted"]


def check_opset(opset: int) -> int:
    """Returns `opset` if torch's exporter really writes it; ArgumentError if not.

    Opset 26 is left out because the exporter (torch 2.13) fails on it and then declares opset 18.
    """
    if opset not in OPSETS:
        rule = f"be between {OPSETS[0]} and {OPSETS[-1]}"
        raise ArgumentError(broken_rule("opset", rule, opset, "20 runs in the most runtimes"))
    return opset


@dataclass(frozen=True, kw_only=True)
class Attention(Section):
    """How much of each layer is attention: κ, υ and heads as in Bello et al. 2019, section 3, and in which layers.

    `stages` are the stages whose layers are augmented, all of them by default; `downsample_stages` are those whose
    attention runs on a pooled map. `layers` says whether one convolution of a block is augmented, as in the paper,
    or every one and the shortcuts, as in the PyTorch reference implementation; `head_layout` whether the heads'
    outputs are put side by side, as in the paper, or mixed with positions, as in that implementation.
    """

    table: ClassVar[str] = "attention"
    kappa: float
    upsilon: float
    num_heads: int
    relative: bool = True
    stages: tuple[int, ...] = ()
    downsample_stages: tuple[int, ...] = ()
    layers: Literal["one-per-block", "every"] = "one-per-block"
    qkv_kernel_size: int = 1
    min_dkh: int = 20
    head_layout: HeadLayout = "permuted"

    def __post_init__(self) -> None:
        self._require(self.kappa > 0, "kappa", "be above 0")
        self._require(0 < self.upsilon <= 1, "upsilon", "be above 0 and at most 1")
        self._require(self.num_heads >= 1, "num_heads", "be at least 1")
        self._require(self.qkv_kernel_size % 2 == 1 and self.qkv_kernel_size > 0, "qkv_kernel_size", "be odd")
        self._require(1 <= self.min_dkh <= MAX_DKH, "min_dkh", f"be at least 1 and at most {MAX_DKH}")
        for key in ("stages", "downsample_stages"):
            stages = getattr(self, key)
            self._require(len(set(stages)) == len(stages), key, "name every stage once")
        if self.stages:
            rule = f"be augmented stages, some of {list(self.stages)}"
            self._require(set(self.downsample_stages) <= set(self.stages), "downsample_stages", rule)

    def augments(self, stage: int) -> bool:
        """Whether the layers of that stage, counted from 1, are augmented."""
        return not self.stages or stage in self.stages


@dataclass(frozen=True, kw_only=True)
class Input(Section):
    """The images that the network takes, normalised as (pixel − mean) / std with pixels in [0, 1].

    `labels` are the names of the classes or how many there are; a network without a classifier has none.
    """

    table: ClassVar[str] = "input"
    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    labels: tuple[str, ...] | int = ()

    def __post_init__(self) -> None:
        for key in ("channels", "height", "width"):
            self._require(getattr(self, key) >= 1, key, "be at least 1")
        for key in ("height", "width"):
            self._require(getattr(self, key) <= MAX_SIDE, key, f"be at most {MAX_SIDE}")
        self._require(len(self.mean) == self.channels, "mean", f"hold {self.channels} numbers, one a channel")
        self._require(len(self.std) == self.channels, "std", f"hold {self.channels} numbers, one a channel")
        self._require(min(self.std) > 0, "std", "be above 0")
        self._require(len(set(self.names)) == len(self.names), "labels", "name every class once")
        self._require(self.classes <= MAX_CLASSES, "labels", f"count at most {MAX_CLASSES} classes")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return (self.channels, self.height, self.width)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return (self.height, self.width)

    @property
    def names(self) -> tuple[str, ...]:
        """The classes' names; none if only their number is known."""
        return () if isinstance(self.labels, int) else self.labels

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return self.labels if isinstance(self.labels, int) else len(self.labels)


@dataclass(frozen=True, kw_only=True)
class Data(Section):
    """Where the images come from, how they are brought to the input's size, and how training ones are varied.

    `dataset` is a source of `aaexport.data` or the name of a data set on the Hugging Face hub (`owner/name`);
    `path` the folder of `imagefolder`, relative to the model folder. Evaluation keeps the central `crop_share` of an
    image's sides. Training crops at random, either from a copy padded by `crop_padding` pixels, or
    (`random_resized_crop`) a part of 8 to 100 % of the area, resized; `flip` mirrors half of the images.
    """

    table: ClassVar[str] = "data"
    dataset: str
    path: str = ""
    label_column: str = ""
    test_split: str = ""
    crop_padding: int = 0
    random_resized_crop: bool = False
    crop_share: float = 1.0
    flip: bool = False

    def __post_init__(self) -> None:
        self._require(self.crop_padding >= 0, "crop_padding", "be at least 0")
        self._require(
            not (self.random_resized_crop and self.crop_padding), "crop_padding", "be 0 beside random_resized_crop"
        )
        self._require(0 < self.crop_share <= 1, "crop_share", "be above 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class Training(Section):
    """One run of stochastic gradient descent: linear warm-up, then a cosine to zero or a staircase.

    The staircase multiplies the rate by `step_factor` after each of the epochs in `milestones`. `ema_decay` above 0
    keeps an exponential moving average of the weights, which is then what is evaluated and saved.
    """

    table: ClassVar[str] = "training"
    epochs: int
    batch_size: int
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float
    schedule: Literal["cosine", "step"] = "cosine"
    milestones: tuple[int, ...] = ()
    step_factor: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 0.0005
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.0
    ema_decay: float = 0.0
    gpu_precision: Literal["float32", "bfloat16", "float16"] = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        self._require(self.epochs >= 1, "epochs", "be at least 1")
        self._require(self.batch_size >= 1, "batch_size", "be at least 1")
        self._require(self.learning_rate > 0, "learning_rate", "be above 0")
        self._require(self.learning_rate <= 1e38, "learning_rate", "be a float32, at most 1e38")
        self._require(bool(self.milestones) == (self.schedule == "step"), "milestones",
                      "be given for the schedule 'step', and for it alone")  # fmt: skip
        ascending = all(a < b for a, b in zip((0, *self.milestones), self.milestones, strict=False))
        self._require(ascending, "milestones", "be epochs in ascending order")
        self._require(0 < self.step_factor < 1, "step_factor", "be above 0 and below 1")
        self._require(0 <= self.momentum < 1, "momentum", "be at least 0 and below 1")
        self._require(self.weight_decay >= 0, "weight_decay", "be at least 0")
        self._require(0 <= self.warmup_epochs <= self.epochs, "warmup_epochs", "be between 0 and epochs")
        self._require(0 <= self.label_smoothing < 1, "label_smoothing", "be at least 0 and below 1")
        self._require(0 <= self.ema_decay < 1, "ema_decay", "be at least 0 and below 1")
        self._require(self.seed >= 0, "seed", "be at least 0")
        self._require(self.seed <= MAX_SEED, "seed", f"be at most {MAX_SEED}")


@dataclass(frozen=True, kw_only=True)
class Export(Section):
    """What `aaexport convert` does unless its options say otherwise.

    Without an opset it is 20, or what suits attention on the target (`aaexport.pipeline.export.plan.default_opset`).
    """

    table: ClassVar[str] = "export"
    opset: int | None = None
    decomposition: DecompositionName = DEFAULT_DECOMPOSITION
    batch: Batch = "dynamic"

    def __post_init__(self) -> None:
        self._require(self.opset is None or self.opset in OPSETS, "opset", f"be between {OPSETS[0]} and {OPSETS[-1]}")
        self._require(self.batch == "dynamic" or self.batch >= 1, "batch", "be 'dynamic' or at least 1")


# A network that returns features has no [training]; nothing ever trains with this.
NO_TRAINING = Training(epochs=1, batch_size=1, learning_rate=1.0)


@dataclass(frozen=True, kw_only=True)
class Recipe(Section):
    """A whole model.toml. `attention` is None for the plain-convolution twin."""

    table: ClassVar[str] = ""
    schema: int
    description: str
    network: Network
    input: Input
    data: Data
    training: Training = NO_TRAINING
    attention: Attention | None = None
    export: Export = Export()

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise RecipeError(broken_rule("schema", f"be {SCHEMA}", self.schema, "update aaexport"))
        if self.network.classifies and self.training is NO_TRAINING:
            raise RecipeError("training is missing")
        if not self.network.classifies and self.training is not NO_TRAINING:
            raise RecipeError("training must be left out for a network that returns features; train its classifier")
        self._check_size()
        self._check_labels()
        self._check_stages()

    def for_size(self, size: tuple[int, int] | None) -> Recipe:
        """The same recipe for images of `size` (H, W), or its own; ArgumentError if the network cannot take it."""
        if size is None:
            return self
        try:
            return dataclasses.replace(self, input=dataclasses.replace(self.input, height=size[0], width=size[1]))
        except RecipeError as error:
            cause = str(error).removeprefix("[input] ").partition("; ")[0]
            remedy = "ask for smaller images" if max(size) > MAX_SIDE else "ask for larger images"
            raise ArgumentError(f"{parameter('size')}: {cause}; {remedy}") from error

    def digest(self) -> str:
        """sha256 of what decides the function that the weights complete: network, attention and input."""
        parts = (self.network, self.attention, self.input)
        values = [None if part is None else part.stated() for part in parts]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def _check_size(self) -> None:
        least = self.network.total_stride
        for key, value in (("height", self.input.height), ("width", self.input.width)):
            if value < least:
                rule = f"be at least {least}, the network's stride"
                raise RecipeError(broken_rule(f"[input] {key}", rule, value, "use larger images or a smaller stride"))

    def _check_labels(self) -> None:
        labels, classes = self.input.labels, self.input.classes
        if self.network.classifies and classes < 2:
            raise RecipeError(broken_rule("[input] labels", "name or count at least 2 classes", labels))
        if not self.network.classifies and classes:
            raise RecipeError(broken_rule("[input] labels", "be left out: the network returns features", labels))

    def _check_stages(self) -> None:
        if self.attention is None:
            return
        if self.attention.layers == "every" and not self.network.augments_every_layer:
            rule = "be 'one-per-block' but in a wide_resnet"
            raise RecipeError(broken_rule("[attention] layers", rule, self.attention.layers))
        for key in ("stages", "downsample_stages"):
            stages = getattr(self.attention, key)
            if not set(stages) <= set(range(1, self.network.stages + 1)):
                rule = f"be stages of the network, 1 to {self.network.stages}"
                raise RecipeError(broken_rule(f"[attention] {key}", rule, stages))


def read_recipe(path: Path) -> Recipe:
    """Reads model.toml. RecipeError names the file and, where there is one, the line or the key."""
    values = read_toml(path)
    try:
        return parse(Recipe, values, "")
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. RecipeError names the file and the line."""
    try:
        text = path.read_text(encoding="utf-8")
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path} must be TOML, but: {_placed(error, text)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} must be a readable text file, but: {error}") from error


def _placed(error: tomllib.TOMLDecodeError, text: str) -> str:
    """The parser's complaint, with line and column also where it only says that the text ended too early."""
    lines = text.splitlines() or [""]
    end = f"at line {len(lines)}, column {len(lines[-1]) + 1}, the end of the file"
    return str(error).replace("at end of document", end)
