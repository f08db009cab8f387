"""onnxruntime as a runner, on the provider that was asked for or not at all."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnxruntime

from aaexport.cores import default_threads
from aaexport.device import parse_device
from aaexport.errors import ProviderError, RunnerError, first_line
from aaexport.graph.probe import probe_model
from aaexport.graph.serialized import Serialized
from aaexport.runners.base import Array, Arrays, Port, Runner, for_native_code, numpy_type
from aaexport.runners.cuda_libraries import Missing, load_cuda_libraries
from aaexport.runners.ort_binding import NO_GRAPH, BoundRun, BoundRunner, PhaseTimes, measure_phases, run_options
from aaexport.runners.ort_settings import DEFAULTS, PROVIDERS, SessionSettings

WORKS = "works"
FOLDER_OF_NUMBERS = "session.model_external_initializers_file_folder_path"
RECORD_PLACEMENT = "session.record_ep_graph_assignment_info"
# A file and line of onnxruntime's source, and the C++ function there with its parameters.
_PLACE = re.compile(r"\S*/onnxruntime/\S+:\d+ [^(]*(\((?:[^()]|\([^()]*\))*\) ?)?(const )?")
SILENT = 4  # onnxruntime's severity "fatal": errors reach the user as exceptions, not as stray lines


class OrtRunner:
    """An onnxruntime session on one device.

    Args:
        model: path of an ONNX file, or a model without one, by its bytes if all its numbers are among them.
        settings: how it runs.
        device: `cpu`, `cuda` or `cuda:N`.
        record_placement: whether `placement` can tell afterwards where the nodes run; loading alone is slower for it.

    Raises:
        ArgumentError: `device` does not have what `settings` ask for.
        ProviderError: the device's provider is absent, or did not become active; the text says why.
        RunnerError: onnxruntime cannot load the model.
    """

    def __init__(
        self,
        model: Path | bytes | Serialized,
        settings: SessionSettings = DEFAULTS,
        *,
        device: str = "cpu",
        record_placement: bool = False,
    ) -> None:
        settings.check(device)
        self.device = device
        self.settings = settings
        self._records_placement = record_placement
        self.session = _session(model, settings, device, record_placement)
        self.inputs = tuple(_port(value) for value in self.session.get_inputs())
        self.output_names = tuple(value.name for value in self.session.get_outputs())
        # A graph that were recorded for arrays which come and go would replay on their former addresses.
        self._options = run_options(NO_GRAPH) if settings.cuda_graph else None
        self._graphs = itertools.count(1)

    @property
    def provider(self) -> str:
        """The execution provider that really runs the session."""
        return str(self.session.get_providers()[0])

    @property
    def label(self) -> str:
        """For people."""
        return f"onnxruntime {self.provider.removesuffix('ExecutionProvider')}"

    @property
    def placement(self) -> dict[str, tuple[str, ...]] | None:
        """Each provider's nodes, as `name (operator)`; None if not recorded, or if this onnxruntime cannot tell.

        The nodes are those that were shared out among the providers; some were folded before, others are fused later.
        """
        if not self._records_placement or not hasattr(self.session, "get_provider_graph_assignment_info"):
            return None
        nodes: dict[str, tuple[str, ...]] = {}
        for part in self.session.get_provider_graph_assignment_info():
            nodes[part.ep_name] = (*nodes.get(part.ep_name, ()), *(_described(node) for node in part.get_nodes()))
        return nodes

    def infer(self, feeds: Arrays) -> dict[str, Array]:
        """Runs the session; the outputs lie on the host."""
        try:
            outputs = self.session.run(None, dict(feeds), self._options)
        # onnxruntime's exceptions share no base but Exception.
        except Exception as error:
            raise RunnerError(f"onnxruntime cannot run the model: {_cause(error)}") from error
        for name, output in zip(self.output_names, outputs, strict=True):
            if not isinstance(output, np.ndarray):
                raise RunnerError(f"output {name} must be a tensor, got {type(output).__name__}")
        return dict(zip(self.output_names, outputs, strict=True))

    def bound(self, feeds: Arrays) -> BoundRun:
        """The session's inputs and outputs in buffers of their own, for feeds of these shapes; it has run once."""
        graph = next(self._graphs) if self.settings.cuda_graph else None
        bound = BoundRun(self.session, feeds, self.infer(feeds), parse_device(self.device)[1], graph)
        bound.run()
        return bound

    def serving(self) -> Runner:
        """What is to answer queries: through bound buffers if the settings say so, else this runner itself."""
        return BoundRunner(self) if self.settings.iobinding else self

    def phases(self, feeds: Arrays, count: int) -> PhaseTimes | None:
        """Where the time of a query goes, for `count` queries on CUDA; None on the CPU, which copies nothing."""
        return None if parse_device(self.device)[0] == "cpu" else measure_phases(self.bound(feeds), feeds, count)

    def __enter__(self) -> OrtRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__dict__.pop("session", None)  # what serves from it may have ended it already


def working_providers() -> dict[str, str]:
    """Every provider that onnxruntime lists, with `works` or the reason why it does not.

    A provider works if it ran a session: onnxruntime lists what was compiled in, whether or not it can start.
    """
    return {name: _try_provider(name, probe_model()) for name in onnxruntime.get_available_providers()}


def best_device() -> str:
    """`cuda` if its provider ran a session on this machine, else `cpu`."""
    listed = PROVIDERS["cuda"] in onnxruntime.get_available_providers()
    return "cuda" if listed and _try_provider(PROVIDERS["cuda"], probe_model()) == WORKS else "cpu"


def _try_provider(name: str, model: bytes) -> str:
    missing = _missing_libraries(name)
    if missing is not None:
        return missing.cause
    options = onnxruntime.SessionOptions()
    options.log_severity_level = SILENT
    with _captured_noise() as noise:
        try:
            session = onnxruntime.InferenceSession(model, options, providers=[name])
            if name in session.get_providers():
                session.run(None, {"x": np.ones(1, np.float32)})
                return WORKS
        # Whatever goes wrong in a provider is the answer to the question, not a failure of it.
        except Exception as error:  # noqa: BLE001
            return first_line(error)
    return _reason(noise) or "onnxruntime fell back to another provider"


def _session(
    model: Path | bytes | Serialized, settings: SessionSettings, device: str, record_placement: bool
) -> onnxruntime.InferenceSession:
    wanted = settings.provider_on(device)
    if wanted not in onnxruntime.get_available_providers():
        remedy = "pip install 'aaexport[cuda]' on a machine with an NVIDIA GPU, or use --device cpu"
        raise ProviderError(f"{wanted} is not part of this onnxruntime; {remedy}")
    missing = _missing_libraries(wanted)
    if missing is not None:
        raise _inactive(wanted, missing)
    with _captured_noise() as noise:
        try:
            session = onnxruntime.InferenceSession(
                model.model if isinstance(model, Serialized) else for_native_code(model),
                _session_options(settings, record_placement, model),
                providers=settings.providers_on(device),
            )
        # onnxruntime's exceptions share no base but Exception.
        except Exception as error:
            raise RunnerError(f"onnxruntime cannot load the model: {_cause(error)}") from error
    if session.get_providers()[0] != wanted:
        cause = _reason(noise) or "onnxruntime gave no reason"
        raise _inactive(wanted, Missing(cause, "install the NVIDIA driver and 'aaexport[cuda]'"))
    session.disable_fallback()  # otherwise a failing run is repeated on another provider, with a line of output
    return session


def _session_options(
    settings: SessionSettings, record_placement: bool, model: Path | bytes | Serialized
) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = SILENT
    threads = settings.threads or default_threads()
    if threads is not None:
        options.intra_op_num_threads = threads
    if not settings.optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_cpu_mem_arena = options.enable_mem_pattern = options.enable_mem_reuse = settings.arena
    if record_placement:
        options.add_session_config_entry(RECORD_PLACEMENT, "1")  # one that is too old for it ignores it
    if isinstance(model, Serialized) and model.folder is not None:
        options.add_session_config_entry(FOLDER_OF_NUMBERS, str(model.folder))
    for key, value in settings.session_entries().items():
        options.add_session_config_entry(key, value)
    return options


def _missing_libraries(provider: str) -> Missing | None:
    """Loads what the provider needs, wherever pip put it; what it lacks, or None.

    On Windows onnxruntime's own search knows torch's folder; what fails there the session says.
    """
    if provider not in (PROVIDERS["cuda"], PROVIDERS["tensorrt"]):
        return None
    if sys.platform == "win32":
        with _captured_noise():
            onnxruntime.preload_dlls()
    cuda = str(getattr(onnxruntime, "cuda_version", ""))  # builds for the CPU have none
    built_with = f"onnxruntime {onnxruntime.__version__} of CUDA {cuda}"
    return load_cuda_libraries(cuda, built_with, tensorrt=provider == PROVIDERS["tensorrt"])


def _inactive(provider: str, missing: Missing) -> ProviderError:
    instead = "or leave TensorRT out" if provider == PROVIDERS["tensorrt"] else "or use --device cpu"
    return ProviderError(f"{provider} did not become active: {missing.cause}; {missing.remedy}, {instead}")


@contextlib.contextmanager
def _captured_noise() -> Iterator[list[str]]:
    """Turns what onnxruntime prints while it loads into a list of lines, so that it becomes a reason, not noise.

    Native code writes to file descriptor 2, the Python wrapper prints its own fallbacks to `sys.stdout`.
    """
    lines: list[str] = []
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            with contextlib.redirect_stdout(None):
                yield lines
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            lines += file.read().decode(errors="replace").splitlines()


def _cause(error: Exception) -> str:
    """The first line of onnxruntime's complaint, without the place in its own source."""
    return _PLACE.sub("", first_line(error))


def _reason(noise: list[str]) -> str:
    """The one line of onnxruntime's log that tells why a provider did not start: the missing library, if named."""
    for line in noise:
        _, found, library = line.partition("with error: ")
        if found:
            return library.strip()
    telling = [line for line in noise if "error" in line.lower() or "fail" in line.lower()]
    return telling[-1].split("] ")[-1].strip() if telling else ""


def _described(node: Any) -> str:
    return f"{node.name} ({node.op_type})" if node.name else str(node.op_type)


def _port(value: Any) -> Port:
    name = value.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    try:
        dtype = numpy_type(name)
    except TypeError:
        dtype = None
    if dtype is None or not dtype.isbuiltin:  # others are known to numpy once some library has told it of them
        raise RunnerError(f"input {value.name} must be a tensor of numbers that numpy has, got {value.type}")
    return Port(value.name, dtype, shape)
