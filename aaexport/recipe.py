"""model.toml ↔ frozen dataclasses: what a person writes about a model, checked once and then a value."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import tomllib
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from aaexport.errors import ArgumentError, RecipeError, broken_rule, did_you_mean

SectionT = TypeVar("SectionT", bound="Section")

SCHEMA = 1
OPSETS = range(18, 26)
DEFAULT_OPSET = 20
MAX_CHANNELS = 65536
MAX_SEED = 2**63 - 1  # what torch's generators take
DecompositionName = Literal["skew", "table"]  # aaexport.nn.relative computes them
DECOMPOSITION_NAMES: tuple[str, ...] = typing.get_args(DecompositionName)
DEFAULT_DECOMPOSITION: DecompositionName = "table"


def check_opset(opset: int) -> int:
    """Returns `opset` if torch's exporter really writes it; ArgumentError if not.

    Opset 26 is left out because the exporter (torch 2.13) fails on it and then declares opset 18.
    """
    if opset not in OPSETS:
        rule = f"be between {OPSETS[0]} and {OPSETS[-1]}"
        raise ArgumentError(broken_rule("opset", rule, opset, "20 runs in the most runtimes"))
    return opset


@dataclass(frozen=True, kw_only=True)
class Section:
    """One table of model.toml; subclasses list its keys and check their values."""

    table: ClassVar[str]

    def _require(self, holds: bool, key: str, rule: str) -> None:
        if not holds:
            raise RecipeError(broken_rule(f"[{self.table}] {key}", rule, getattr(self, key)))


@dataclass(frozen=True, kw_only=True)
class Cnn3(Section):
    """Three convolutions, each with batch normalization and ReLU, then global average pooling."""

    table: ClassVar[str] = "network"
    family: Literal["cnn3"]
    channels: tuple[int, ...] = (64, 128, 192)
    strides: tuple[int, ...] = (1, 2, 2)
    kernel_size: int = 3

    def __post_init__(self) -> None:
        self._require(len(self.channels) == 3 and min(self.channels) >= 1, "channels", "be three numbers ≥ 1")
        self._require(max(self.channels) <= MAX_CHANNELS, "channels", f"be at most {MAX_CHANNELS} each")
        self._require(
            len(self.strides) == 3 and set(self.strides) <= {1, 2}, "strides", "be three numbers, each 1 or 2"
        )
        self._require(self.kernel_size % 2 == 1 and self.kernel_size > 0, "kernel_size", "be odd and positive")


FAMILIES: dict[str, type[Cnn3]] = {"cnn3": Cnn3}
Network = Cnn3


@dataclass(frozen=True, kw_only=True)
class Attention(Section):
    """How much of each layer is attention: κ, υ and heads as in Bello et al. 2019, section 3."""

    table: ClassVar[str] = "attention"
    kappa: float
    upsilon: float
    num_heads: int
    relative: bool = True
    qkv_kernel_size: int = 1
    downsample: int = 1

    def __post_init__(self) -> None:
        self._require(self.kappa > 0, "kappa", "be above 0")
        self._require(0 < self.upsilon <= 1, "upsilon", "be above 0 and at most 1")
        self._require(self.num_heads >= 1, "num_heads", "be at least 1")
        self._require(self.qkv_kernel_size % 2 == 1 and self.qkv_kernel_size > 0, "qkv_kernel_size", "be odd")
        self._require(self.downsample in (1, 2), "downsample", "be 1 or 2")


@dataclass(frozen=True, kw_only=True)
class Input(Section):
    """The images that the network takes, normalised as (pixel − mean) / std with pixels in [0, 1]."""

    table: ClassVar[str] = "input"
    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        for key in ("channels", "height", "width"):
            self._require(getattr(self, key) >= 1, key, "be at least 1")
        self._require(len(self.mean) == self.channels, "mean", f"hold {self.channels} numbers, one a channel")
        self._require(len(self.std) == self.channels, "std", f"hold {self.channels} numbers, one a channel")
        self._require(min(self.std) > 0, "std", "be above 0")
        self._require(len(self.labels) >= 2, "labels", "name at least 2 classes")
        self._require(len(set(self.labels)) == len(self.labels), "labels", "name every class once")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return (self.channels, self.height, self.width)


@dataclass(frozen=True, kw_only=True)
class Data(Section):
    """Where the images come from and how training ones are varied."""

    table: ClassVar[str] = "data"
    dataset: str
    crop_padding: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        self._require(self.crop_padding >= 0, "crop_padding", "be at least 0")


@dataclass(frozen=True, kw_only=True)
class Training(Section):
    """One run of stochastic gradient descent: linear warm-up, then cosine decay to zero."""

    table: ClassVar[str] = "training"
    epochs: int
    batch_size: int
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float
    momentum: float = 0.9
    weight_decay: float = 0.0005
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.0
    gpu_precision: Literal["float32", "bfloat16", "float16"] = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        self._require(self.epochs >= 1, "epochs", "be at least 1")
        self._require(self.batch_size >= 1, "batch_size", "be at least 1")
        self._require(self.learning_rate > 0, "learning_rate", "be above 0")
        self._require(self.learning_rate <= 1e38, "learning_rate", "be a float32, at most 1e38")
        self._require(0 <= self.momentum < 1, "momentum", "be at least 0 and below 1")
        self._require(self.weight_decay >= 0, "weight_decay", "be at least 0")
        self._require(0 <= self.warmup_epochs <= self.epochs, "warmup_epochs", "be between 0 and epochs")
        self._require(0 <= self.label_smoothing < 1, "label_smoothing", "be at least 0 and below 1")
        self._require(self.seed >= 0, "seed", "be at least 0")
        self._require(self.seed <= MAX_SEED, "seed", f"be at most {MAX_SEED}")


@dataclass(frozen=True, kw_only=True)
class Export(Section):
    """What `aaexport convert` does unless its options say otherwise."""

    table: ClassVar[str] = "export"
    opset: int = DEFAULT_OPSET
    decomposition: DecompositionName = DEFAULT_DECOMPOSITION
    batch: int | Literal["dynamic"] = "dynamic"

    def __post_init__(self) -> None:
        self._require(self.opset in OPSETS, "opset", f"be between {OPSETS[0]} and {OPSETS[-1]}")
        self._require(self.batch == "dynamic" or self.batch >= 1, "batch", "be 'dynamic' or at least 1")


@dataclass(frozen=True, kw_only=True)
class Recipe(Section):
    """A whole model.toml. `attention` is None for the plain-convolution twin."""

    table: ClassVar[str] = ""
    schema: int
    description: str
    network: Network
    input: Input
    data: Data
    training: Training
    attention: Attention | None = None
    export: Export = Export()

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise RecipeError(broken_rule("schema", f"be {SCHEMA}", self.schema, "update aaexport"))

    def digest(self) -> str:
        """sha256 of what decides the function that the weights complete: network, attention and input."""
        parts = (self.network, self.attention, self.input)
        values = [None if part is None else dataclasses.asdict(part) for part in parts]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def read_recipe(path: Path) -> Recipe:
    """Reads model.toml. RecipeError names the file and, where there is one, the line or the key."""
    try:
        text = path.read_text(encoding="utf-8")
        return _parse(Recipe, tomllib.loads(text), "")
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path} must be TOML, but: {_placed(error, text)}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} must be a readable text file, but: {error}") from error
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error


def _placed(error: tomllib.TOMLDecodeError, text: str) -> str:
    """The parser's complaint, with line and column also where it only says that the text ended too early."""
    lines = text.splitlines() or [""]
    end = f"at line {len(lines)}, column {len(lines[-1]) + 1}, the end of the file"
    return str(error).replace("at end of document", end)


def _parse(section: type[SectionT], values: dict[str, Any], table: str) -> SectionT:
    types_of = typing.get_type_hints(section)
    fields = {field.name: field for field in dataclasses.fields(section)}
    for key in (key for key in values if key not in fields):
        raise RecipeError(f"{_named(table, key)} is not a key; {did_you_mean(key, fields)}")
    for name, field in fields.items():
        if name not in values and field.default is dataclasses.MISSING:
            raise RecipeError(f"{_named(table, name)} is missing")
    return section(**{key: _value(types_of[key], value, table, key) for key, value in values.items()})


def _value(wanted: Any, value: Any, table: str, key: str) -> Any:
    """`value` as the type hint `wanted` has it; RecipeError if it is of another type."""
    if wanted is Network:
        return _network(value)
    if typing.get_origin(wanted) in (types.UnionType, typing.Union):
        return _one_of(typing.get_args(wanted), value, table, key)
    if typing.get_origin(wanted) is Literal:
        choices = typing.get_args(wanted)
        if value in choices:
            return value
        raise RecipeError(broken_rule(_named(table, key), f"be one of {', '.join(choices)}", value))
    if typing.get_origin(wanted) is tuple:
        item = typing.get_args(wanted)[0]
        if isinstance(value, list):
            return tuple(_value(item, entry, table, key) for entry in value)
        raise RecipeError(broken_rule(_named(table, key), "be a list", value))
    if isinstance(wanted, type) and issubclass(wanted, Section):
        if isinstance(value, dict):
            return _parse(wanted, value, wanted.table)
        raise RecipeError(broken_rule(key, f"be a table [{key}]", value))
    return _scalar(wanted, value, table, key)


def _scalar(wanted: type, value: Any, table: str, key: str) -> Any:
    # bool is an int to Python and an integer is a fine float to a person; neither slip may pass for the other.
    if wanted is float and type(value) is int:
        value = float(value) if abs(value) < 2**1000 else math.inf
    if type(value) is wanted:
        if isinstance(value, float) and not math.isfinite(value):
            raise RecipeError(broken_rule(_named(table, key), "be finite", value))
        return value
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    raise RecipeError(broken_rule(_named(table, key), f"be {names[wanted]}", value))


def _one_of(choices: tuple[Any, ...], value: Any, table: str, key: str) -> Any:
    refusals = []
    for choice in choices:
        if choice is type(None):
            continue
        try:
            return _value(choice, value, table, key)
        except RecipeError as refusal:
            refusals.append(refusal)
    if len(refusals) == 1:
        raise refusals[0]
    rules = " or ".join(str(refusal).split(" must ")[1].split(", got ")[0] for refusal in refusals)
    raise RecipeError(broken_rule(_named(table, key), rules, value)) from refusals[0]


def _network(values: Any) -> Network:
    if not isinstance(values, dict) or "family" not in values:
        raise RecipeError(f"[network] family is missing; known: {', '.join(sorted(FAMILIES))}")
    family = values["family"]
    if not isinstance(family, str) or family not in FAMILIES:
        remedy = did_you_mean(str(family), FAMILIES)
        raise RecipeError(broken_rule("[network] family", "be a known family", family, remedy))
    return _parse(FAMILIES[family], values, "network")


def _named(table: str, key: str) -> str:
    return f"[{table}] {key}" if table else key
