"""A model in onnxruntime-web, as a page of a headless Chromium runs it: a runner."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from aaexport.errors import RunnerError
from aaexport.graph.files import read_data_files
from aaexport.runners.base import Array, Arrays, Port
from aaexport.runners.browser import WITH_WEBGPU, WITHOUT_GPU, Browser, require_browser
from aaexport.runners.loopback import Served, serving
from aaexport.runners.web_runtime import Backend, WebRuntime, find_runtime

LABELS: dict[Backend, str] = {"wasm": "onnxruntime-web WebAssembly", "webgpu": "onnxruntime-web WebGPU"}
PAGE = b'<!DOCTYPE html><link rel="icon" href="data:,"><title>run</title><script src="run.js"></script>'
SCRIPT = Path(__file__).parent / "in_browser" / "run.js"
LOAD_TIMEOUT, RUN_TIMEOUT = 300.0, 600.0  # seconds; WebGPU without a GPU compiles its shaders slowly


class WebRunner:
    """A file in the browser's runtime. The batch is what it is fed with.

    Args:
        path: the ONNX file; its data files lie beside it.
        backend: `wasm`, or `webgpu`, in which what has no shader runs in WebAssembly.
        runtime: where the package onnxruntime-web lies; the one at hand by default.

    Raises:
        ProviderError: there is no browser, no package, or no WebGPU in that browser.
        RunnerError: the runtime cannot load the file.
    """

    def __init__(self, path: Path, backend: Backend = "wasm", runtime: WebRuntime | None = None) -> None:
        runtime = runtime or find_runtime()
        self.label = LABELS[backend]
        beside = {file.relative_to(path.parent).as_posix(): file for file in read_data_files(path)}
        script, binary = runtime.script(backend), runtime.binary(backend)
        files: Served = {
            "index.html": PAGE, "run.js": SCRIPT, "model": path, script.name: script, binary.name: binary, **beside
        }  # fmt: skip
        wanted = {
            "provider": backend, "module": script.name, "binary": binary.name, "model": "model", "data": list(beside)
        }  # fmt: skip
        with ExitStack() as stack:
            url = stack.enter_context(serving(files))
            self._browser = stack.enter_context(Browser(WITH_WEBGPU if backend == "webgpu" else WITHOUT_GPU))
            self._browser.open(url)
            try:
                inputs = self._browser.evaluate(f"load({json.dumps(wanted)})", timeout=LOAD_TIMEOUT)
            except RunnerError as error:
                raise RunnerError(f"{self.label} cannot load the model: {error}") from error
            self._stack = stack.pop_all()
        self.inputs = tuple(_port(port) for port in inputs)

    def infer(self, feeds: Arrays) -> dict[str, Array]:
        """Runs it in the page; numbers go there and back as text."""
        sent = json.dumps({name: _packed(array) for name, array in feeds.items()})
        try:
            answers = self._browser.evaluate(f"infer({sent})", timeout=RUN_TIMEOUT)
        except RunnerError as error:
            raise RunnerError(f"{self.label} cannot run the model: {error}") from error
        return {name: _unpacked(tensor) for name, tensor in answers.items()}

    def __enter__(self) -> WebRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def why_no_webgpu() -> str | None:
    """Why a headless browser here has no WebGPU, be it imitated; None if it has. ProviderError without a browser."""
    require_browser()
    # Browsers tell it to pages of this machine and of HTTPS only.
    try:
        with serving({"index.html": PAGE, "run.js": b""}) as url, Browser(WITH_WEBGPU) as browser:
            browser.open(url)
            found = browser.evaluate("navigator.gpu?.requestAdapter().then(Boolean)")
    except RunnerError as error:
        return str(error)  # without what imitates a GPU it may start all the same
    return None if found else "the browser here has no WebGPU"


def _port(port: Mapping[str, Any]) -> Port:
    sizes: Sequence[Any] = port["shape"]
    return Port(
        port["name"], np.dtype(port["type"]), tuple(size if isinstance(size, int) else None for size in sizes)
    )


def _packed(array: Array) -> dict[str, Any]:
    array = np.ascontiguousarray(array)
    data = base64.b64encode(array.tobytes()).decode()
    return {"type": array.dtype.name, "dims": list(array.shape), "data": data}


def _unpacked(tensor: Mapping[str, Any]) -> Array:
    dtype = np.dtype(tensor["type"])
    return np.frombuffer(base64.b64decode(tensor["data"]), dtype).reshape(tensor["dims"]).copy()
