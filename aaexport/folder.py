"""A model folder: the names of its files, atomic writes, and the zoo that folders are copied from."""

from __future__ import annotations

import dataclasses
import filecmp
import functools
import hashlib
import importlib.metadata
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from aaexport.errors import (
    DeploymentError,
    FolderError,
    MeasurementError,
    ModelNotFoundError,
    NoWeightsError,
    ParityError,
    RecipeError,
    broken_rule,
    did_you_mean,
)
from aaexport.recipe import Cost, ModuleRecipe, Recipe, read_module_recipe, read_recipe
from aaexport.writing import atomic_path, exists, new_files, write_json

MANIFEST_SCHEMA = "aaexport.manifest/1"
RECORDED_TOOLS = ("aaexport", "torch", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime", "numpy")
Dtype = Literal["float32", "float16", "int8"]  # of a folder's ONNX files: model.onnx is always float32
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
ONNX_FILES: dict[Dtype, str] = {
    "float32": "model.onnx",
    "float16": "model.fp16.onnx",
    "int8": "model.int8.onnx",
}
PARITY_FILES: dict[Dtype, str] = {
    "float32": "parity.json",
    "float16": "parity.fp16.json",
    "int8": "parity.int8.json",
}
BENCH_FILES: dict[Dtype, str] = {
    "float32": "bench.json",
    "float16": "bench.fp16.json",
    "int8": "bench.int8.json",
}
DERIVED_FILES = (  # conversion's
    *ONNX_FILES.values(),
    *PARITY_FILES.values(),
    "truth.safetensors",
    "manifest.json",
    "weights.safetensors",
)
COPIED_FILES = ("model.toml", "weights.safetensors", "golden.safetensors", "train.jsonl", "tuning.json")


class CheckOut(Protocol):
    """As `checkout`, without a word to be said."""

    def __call__(self, name_or_path: str | Path, out: Path | None = None) -> ModelFolder:
        """The folder to work in."""


@dataclass(frozen=True)
class ModelFolder:
    """One model on disk. Every file but model.toml may be missing until its command has run."""

    path: Path

    @property
    def name(self) -> str:
        """The folder's own name, which is the model's."""
        return self.path.resolve().name

    @property
    def recipe_path(self) -> Path:
        """model.toml: written by people."""
        return self.path / "model.toml"

    @property
    def weights_path(self) -> Path:
        """weights.safetensors: the state_dict."""
        return self.path / "weights.safetensors"

    @property
    def onnx_path(self) -> Path:
        """model.onnx: the export; above 2 GiB with its large tensors beside it, in model.onnx.‹digest›.data."""
        return self.path / "model.onnx"

    @property
    def golden_path(self) -> Path:
        """golden.safetensors: a few inputs and the outputs that the weights gave for them."""
        return self.path / "golden.safetensors"

    @property
    def truth_path(self) -> Path:
        """truth.safetensors: what PyTorch answered in float64 to the first images when model.onnx was verified."""
        return self.path / "truth.safetensors"

    @property
    def parity_path(self) -> Path:
        """parity.json: the last verification."""
        return self.path / "parity.json"

    def onnx_of(self, dtype: Dtype) -> Path:
        """model.onnx, or the same network in another precision beside it: model.fp16.onnx, model.int8.onnx."""
        return self.path / ONNX_FILES[dtype]

    def parity_of(self, dtype: Dtype) -> Path:
        """The last verification of `onnx_of`."""
        return self.path / PARITY_FILES[dtype]

    @property
    def bench_path(self) -> Path:
        """bench.json: the last measurement."""
        return self.path / "bench.json"

    def bench_of(self, dtype: Dtype) -> Path:
        """The last measurement of `onnx_of`."""
        return self.path / BENCH_FILES[dtype]

    @property
    def tuning_path(self) -> Path:
        """tuning.json: how long each way to write the attention of each layer took, and the ways to take."""
        return self.path / "tuning.json"

    @property
    def training_log_path(self) -> Path:
        """train.jsonl: one line an epoch."""
        return self.path / "train.jsonl"

    @property
    def training_page_path(self) -> Path:
        """train.html: the curves of the last training, written by `aaexport train` after every epoch."""
        return self.path / "train.html"

    @property
    def checkpoint_path(self) -> Path:
        """checkpoint.pt: where an interrupted training goes on."""
        return self.path / "checkpoint.pt"

    @property
    def best_path(self) -> Path:
        """best.safetensors: the weights of the epoch with the highest test accuracy."""
        return self.path / "best.safetensors"

    @property
    def manifest_path(self) -> Path:
        """manifest.json: sha256 and size of every file, and the versions of the tools."""
        return self.path / "manifest.json"

    @property
    def is_zoo(self) -> bool:
        """Whether this is the zoo's own folder, which is copied and never written to."""
        return self.path.resolve().parent == zoo_root().resolve()

    @cached_property
    def recipe(self) -> Recipe:
        """The parsed model.toml; RecipeError if it breaks a rule, or is of a module that was brought along."""
        if self.module_recipe is not None:
            source = self.module_recipe.module.source
            remedy = "that goes with a network of aaexport's own only"
            raise RecipeError(broken_rule(str(self.recipe_path), "have a [network]", f"the module {source}", remedy))
        return read_recipe(self.recipe_path)

    @cached_property
    def module_recipe(self) -> ModuleRecipe | None:
        """The parsed model.toml of a module that was brought along; None for a network of ours."""
        return read_module_recipe(self.recipe_path)

    def other_size(self, recipe: Recipe) -> tuple[int, int] | None:
        """(H, W) of the images of `recipe`, this one's for some size, if that is not the one in model.toml."""
        return None if recipe.input.size == self.recipe.input.size else recipe.input.size

    def require_weights(self) -> Path:
        """The weights' path; NoWeightsError, which says how to train, if there are none."""
        if not self.weights_path.is_file():
            name = self.name if self.is_zoo else self.path
            raise NoWeightsError(f"{name} has no weights.safetensors yet; train them with `aaexport train {name}`")
        return self.weights_path

    def write_manifest(self, cost: Cost | None = None) -> None:
        """Records sha256 and size of every file of the folder, the tools' versions, and what its network costs.

        `cost` is that of the folder's recipe where it was counted; without one a record of it is kept. FolderError if
        it cannot be written.
        """
        try:
            files = sorted(p for p in self.path.iterdir() if p.is_file() and not p.name.startswith("."))
            recorded = {
                p.name: {"sha256": sha256(p), "bytes": p.stat().st_size}
                for p in files
                if p not in (self.manifest_path, self.checkpoint_path)
            }
        except OSError as error:
            raise FolderError(f"{error.filename or self.path} cannot be read: {error.strerror}") from error
        manifest: dict[str, Any] = {"schema": MANIFEST_SCHEMA, "files": recorded, "tools": tool_versions()}
        cost = self.recorded_cost() if cost is None else cost
        if cost is not None:
            manifest["cost"] = {"recipe_digest": self.recipe.digest(), **dataclasses.asdict(cost)}
        write_json(self.manifest_path, manifest)

    def recorded_cost(self) -> Cost | None:
        """What the manifest tells that the network costs; None if nothing, or of another recipe or aaexport."""
        try:
            manifest = json.loads(self.manifest_path.read_text(encoding="utf-8"))
            cost = dict(manifest["cost"])
            is_of_this = manifest["tools"]["aaexport"] == importlib.metadata.version("aaexport")
            return Cost(**cost) if cost.pop("recipe_digest") == self.recipe.digest() and is_of_this else None
        except (OSError, ValueError, LookupError, TypeError):
            return None  # nobody has recorded it, and whoever needs it counts it


def open_folder(path: Path) -> ModelFolder:
    """The model folder at `path`; FolderError if it has no model.toml."""
    folder = ModelFolder(path)
    if not folder.recipe_path.is_file():
        raise FolderError(f"{path} must hold a model.toml, got a folder without one; start from a zoo model")
    return folder


def find_model(name_or_path: str | Path) -> ModelFolder:
    """The folder at that path, or the zoo's own folder of that name (read-only).

    Raises:
        ModelNotFoundError: neither exists; the text suggests the nearest zoo name.
        FolderError: the folder has no model.toml.
    """
    path = Path(name_or_path)
    is_there = exists(path)
    if is_there and path.is_dir():
        return open_folder(path)
    zoo = zoo_models()
    if str(name_or_path) in zoo:
        return zoo[str(name_or_path)]
    if is_there:
        raise FolderError(f"model must be a model folder or a zoo name, got the file {str(path)!r}")
    raise ModelNotFoundError(
        f"model must be a folder or a zoo name, got {str(name_or_path)!r}; {did_you_mean(str(name_or_path), zoo)}"
    )


def checkout(
    name_or_path: str | Path, out: Path | None = None, say: Callable[[str], None] = lambda line: None
) -> ModelFolder:
    """A folder to work in: the one named, or a copy of it in `out`; a zoo model is always copied.

    Without `out` a zoo model goes to ./<name>. An `out` that already holds the same model.toml is worked
    on as it is; one that holds another is refused, so nothing of it is lost. `say` is told of a copy.

    Raises:
        ModelNotFoundError, FolderError: as `find_model`, or `out` holds something else or cannot be written.
    """
    with copies(say) as check_out:
        return check_out(name_or_path, out)


@contextmanager
def copies(say: Callable[[str], None] = lambda line: None) -> Iterator[CheckOut]:
    """Gives `checkout` to a block; a copy that is made in it goes again where the block is refused or fails.

    It stays where the block came to a verdict, where it was interrupted, and where anything lies in it that is
    neither a copy nor a conversion.
    """
    made: list[_Copied] = []

    def check_out(name_or_path: str | Path, out: Path | None = None) -> ModelFolder:
        source = find_model(name_or_path)
        return source if out is None and not source.is_zoo else _checked_out(source, out, say, made)

    try:
        yield check_out
    except (ParityError, MeasurementError, DeploymentError):
        raise
    except Exception:
        for copied in made:
            if copied.is_taken_back():
                say(f"removed {copied.target.path} again")
        raise


def _checked_out(
    source: ModelFolder, out: Path | None, say: Callable[[str], None], made: list[_Copied]
) -> ModelFolder:
    target = ModelFolder(out if out is not None else Path(source.name))
    require_outside_zoo(target.path)
    if target.path.exists() and source.path.resolve() == target.path.resolve():
        return source
    if target.recipe_path.is_file():
        if target.recipe_path.read_bytes() != source.recipe_path.read_bytes():
            raise FolderError(f"out must be new or hold the model.toml of {source.name}, got {target.path}")
        return target
    if target.path.exists() and (not target.path.is_dir() or any(target.path.iterdir())):
        raise FolderError(f"out must be a new or empty folder, got {target.path}")
    absent = tuple(path for path in (target.path, *target.path.parents) if not path.exists())
    _copy(source, target)
    made.append(_Copied(source, target, absent))
    say(f"copied {source.name} to {target.path}")
    return target


@dataclass(frozen=True)
class _Copied:
    """A copy, and the folders that were not there before it, the innermost first."""

    source: ModelFolder
    target: ModelFolder
    absent: tuple[Path, ...]

    def is_taken_back(self) -> bool:
        """Removes what was copied and converted; not if there is anything else, or a copy that was changed."""
        with suppress(OSError):  # nothing is lost by a folder that cannot be removed
            files = list(self.target.path.iterdir())
            if not all(self._is_ours(file) for file in files):
                return False
            for file in files:
                file.unlink()
            for path in self.absent:
                path.rmdir()
            return True
        return False

    def _is_ours(self, file: Path) -> bool:
        copied = self.source.path / file.name
        if file.name in COPIED_FILES and copied.is_file():
            return file.is_file() and filecmp.cmp(file, copied, shallow=False)
        is_derived = file.name in DERIVED_FILES or any(is_data_file(file.name, name) for name in ONNX_FILES.values())
        return is_derived and file.is_file()


def require_outside_zoo(out: Path) -> None:
    """FolderError for a folder to work in that is the zoo's own."""
    if out.resolve().is_relative_to(zoo_root().resolve()):
        raise FolderError(f"out must lie outside the zoo, got {out}; name another folder with --out")


def _copy(source: ModelFolder, target: ModelFolder) -> None:
    # A broken recipe is reported where the user wrote it, and nothing is copied.
    path = "" if source.module_recipe is not None else source.recipe.data.path
    if path and not Path(path).is_absolute():
        rule, remedy = "be absolute where the folder is copied", "write it so, or work in the folder itself"
        raise FolderError(broken_rule(f"{source.recipe_path}: [data] path", rule, path, remedy))
    names = [name for name in COPIED_FILES if (source.path / name).is_file()]
    with new_files([target.path / name for name in names]):  # half a copy would stand in the way of the next try
        for name in names:
            with atomic_path(target.path / name) as temporary:
                shutil.copyfile(source.path / name, temporary)


def zoo_root() -> Path:
    """Where the zoo's folders lie: inside an installed package, or beside it in a source checkout."""
    package = Path(__file__).parent
    installed = package / "zoo"
    return installed if installed.is_dir() else package.parent / "models"


def zoo_models() -> dict[str, ModelFolder]:
    """Every zoo model by name, in alphabetical order."""
    folders = sorted(path.parent for path in zoo_root().glob("*/model.toml"))
    return {path.name: ModelFolder(path) for path in folders}


def data_file_name(model: str, digest: str) -> str:
    """Of the numbers of an ONNX file that is called `model`, by their own digest, where they are not in it."""
    return f"{model}.{digest}.data"


def is_data_file(name: str, model: str) -> bool:
    """Whether it is such a name of that file's."""
    rest = name.removeprefix(f"{model}.")
    return rest != name and re.fullmatch(r"[0-9a-f]{16}\.data", rest) is not None


def sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tool_versions() -> dict[str, str]:
    """The versions of aaexport and of the tools that decide its results, as far as they are installed."""
    return {tool: version for tool in RECORDED_TOOLS if (version := _version_of(tool)) is not None}


@functools.cache  # parsing what is told of a distribution takes milliseconds, and a process keeps what it has loaded
def _version_of(tool: str) -> str | None:
    """None where it is not installed."""
    try:
        return importlib.metadata.version(tool)
    except importlib.metadata.PackageNotFoundError:
        return None
