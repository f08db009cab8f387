"""The errors a user can cause, each with the exit code that the command line ends with.

AaexportError                     1
├── ArgumentError (ValueError)    2   a parameter or option breaks its rule
├── RecipeError                   1   model.toml cannot be read or breaks a rule
├── FolderError                   1   a model folder lacks something, or cannot be written
│   ├── ModelNotFoundError        1   neither a folder nor a zoo model
│   └── NoWeightsError            1   the model has not been trained yet
├── ModuleError                   1   a module of the user's that cannot be imported, built or run
├── WeightsError                  1   weights that do not fit the model, or cannot be read
├── DataError                     1   a data set that is not there or does not fit
├── TrainingError                 1   a training run that cannot start, resume or go on
├── ExportError                   1   torch.export or the ONNX conversion failed
├── GraphError                    1   not an ONNX file, or not one that any runtime could run
├── RunnerError                   1   a runtime cannot load or run the model
│   └── ProviderError             5   the execution provider asked for does not work here
├── ParityError                   3   the ONNX file does not compute the same function
└── MeasurementError              4   a measurement that is not valid
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any


class AaexportError(Exception):
    """The base of every error that aaexport raises on purpose; its text is one line and names the remedy."""

    exit_code = 1


class ArgumentError(AaexportError, ValueError):
    """A parameter or option breaks its rule."""

    exit_code = 2


class RecipeError(AaexportError):
    """model.toml cannot be read or breaks a rule; the text names the file and the key."""


class FolderError(AaexportError):
    """A model folder lacks something, or cannot be written."""


class ModelNotFoundError(FolderError):
    """The name is neither a folder nor a zoo model."""


class NoWeightsError(FolderError):
    """The model has no weights yet."""


class ModuleError(AaexportError):
    """A module of the user's that cannot be imported, built or run; the text names their file and line."""


class WeightsError(AaexportError):
    """Weights that cannot be read or do not fit; the text names the tensor."""


class DataError(AaexportError):
    """A data set that is not there or does not fit the recipe."""


class TrainingError(AaexportError):
    """A training run that cannot start, resume or go on."""


class ExportError(AaexportError):
    """torch.export or the ONNX conversion failed."""


class GraphError(AaexportError):
    """A file that is not ONNX, or whose graph no plain ONNX runtime could run."""


class RunnerError(AaexportError):
    """A runtime cannot load or run the model."""


class ProviderError(RunnerError):
    """The execution provider that was asked for does not work on this machine."""

    exit_code = 5


class ParityError(AaexportError):
    """The ONNX file does not compute the function of the PyTorch model; `report` is the ParityReport that says so."""

    exit_code = 3

    def __init__(self, message: str, report: Any) -> None:
        super().__init__(message)
        self.report = report


class MeasurementError(AaexportError):
    """A measurement that is not valid."""

    exit_code = 4


def broken_rule(name: str, rule: str, got: object, remedy: str = "") -> str:
    """The one sentence of every complaint: `<name> must <rule>, got <value>; <remedy>`."""
    sentence = f"{name} must {rule}, got {got!r}" if isinstance(got, str) else f"{name} must {rule}, got {got}"
    return f"{sentence}; {remedy}" if remedy else sentence


def first_few(names: Sequence[str], most: int) -> str:
    """At most so many of them, and how many more there are."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?` for the closest known word, or the list of all known words."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def root_cause(error: BaseException) -> str:
    """The first line of what an error was raised from in the end, without the colours of a terminal."""
    while error.__cause__ is not None:
        error = error.__cause__
    return re.sub(r"\x1b\[[0-9;]*m", "", first_line(error))


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its class where it has none: the cause, in a message of our own."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
