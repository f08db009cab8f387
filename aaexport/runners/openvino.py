"""OpenVINO as a runner, on the CPU and in float32. An extra: `pip install 'aaexport[openvino]'`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import TracebackType

import numpy as np

from aaexport.cores import default_threads
from aaexport.errors import ProviderError, RunnerError, first_line
from aaexport.runners.base import Array, Arrays, Port, for_native_code

# Left alone it takes the processor's fastest type, which may be bfloat16: wrong by a hundredth of the output.
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}


class OpenvinoRunner:
    """A file compiled by OpenVINO.

    Raises:
        ProviderError: OpenVINO is not installed.
        RunnerError: it cannot compile the file.
    """

    label = "OpenVINO CPU"

    def __init__(self, path: Path) -> None:
        require_openvino()
        import openvino

        core = openvino.Core()
        # OpenVINO's exceptions share no base but Exception.
        try:
            source = core.read_model(for_native_code(path))
            self._compiled = core.compile_model(source, "CPU", EXACT | _threads())
        except Exception as error:
            raise RunnerError(f"OpenVINO cannot load the model: {first_line(error)}") from error
        self.inputs = tuple(
            Port(
                port.any_name,
                np.dtype(port.element_type.to_dtype()),
                tuple(size.get_length() if size.is_static else None for size in port.partial_shape),
            )
            for port in self._compiled.inputs
        )

    def infer(self, feeds: Arrays) -> dict[str, Array]:
        """Runs the compiled model; the outputs are copies."""
        try:
            results = self._compiled(dict(feeds))
        except Exception as error:
            raise RunnerError(f"OpenVINO cannot run the model: {first_line(error)}") from error
        return {port.any_name: np.array(array) for port, array in results.items()}

    def __enter__(self) -> OpenvinoRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._compiled


def _threads() -> dict[str, int]:
    """None of ours where the process may use the whole machine, which is what OpenVINO counts."""
    threads = default_threads()
    return {} if threads is None else {"INFERENCE_NUM_THREADS": threads}


def require_openvino() -> None:
    """ProviderError, which says how to install it, where it is not."""
    if importlib.util.find_spec("openvino") is None:
        remedy = "pip install 'aaexport[openvino]', or leave it out of --runtimes"
        raise ProviderError(f"openvino is not installed; {remedy}")
