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
│   ├── ProviderError             5   the execution provider asked for does not work here
│   ├── EngineError               5   there is no server that could serve, or it does not start
│   └── ServiceError              6   a live service cannot be reached, or refuses
│       ├── ProtocolError         6   what came over the wire is not the Open Inference Protocol, or not an answer
│       └── UnprovedError         7   our own service answers wrongly, or not at all, and cannot be brought back
├── ParityError                   3   the ONNX file does not compute the same function
├── DeploymentError               3   a deployment that fails its check
└── MeasurementError              4   a measurement that is not valid
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# A parameter's name within a text, marked by what neither a file's name nor an argument of a command can hold.
_MARKED = re.compile("\0([^\0]+)\0")
_OUT_OF_MEMORY = (
    *("can't allocate memory", "CUDA out of memory"),  # torch
    *("out of memory", "Failed to allocate memory", "is smaller than requested bytes"),  # onnxruntime
    *("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"),  # CUDA's libraries, by way of both
)
_SUBJECT = re.compile(r"\A\w+(?= must )")


class AaexportError(Exception):
    """The base of every error that aaexport raises on purpose; its text is one line and names the remedy.

    It names parameters as Python has them. The command line shows `worded`, which names options instead.
    """

    exit_code = 1

    def __init__(self, text: str = "") -> None:
        super().__init__(_MARKED.sub(r"\1", text))
        self._marked = text

    def worded(self, options: Mapping[str, str]) -> str:
        """The text with options in the place of the parameters that it complains of or has marked.

        Args:
            options: what a user types, as `--max-batch`, by the parameter's name.
        """
        text = _SUBJECT.sub(lambda found: options.get(found[0], found[0]), self._marked)
        return _MARKED.sub(lambda found: options.get(found[1], found[1]), text)


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


class EngineError(RunnerError):
    """There is no Triton server that could serve, something that it needs is missing, or it does not start."""

    exit_code = 5


class ServiceError(RunnerError):
    """A live service that cannot be reached, or refuses.

    Attributes:
        retryable: whether the same query may be answered a little later, or by another server.
    """

    exit_code = 6

    def __init__(self, text: str = "", *, retryable: bool = False) -> None:
        super().__init__(text)
        self.retryable = retryable


class ProtocolError(ServiceError):
    """What came over the wire is not the Open Inference Protocol, or not an answer of the model it names."""


class UnprovedError(ServiceError):
    """Our own service answers its golden vectors wrongly, or not at all, and cannot be brought back."""

    exit_code = 7


class ParityError(AaexportError):
    """The ONNX file does not compute the function of the PyTorch model; `report` is the ParityReport that says so."""

    exit_code = 3

    def __init__(self, message: str, report: Any) -> None:
        super().__init__(message)
        self.report = report

    def __reduce__(self) -> tuple[Any, ...]:
        """For one process that tells it to another."""
        return type(self), (self.args[0], self.report), self.__dict__


class DeploymentError(AaexportError):
    """A deployment that fails its check; `result` is the DeployResult that says so, None for a part of one."""

    exit_code = 3

    def __init__(self, message: str, result: Any = None) -> None:
        super().__init__(message)
        self.result = result


class MeasurementError(AaexportError):
    """A measurement that is not valid."""

    exit_code = 4


def parameter(name: str) -> str:
    """A parameter's name for the text of an AaexportError, wherever it is not the one that must do something."""
    return f"\0{name}\0"


def broken_rule(name: str, rule: str, got: object, remedy: str = "") -> str:
    """The one sentence of every complaint: `<name> must <rule>, got <value>; <remedy>`."""
    is_quoted = isinstance(got, str) and not _MARKED.search(got)
    sentence = f"{name} must {rule}, got {got!r}" if is_quoted else f"{name} must {rule}, got {got}"
    return f"{sentence}; {remedy}" if remedy else sentence


def as_given(value: object) -> str:
    """An option's value as somebody typed it: one that may be repeated, or is of one output, in its parts."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={part}" if name else str(part) for name, part in value.items())
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


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


def out_of_memory(error: BaseException) -> str | None:
    """What a library could not have of the memory, in words; None for any other error."""
    text = str(error)
    if not (isinstance(error, MemoryError) or any(words in text for words in _OUT_OF_MEMORY)):
        return None
    wanted = re.search(r"tried to allocate (\d+) bytes", text)
    return f"{int(wanted[1]) / 2**30:,.1f} GiB at once" if wanted else first_line(error)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its class where it has none: the cause, in a message of our own."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
