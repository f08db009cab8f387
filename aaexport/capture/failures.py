"""Errors of a user's module, run or captured → one line: the layer, the line of its source, the cause, the remedy."""

from __future__ import annotations

import ast
import io
import linecache
import logging
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from aaexport.errors import AaexportError, first_line
from aaexport.nn.copies import held_by
from aaexport.weights.tables import is_relative_table, table_axis, table_length

OURS = Path(__file__).resolve().parent.parent
TORCH = Path(torch.__file__).resolve().parent
LIBRARIES = tuple({Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")})
MOST_CHARACTERS = 240
SHAPES = "torch.fx.experimental.symbolic_shapes"  # the logger of what torch.export assumes about sizes
# Loggers in which torch tells at length what our one line says.
TALKERS = (SHAPES, "torch._subclasses.fake_tensor", "torch.export._trace")
TORCHSCRIPT = ("it is TorchScript, which torch.export cannot look into", "build it as a plain module")
BATCH_REMEDY = "take the batch from x.shape[0] and no size from the example, or export one batch size with --batch N"

# What an error says → what went wrong, in words for the module's author, and what to do. {0} is the first group.
KNOWN: tuple[tuple[str, str, str], ...] = (
    (
        r"GuardOnDataDependent|DataDependentOutput|Could not guard on data-dependent|data-dependent expression",
        "what it does next depends on the values of a tensor",
        "choose with torch.where, or decide by shapes instead of values",
    ),
    (
        r"\.numpy\(\) is not supported|numpy\(\) on .*(Fake|Functional)",
        "it leaves PyTorch for NumPy",
        "use PyTorch's operator instead of NumPy's",
    ),
    (
        r"is a view and is being modified inplace|view of a leaf Variable that requires grad",
        "it modifies a view in place while gradients are on",
        "write `q = q * s` for `q *= s`, or switch gradients off with module.requires_grad_(False)",
    ),
    (
        r"Found <class '(?:[\w<>]+\.)*(\w+)'> in output",
        "it returns {0}",
        "return a tensor, or a tuple, list or dict of tensors",
    ),
    (
        r"UnsupportedOperator|UnsupportedFakeTensor|DynamicOutputShape|no fake impl|register_fake",
        "it uses an operator that cannot be traced ({cause})",
        "use PyTorch's own operators, or register a fake implementation with torch.library.register_fake",
    ),
    (r"view size is not compatible", "{cause}", "write .reshape(…) for .view(…)"),
    (
        r"not compiled with CUDA|Found no NVIDIA|No CUDA GPUs|torch\.cuda\.is_available\(\) is False",
        "{cause}; the code insists on a GPU",
        'use the input\'s device: `.to(x.device)` for `.cuda()`, `device=x.device` for `device="cuda"`',
    ),
)
MISFITS = (RuntimeError, ValueError, AssertionError, IndexError)  # what a map of another size may raise
# What makes a constant of the batch in a line of source → how it is called.
TIES = (
    (re.compile(r"\brange\("), "range(…)"),
    (re.compile(r"\blen\("), "len(…)"),
    (re.compile(r"\bint\("), "int(…)"),
    (re.compile(r"\bfor\b.*\bin\b"), "a loop over the batch"),
)

Frames = Sequence[tuple[FrameType, int]]  # with the line that each is at, the outermost first
Line = tuple[Path, int]


@dataclass(frozen=True)
class Place:
    """Where in a module something happened: the innermost layer, and the user's own line."""

    path: str
    layer: nn.Module
    line: str  # `file:number`, or empty where no source of the user's was running

    def __str__(self) -> str:
        kind = type(self.layer).__name__
        return ", ".join(filter(None, (f"{self.path} ({kind})" if self.path else kind, self.line)))


def why_it_cannot_run(module: nn.Module, error: BaseException) -> str:
    """One line for a run of `module` that raised `error`: the layer, the user's file and line, and the cause.

    The layer is the innermost one that was running. Where a running layer has relative tables, parameters of
    2L − 1 rows such as `key_rel_w` or `rel_height`, and was fed a map of another size, it is that layer, with the
    size that its tables expect.
    """
    frames = list(traceback.walk_tb(error.__traceback__))
    # Our own layers' complaint about the size is clearer than what their tables tell.
    cause, remedy = _explained(error)
    may_misfit = isinstance(error, MISFITS) and not isinstance(error, AaexportError) and not remedy
    misfit = _misfit_of_tables(module, frames, error) if may_misfit else None
    return misfit or _told(place_of(module, frames), cause, remedy)


def why_it_cannot_be_captured(
    module: nn.Module, error: Exception, run: Callable[[], object], capture: Callable[[], object]
) -> str:
    """One line for a capture of `module` that raised `error`.

    Args:
        run: runs the module as it is; if that fails too, its error is the clearer one.
        capture: captures it again, to see where it ties the batch to a size.
    """
    if ties_the_batch(error):
        return _tied_batch(module, error, capture)
    frames = list(traceback.walk_tb(error.__traceback__))
    place = place_of(module, frames)
    if place is not None and isinstance(place.layer, torch.jit.ScriptModule):
        return _told(place, *TORCHSCRIPT)
    if (made := newly_made(module, frames)) is not None:
        return _told(place, f"it makes a new {made} at every call", "make it once, in __init__")
    cause, remedy = _explained(error)
    if not remedy and (own := _error_of(run)) is not None:
        return f"it cannot run at all: {why_it_cannot_run(module, own)}"
    return _told(place, cause, remedy or "write that line with other operators")


def ties_the_batch(error: BaseException) -> bool:
    """Whether a capture failed because what was captured holds for some batch sizes only."""
    return "Constraints violated" in str(error)


@contextmanager
def quiet_torch() -> Iterator[None]:
    """Keeps torch from logging what it fails at, and from printing the graph that it had until then."""
    loggers = [logging.getLogger(name) for name in TALKERS]
    before = [logger.disabled for logger in loggers]
    written, graph = io.StringIO(), ""
    for logger in loggers:
        logger.disabled = True
    try:
        with redirect_stderr(written):
            yield
    except Exception as error:
        graph = f"{getattr(error, 'partial_fx_graph', '')}\n"
        raise
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled
        sys.stderr.write(written.getvalue().replace(graph, "") if graph.strip() else written.getvalue())


def _told(place: Place | None, cause: str, remedy: str) -> str:
    where = f"{place}: " if place and (place.path or place.line) else ""  # the whole module is named by the caller
    return where + cause + (f"; {remedy}" if remedy else "")


def _explained(error: BaseException) -> tuple[str, str]:
    """What went wrong and the remedy, which is empty for an error that nothing is known about."""
    cause, text = _cause(error), f"{type(error).__name__}: {error}"
    for pattern, what, remedy in KNOWN:
        if found := re.search(pattern, text):
            return what.format(*found.groups(), cause=cause), remedy
    return cause, ""


def _cause(error: BaseException) -> str:
    """The first line of its text, and its class where that tells more than `RuntimeError`.

    Of an error without text it is the line of the user's source that raised it.
    """
    if source := unexplained_source(error):
        return source
    line = first_line(error)
    line = line if len(line) <= MOST_CHARACTERS else f"{line[:MOST_CHARACTERS]}…"
    kind = type(error).__name__
    plain = isinstance(error, AaexportError) or kind in {"RuntimeError", line}
    return line if plain else f"{kind}: {line}"


def _error_of(run: Callable[[], object]) -> Exception | None:
    try:
        run()
    except Exception as error:  # noqa: BLE001, whatever the user's module raises
        return error
    return None


# Places


def users_line(error: BaseException) -> str | None:
    """`file:number` of the innermost line of the user's own that `error` passed through; None if there is none.

    A line that Python could not read is theirs too.
    """
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).is_file():
        return shown(Path(error.filename), error.lineno or 1)
    own = _outside(_sources(traceback.walk_tb(error.__traceback__)), (TORCH, OURS, *LIBRARIES))
    return shown(*own[-1]) if own else None


def unexplained_source(error: BaseException) -> str:
    """`assert channels % heads == 0` where an error of the user's has no text of its own; else empty."""
    own = _outside(_sources(traceback.walk_tb(error.__traceback__)), (TORCH, OURS, *LIBRARIES))
    if str(error).strip() or not own:
        return ""
    return _statement(*own[-1])


def _statement(path: Path, number: int) -> str:
    """The statement of that line, in one line; empty where its source is not to be had."""
    lines = linecache.getlines(str(path))
    try:
        found = [node for node in ast.walk(ast.parse("".join(lines))) if isinstance(node, ast.stmt)]
    except SyntaxError:
        found = []
    spans = [node for node in found if node.lineno <= number <= (node.end_lineno or node.lineno)]
    if not spans:
        return lines[number - 1].strip() if number <= len(lines) else ""
    node = min(spans, key=lambda node: (node.end_lineno or node.lineno) - node.lineno)
    return " ".join((ast.get_source_segment("".join(lines), node) or "").split())[:MOST_CHARACTERS]


def newly_made(module: nn.Module, frames: Frames) -> str | None:
    """The class of a layer that was being made or set up while `module` ran, and that is no part of it."""
    held = {id(part) for part in held_by(module)}
    running = [(frame, owner) for frame, _ in frames if isinstance(owner := _owner(frame), nn.Module)]
    begun = next((number for number, (_, owner) in enumerate(running) if owner is module), len(running))
    strangers = [owner for frame, owner in running[begun:] if id(owner) not in held and _sets_up(frame)]
    return type(strangers[0]).__name__ if strangers else None


def _sets_up(frame: FrameType) -> bool:
    return frame.f_code.co_name in ("__init__", "_apply", "to", "cuda", "cpu", "eval", "train")


def place_of(module: nn.Module, frames: Frames) -> Place | None:
    """None if no layer of `module` was running."""
    paths = {id(layer): path for path, layer in module.named_modules()}
    running = [(number, layer) for number, (frame, _) in enumerate(frames) if id(layer := _owner(frame)) in paths]
    if not running:
        return None
    outermost, innermost = running[0][0], running[-1][1]
    return Place(paths[id(innermost)], innermost, _innermost_line(frames[outermost:]))


def _owner(frame: FrameType) -> Any:
    """The value of the function's first argument: `self` in a method."""
    code = frame.f_code
    return frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None


def _innermost_line(frames: Frames) -> str:
    """The innermost line of the user's; of another library, such as one of models, where there is none."""
    foreign = _outside(_sources(frames), (TORCH, OURS))
    own = _outside(foreign, LIBRARIES)
    return shown(*(own or foreign)[-1]) if foreign else ""


def _sources(frames: Iterable[tuple[FrameType, int]]) -> list[Line]:
    return [(Path(frame.f_code.co_filename), number) for frame, number in frames if _is_source(frame)]


def _outside(lines: Iterable[Line], folders: tuple[Path, ...]) -> list[Line]:
    return [(path, number) for path, number in lines if not is_below(path, folders)]


def shown(path: Path, number: int) -> str:
    """`file:number`, relative to where one is."""
    here = Path.cwd()
    return f"{path.relative_to(here) if path.is_relative_to(here) else path}:{number}"


def _is_source(frame: FrameType) -> bool:
    """Not code that was made at run time; a cell of a notebook is source."""
    name = frame.f_code.co_filename
    return not name.startswith("<") or name.startswith("<ipython")


def is_below(path: Path, folders: tuple[Path, ...]) -> bool:
    """Whether the file lies in one of the folders."""
    return any(path.resolve().is_relative_to(folder) for folder in folders)


# A batch tied to a size


def _tied_batch(module: nn.Module, error: Exception, capture: Callable[[], object]) -> str:
    one = "specialized it to be a constant" in str(error)
    what = f"it works for {'one batch size' if one else 'some batch sizes'} only"
    place = _place_of_tie(module, capture)
    constant = _what_ties(place)
    return _told(place, f"{constant} makes a constant of the batch" if one and constant else what, BATCH_REMEDY)


def _what_ties(place: Place | None) -> str | None:
    """What in the line of a tie makes a constant of the batch, where that can be read off it."""
    file, _, number = (place.line if place else "").rpartition(":")
    line = linecache.getline(file, int(number)) if file else ""
    return next((name for pattern, name in TIES if pattern.search(line)), None)


def _place_of_tie(module: nn.Module, capture: Callable[[], object]) -> Place | None:
    """Where torch.export assumed something about the batch for the first time, which it tells in its log only."""
    watcher, logger = _Watcher(module), logging.getLogger(SHAPES)
    level, propagate, disabled, handlers = logger.level, logger.propagate, logger.disabled, logger.handlers
    logger.handlers, logger.propagate, logger.disabled = [watcher], False, False
    logger.setLevel(logging.INFO)
    try:
        _error_of(capture)
    finally:
        logger.handlers, logger.propagate, logger.disabled = handlers, propagate, disabled
        logger.setLevel(level)
    return watcher.constant or watcher.first


class _Watcher(logging.Handler):
    """Looks at who is running whenever torch.export logs an assumption about a size."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.first: Place | None = None
        self.constant: Place | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps the place of the first assumption, and of the first that leaves one size."""
        text = record.getMessage()
        assumed = "[guard added]" in text and "suppressed" not in text
        constant = bool(re.match(r"eval Eq\(\w+, \d+\)", text))
        if not assumed or self.constant or (self.first and not constant):
            return
        place = place_of(self.module, list(traceback.walk_stack(None))[::-1])
        self.first = self.first or place
        self.constant = place if constant else None


# Relative tables


def _misfit_of_tables(module: nn.Module, frames: Frames, error: BaseException) -> str | None:
    """None unless one of the running layers has relative tables for another map than it was fed."""
    place = place_of(module, frames)
    paths = {id(layer): path for path, layer in module.named_modules()}
    for layer, fed in reversed(list(_calls(frames))):
        tables = _tables(layer)
        expected = _expected_input(layer, tables)
        if place is None or id(layer) not in paths or all(fed[axis] == size for axis, size in expected.items()):
            continue
        sizes = " and ".join(f"{axis} {size}" for axis, size in expected.items())
        got = " and ".join(f"{axis} {fed[axis]}" for axis in expected)
        what = f"its relative tables {', '.join(tables)} expect an input of {sizes}, got {got} ({_cause(error)})"
        remedy = "use images of the size that it was built for, or build it for these"
        return _told(Place(paths[id(layer)], layer, place.line), what, remedy)
    return None


def _calls(frames: Frames) -> Iterator[tuple[nn.Module, dict[str, int]]]:
    """The layers that were running, the outermost first, each with height and width of the map that it was fed."""
    for frame, _ in frames:
        if frame.f_code is nn.Module._call_impl.__code__:
            maps = [given for given in frame.f_locals["args"] if isinstance(given, Tensor) and given.dim() == 4]
            if maps:
                yield frame.f_locals["self"], {"height": int(maps[0].shape[2]), "width": int(maps[0].shape[3])}


def _tables(layer: nn.Module) -> dict[str, Tensor]:
    """Its own relative tables, and those of submodules that hold nothing else."""
    found = dict(layer.named_parameters(recurse=False))
    for name, child in layer.named_children():
        inner = {f"{name}.{own}": tensor for own, tensor in child.named_parameters()}
        if all(is_relative_table(own, tensor) for own, tensor in inner.items()):
            found |= inner
    return {name: tensor for name, tensor in found.items() if is_relative_table(name, tensor)}


def _expected_input(layer: nn.Module, tables: dict[str, Tensor]) -> dict[str, int]:
    """Axis → size of the input that the tables are for: that of their map, times the layer's stride if it has one."""
    stride: Any = getattr(layer, "stride", 1)
    stride = stride if isinstance(stride, int) and stride > 0 else 1
    return {str(table_axis(name)): table_length(table) * stride for name, table in tables.items()}
