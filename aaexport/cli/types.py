"""What is typed behind an option or for MODEL → values; and what a shell offers to complete it with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, cast

import click
from click.shell_completion import CompletionItem

from aaexport.errors import broken_rule
from aaexport.folder import zoo_models

Value = TypeVar("Value")
DEVICES = ("cpu", "cuda")
DEVICE_FILES = Path("/dev")
GPU_FILE = re.compile(r"nvidia(\d+)")
PATHS_OF = ("onnx:", "folder:")  # what stands before a path in a list of names


class Typed(click.ParamType[Value]):
    """The base of our types: what breaks a rule is called by the option that it was typed behind."""

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """What can be typed, as it is written: click would write it in capitals."""
        return self.name

    def refuse(
        self,
        rule: str,
        got: object,
        param: click.Parameter | None,
        ctx: click.Context | None,
        remedy: str = "",
    ) -> NoReturn:
        """UsageError: `--option must <rule>, got <value>; <remedy>`."""
        option = "the value" if param is None else max(param.opts, key=len)
        raise click.UsageError(broken_rule(option, rule, got, remedy), ctx)


class Whole(Typed[int]):
    """A whole number of at least so much."""

    name = "N"

    def __init__(self, least: int = 1, most: int | None = None) -> None:
        self.least, self.most = least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Refuses anything else."""
        most = float("inf") if self.most is None else self.most
        number = _whole(str(value))
        if number is None or not self.least <= number <= most:
            bound = f"of at least {self.least}" if self.most is None else f"between {self.least} and {self.most}"
            self.refuse(f"be a whole number {bound}", value, param, ctx)
        return number


class PathTo(click.Path):
    """A path, called by what lies there."""

    def __init__(self, what: str, **rules: bool) -> None:
        super().__init__(path_type=Path, **rules)
        self.what = what

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """As `FILE.json`."""
        return self.what


class Model(Typed[str]):
    """A zoo model by name, a model folder, or what else a command takes for one."""

    name = "MODEL"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The zoo's names, and every path."""
        return [*_beginning(zoo_models(), incomplete), CompletionItem(incomplete, type="file")]


class Word(Typed[str]):
    """One of a few words; another is refused where its meaning is known, with the rest of what was typed."""

    def __init__(self, *words: str) -> None:
        self.words, self.name = words, "|".join(words)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """As click shows a choice."""
        return f"[{self.name}]"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The words."""
        return _beginning(self.words, incomplete)


class Device(Typed[str]):
    """`cpu`, `cuda` or `cuda:N`."""

    name = "cpu|cuda[:N]"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """With the number of every NVIDIA GPU that Linux has a file for."""
        found = (GPU_FILE.fullmatch(path.name) for path in DEVICE_FILES.glob("nvidia*"))
        numbers = sorted(int(number[1]) for number in found if number is not None)
        return _beginning((*DEVICES, *(f"cuda:{number}" for number in numbers)), incomplete)


class Names(Typed[tuple[str, ...]]):
    """Names separated by commas; with `none` that word, alone, is no name at all."""

    def __init__(self, *known: str, paths: bool = False, none: bool = False) -> None:
        self.known, self.paths, self.none = known, paths, none
        forms = [*known, *((f"{before}PATH" for before in PATHS_OF) if paths else ())]
        self.name = f"{'|'.join(forms)},…{'|none' if none else ''}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Takes whatever stands between the commas; what is known is decided where its meaning is."""
        if isinstance(value, tuple):
            return value
        names = tuple(name.strip() for name in str(value).split(","))
        if self.none and "none" in names:
            if len(names) > 1:
                self.refuse("be none or names separated by commas", value, param, ctx)
            return ()
        return names

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """What the last of them may become, the others before it."""
        before, comma, last = incomplete.rpartition(",")
        begun = before.split(",") if comma else []
        words = [name for name in self.known if name not in begun]
        words += list(PATHS_OF) if self.paths else []
        words += ["none"] if self.none and not comma else []
        kind = next((kind for kind in PATHS_OF if self.paths and last.startswith(kind)), None)
        if kind is not None:
            words = [f"{kind}{path}" for path in _paths(last.removeprefix(kind))]
        return [CompletionItem(f"{before}{comma}{word}") for word in words if word.startswith(last)]


class Batch(Typed[int | str]):
    """`dynamic` or a number."""

    name = "dynamic|N"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | Literal["dynamic"]:
        """Refuses anything else."""
        if value == "dynamic":
            return "dynamic"
        number = _whole(str(value))
        if number is None or number < 1:
            self.refuse("be dynamic or at least 1", value, param, ctx)
        return number

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The one word."""
        return _beginning(("dynamic",), incomplete)


class Images(Typed[int | Path]):
    """How many images of the recipe's data set, or where others are."""

    name = "N|FOLDER|FILE.npz"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | Path:
        """A number, or else a path, of which the verb that reads it tells what is wrong."""
        if isinstance(value, int | Path):
            return value
        number = _whole(str(value))
        return Path(str(value)) if number is None else number

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Every path."""
        return [CompletionItem(incomplete, type="file")]


class ImageShape(Typed[tuple[int, int, int]]):
    """`3x32x32`: channels, height and width."""

    name = "CxHxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int, int]:
        """Refuses anything but three numbers above 0."""
        if isinstance(value, tuple):
            return value
        sizes = [_whole(size) or 0 for size in re.split(r"[x×,]", str(value).strip().lower())]
        if len(sizes) != 3 or min(sizes) < 1:
            self.refuse("be channels, height and width as 3x32x32", value, param, ctx)
        return sizes[0], sizes[1], sizes[2]


class Numbers(Typed[tuple[int, ...] | str]):
    """Numbers separated by commas, or a word where one may stand for them."""

    def __init__(self, word: str | None = None) -> None:
        self.word, self.name = word, "N,N,…" if word is None else f"N,N,…|{word}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...] | str:
        """Refuses anything but numbers above 0, and the word."""
        if isinstance(value, tuple) or (self.word is not None and value == self.word):
            return cast("tuple[int, ...] | str", value)
        sizes = [_whole(size) or 0 for size in str(value).split(",")]
        if min(sizes) < 1:
            other = "" if self.word is None else f", or {self.word}"
            self.refuse(f"be numbers ≥ 1 separated by commas{other}", value, param, ctx)
        return tuple(sizes)


class Threads(Typed[int | tuple[int, ...]]):
    """A number of threads, or several that are to be compared."""

    name = "N[,N,…]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | tuple[int, ...]:
        """Refuses anything but numbers above 0."""
        if isinstance(value, int | tuple):
            return value
        numbers = [_whole(number) or 0 for number in str(value).split(",")]
        if min(numbers) < 1:
            self.refuse("be a whole number of at least 1, or several separated by commas", value, param, ctx)
        return numbers[0] if len(numbers) == 1 else tuple(numbers)


class Bound(Typed[tuple[str, float]]):
    """A number for every output, or `NAME=X` for one of them: (name, or "" for every one, number)."""

    name = "X|NAME=X"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        """Refuses what is no number."""
        if isinstance(value, tuple):
            return value
        output, _, number = str(value).rpartition("=")
        try:
            return output, float(number)
        except ValueError:
            self.refuse("be a number or NAME=NUMBER", value, param, ctx)


class Dimension(Typed[tuple[str, int]]):
    """`NAME=N`."""

    name = "NAME=N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        """Refuses what has no name, or no number."""
        if isinstance(value, tuple):
            return value
        name, _, size = str(value).rpartition("=")
        number = _whole(size)
        if not name or number is None or number < 0:
            self.refuse("be NAME=N", value, param, ctx)
        return name, number


class Pixel(Typed[tuple[int, int]]):
    """A row and a column, separated by a comma."""

    name = "ROW,COLUMN"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Refuses anything but two whole numbers."""
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"(-?\d{1,9}),(-?\d{1,9})", str(value))
        if found is None:
            self.refuse("be ROW,COLUMN in whole pixels", value, param, ctx)
        return int(found[1]), int(found[2])


def _whole(text: str) -> int | None:
    """The number, or None if it is none; one of more than 18 digits counts nothing that there is."""
    return int(text) if re.fullmatch(r"\s*[+-]?\d{1,18}\s*", text) else None


def _beginning(words: Iterable[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(word) for word in words if word.startswith(incomplete)]


def _paths(begun: str) -> Sequence[str]:
    """Those that begin so, a folder with its slash; click's shells complete paths of whole arguments only."""
    folder, slash, begin = begun.rpartition("/")
    try:
        found = sorted(Path(folder + slash or ".").iterdir())
    except OSError:
        return ()
    return [f"{folder}{slash}{p.name}{'/' if p.is_dir() else ''}" for p in found if p.name.startswith(begin)]
