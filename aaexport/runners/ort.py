"""onnxruntime as a runner, on the provider that was asked for or not at all."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnxruntime

from aaexport.cores import default_threads
from aaexport.device import parse_device
from aaexport.errors import ProviderError, RunnerError, broken_rule
from aaexport.graph.probe import probe_model
from aaexport.graph.serialized import Serialized
from aaexport.runners.base import Array, Arrays, Port, Runner, for_native_code, numpy_type
from aaexport.runners.cuda_libraries import DRIVER, Missing, load_cuda_libraries
from aaexport.runners.ort_binding import NO_GRAPH, BoundRun, run_options
from aaexport.runners.ort_phases import Between, PhaseTimes, measure_phases, with_gpu_time
from aaexport.runners.ort_serving import BoundRunner, CaptureGate
from aaexport.runners.ort_settings import DEFAULTS, PROVIDERS, SessionSettings
from aaexport.runners.ort_words import cause, reason

WORKS = "works"
FOLDER_OF_NUMBERS = "session.model_external_initializers_file_folder_path"
RECORD_PLACEMENT = "session.record_ep_graph_assignment_info"
WARNINGS = 2  # onnxruntime's default
SILENT = 4  # onnxruntime's severity "fatal": errors reach the user as exceptions, not as stray lines
WHICH = "`nvidia-smi -L` lists them, and CUDA_VISIBLE_DEVICES may hide some"
REMEDIES = {
    "driver version is insufficient": "install a newer NVIDIA driver",
    "no CUDA-capable device": "look whether `nvidia-smi -L` lists one, and what CUDA_VISIBLE_DEVICES hides",
    "out of memory": "end what else has the GPU's memory, as `nvidia-smi` lists it",
}
CANNOT_RECORD = "cannot use the graph capture feature"  # it says so only where nodes are on the CPU
WITHOUT_THEM = "`aaexport convert` and `optimize` write files without such nodes by --target cuda"
DRIVER_AND_EXTRA = "install the NVIDIA driver and 'aaexport[cuda]'"


class OrtRunner:
    """An onnxruntime session on one device.

    Args:
        model: path of an ONNX file, or a model without one, by its bytes if all its numbers are among them.
        settings: how it runs.
        device: `cpu`, `cuda` or `cuda:N`.
        record_placement: whether `placement` can tell afterwards where the nodes run; loading alone is slower for it.
        stream: of CUDA, in which it works; None for one of its own.

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
        stream: int | None = None,
    ) -> None:
        settings.check(device)
        self._model = model
        self.device = device
        self.settings = settings
        self._records_placement = record_placement
        self.session = _session(model, settings, device, record_placement, stream)
        self._inputs, self._outputs = self.session.get_inputs(), self.session.get_outputs()
        self.inputs = tuple(map(_port, self._inputs))
        self.output_names = tuple(value.name for value in self._outputs)
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
            raise RunnerError(f"onnxruntime cannot run the model: {cause(error)}") from error
        for name, output in zip(self.output_names, outputs, strict=True):
            if not isinstance(output, np.ndarray):
                raise RunnerError(f"output {name} must be a tensor, got {type(output).__name__}")
        return dict(zip(self.output_names, outputs, strict=True))

    def bound(self, feeds: Arrays) -> BoundRun:
        """The session's inputs and outputs in buffers of their own, for feeds of these shapes; it has run once."""
        graph = next(self._graphs) if self.settings.cuda_graph else None
        index, locks = parse_device(self.device)[1], self.settings.pinned
        bound = BoundRun(self.session, feeds, self.infer(feeds), index, graph, locks=locks)
        bound.run()
        return bound

    @property
    def pads(self) -> bool:
        """Whether a batch may be filled up: all inputs and outputs begin with one and the same open dimension."""
        first = [value.shape[0] if value.shape else None for value in (*self._inputs, *self._outputs)]
        return isinstance(first[0], str) and len(set(first)) == 1

    def serving(self, gate: CaptureGate | None = None) -> Runner:
        """What is to answer queries: through bound buffers if the settings say so, else this runner itself.

        `gate` is shared by those that may be at work at the same time.
        """
        return BoundRunner(self, self.settings, gate) if self.settings.binds else self

    def phases(self, feeds: Arrays, count: int, between: Between = lambda: None) -> PhaseTimes | None:
        """Where the time of a query goes, for `count` queries on CUDA; None on the CPU, which copies nothing.

        `between` is called before each run, and is in no part.
        """
        if parse_device(self.device)[0] == "cpu":
            return None
        bound = self.bound(feeds)
        try:
            return self.phases_of(bound, feeds, count, between)
        finally:
            bound.release()

    def phases_of(self, bound: BoundRun, feeds: Arrays, count: int, between: Between = lambda: None) -> PhaseTimes:
        """The same, through buffers that there are, for such feeds; on CUDA."""
        times = measure_phases(bound, feeds, count, between=between)
        if self.settings.tensorrt:
            return replace(times, untimed="TensorRT would build its engines once more for it")

        def open_bound(stream: int) -> BoundRun:
            return OrtRunner(self._model, self.settings, device=self.device, stream=stream).bound(feeds)

        return with_gpu_time(times, open_bound, parse_device(self.device)[1], count, between)

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
    return {name: _try_provider(name) for name in onnxruntime.get_available_providers()}


def best_device() -> str:
    """`cuda` if its provider ran a session on this machine, else `cpu`."""
    return device_by_default()[0]


def device_by_default() -> tuple[str, str | None]:
    """The best device, and a note where CUDA does not work on a machine that has NVIDIA's driver."""
    if PROVIDERS["cuda"] not in onnxruntime.get_available_providers():
        return "cpu", None
    told = _try_provider(PROVIDERS["cuda"])
    if told == WORKS:
        return "cuda", None
    without_driver = told.startswith(f"{DRIVER} must be")
    return "cpu", None if without_driver else f"on the CPU, as CUDA does not work here: {told}"


def _try_provider(name: str, **options: Any) -> str:
    missing = _missing_libraries(name)
    if missing is not None:
        return missing.cause
    of_session = onnxruntime.SessionOptions()
    of_session.log_severity_level = SILENT
    with _captured_noise(name) as noise:
        try:
            session = onnxruntime.InferenceSession(
                probe_model(), of_session, providers=[(name, options)], enable_fallback=0
            )
            if name in session.get_providers():
                session.run(None, {"x": np.ones(1, np.float32)})
                return WORKS
        # Whatever goes wrong in a provider is the answer to the question, not a failure of it.
        except Exception as error:  # noqa: BLE001
            return cause(error)
    return reason(noise) or "onnxruntime fell back to another provider"


def _session(
    model: Path | bytes | Serialized,
    settings: SessionSettings,
    device: str,
    record_placement: bool,
    stream: int | None = None,
) -> onnxruntime.InferenceSession:
    wanted = settings.provider_on(device)
    if wanted not in onnxruntime.get_available_providers():
        remedy = "pip install 'aaexport[cuda]' on a machine with an NVIDIA GPU, or use --device cpu"
        raise ProviderError(f"{wanted} is not part of this onnxruntime; {remedy}")
    missing = _missing_libraries(wanted)
    if missing is not None:
        raise _inactive(wanted, missing)
    with _captured_noise(wanted) as noise:
        try:
            session = onnxruntime.InferenceSession(
                model.model if isinstance(model, Serialized) else for_native_code(model),
                _session_options(settings, record_placement, model),
                providers=settings.providers_on(device, stream),
                enable_fallback=0,  # else it tries again on the CPU, and the reason is lost
            )
        # onnxruntime's exceptions share no base but Exception.
        except Exception as error:
            _require_working(settings, device, error)
            if CANNOT_RECORD in str(error):
                rule = f"be off for a model with nodes that {wanted} leaves to the CPU"
                raise RunnerError(broken_rule("cuda_graph", rule, "on", WITHOUT_THEM)) from error
            raise RunnerError(f"onnxruntime cannot load the model: {cause(error)}") from error
    if session.get_providers()[0] != wanted:
        told = reason(noise) or "onnxruntime gave no reason"
        raise _inactive(wanted, Missing(told, DRIVER_AND_EXTRA))
    return session


def _require_working(settings: SessionSettings, device: str, error: Exception) -> None:
    """ProviderError if not even a model of one node runs there: then this model is not to blame."""
    kind, index = parse_device(device)
    if kind == "cpu":
        return
    wanted = settings.provider_on(device)
    told = _try_provider(wanted, device_id=index)
    if told == WORKS:
        return
    if "Invalid device" in told or "invalid device ordinal" in told:
        raise ProviderError(f"{broken_rule('device', 'be one that is there', device)}: {told}; {WHICH}") from error
    remedy = next((remedy for words, remedy in REMEDIES.items() if words in told), DRIVER_AND_EXTRA)
    raise _inactive(wanted, Missing(told, remedy)) from error


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
        with _captured_noise(provider):
            onnxruntime.preload_dlls()
    cuda = str(getattr(onnxruntime, "cuda_version", ""))  # builds for the CPU have none
    built_with = f"onnxruntime {onnxruntime.__version__} of CUDA {cuda}"
    return load_cuda_libraries(cuda, built_with, tensorrt=provider == PROVIDERS["tensorrt"])


def _inactive(provider: str, missing: Missing) -> ProviderError:
    instead = "or leave TensorRT out" if provider == PROVIDERS["tensorrt"] else "or use --device cpu"
    return ProviderError(f"{provider} did not become active: {missing.cause}; {missing.remedy}, {instead}")


@contextlib.contextmanager
def _captured_noise(provider: str) -> Iterator[list[str]]:
    """Turns what onnxruntime prints while it loads into a list of lines, so that it becomes a reason, not noise.

    Native code writes to file descriptor 2, the Python wrapper prints its own fallbacks to `sys.stdout`. Providers
    other than the CPU's go on telling things by the logger of the whole process: afterwards that is silent.
    """
    lines: list[str] = []
    is_talkative = provider != PROVIDERS["cpu"]
    if is_talkative:
        onnxruntime.set_default_logger_severity(WARNINGS)
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            with contextlib.redirect_stdout(None):
                yield lines
        finally:
            if is_talkative:
                onnxruntime.set_default_logger_severity(SILENT)
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            lines += file.read().decode(errors="replace").splitlines()


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
