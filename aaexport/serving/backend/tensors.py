"""Runs inside Triton's Python backend: an ONNX file beside this one → the answers of onnxruntime.

It imports nothing of aaexport, so a repository works where that is not installed. Tensors cross by DLPack both ways:
Triton's own calls misread NumPy 2 and answer with empty tensors and status 200.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb

sys.path.insert(0, str(Path(__file__).parent))
import at_work
import faults

SILENT = 4
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
EXACT = {"use_tf32": 0}  # golden vectors are of float32, which products in TF32 miss
_told = sys.unraisablehook


def _untold(about: Any) -> None:
    """The backend gives a capsule a name that NumPy does not know: a traceback an answer, of no meaning."""
    if "incorrect name" not in str(about.exc_value):
        _told(about)


sys.unraisablehook = _untold


class TritonPythonModel:
    """What Triton makes one of for each instance."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the session; whatever it raises is why the model is not ready."""
        config = json.loads(args["model_config"])
        said = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        options = onnxruntime.SessionOptions()
        options.log_severity_level = SILENT
        options.intra_op_num_threads = int(said.get("intra_op_thread_count", "0"))
        kind, _, number = said.get("device", "cpu").partition(":")
        providers: list[Any] = [PROVIDERS["cpu"]]
        if kind != "cpu":
            onnxruntime.preload_dlls()
            providers.insert(0, (PROVIDERS[kind], {"device_id": int(number or 0), **EXACT}))
        file = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        # Without a fallback, which would try again on the CPU and lose the reason why it had to.
        self.session = onnxruntime.InferenceSession(str(file), options, providers=providers, enable_fallback=0)
        if self.session.get_providers()[0] != PROVIDERS[kind]:
            raise RuntimeError(f"{PROVIDERS[kind]} did not become active: its libraries or the driver are missing")
        self.at_work, self.places = at_work.AtWork(), faults.places_of(file.parent)
        self.inputs = [port.name for port in self.session.get_inputs()]
        self.outputs = [port.name for port in self.session.get_outputs()]
        self.batches = config["max_batch_size"] > 0
        self.most = int(said["max_batch"])
        sizes = [size for port in self.session.get_inputs() for size in port.shape[1:]]
        self.has_open_sizes = not all(isinstance(size, int) for size in sizes)
        gc.collect()
        gc.freeze()  # what is loaded stays: a query now and then would wait until all of it was looked through

    def execute(self, requests: list[Any]) -> list[Any]:
        """A response for each request; those that arrived together share a run."""
        if not self.batches:
            return [self._alone(request) for request in requests]
        try:
            with self.at_work:
                return self._together(requests)
        # onnxruntime's exceptions share no base but Exception. One client's mistake is not another's.
        except Exception:  # noqa: BLE001
            return [self._alone(request) for request in requests]

    def _together(self, requests: list[Any]) -> list[Any]:
        fed = [self._fed(request) for request in requests]
        joined = fed[0] if len(fed) == 1 else {n: np.concatenate([one[n] for one in fed]) for n in self.inputs}
        answers = self.session.run(self.outputs, joined)
        responses, begin = [], 0
        for request, one in zip(requests, fed, strict=True):
            end = begin + len(one[self.inputs[0]])
            responses.append(self._response(request, [answer[begin:end] for answer in answers]))
            begin = end
        return responses

    def _alone(self, request: Any) -> Any:
        try:
            fed = self._fed(request)
            self._require_bounded(fed)
            with self.at_work:
                return self._response(request, self.session.run(self.outputs, fed))
        # As above.
        except Exception as error:  # noqa: BLE001
            code, text = faults.told_of_run(error, has_open_sizes=self.has_open_sizes, places=self.places)
            return pb.InferenceResponse(error=pb.TritonError(text, getattr(pb.TritonError, code)))

    def _require_bounded(self, fed: dict[str, Any]) -> None:
        """Of a file that is served without Triton's batches and yet leaves its first dimension open."""
        first = (self.session.get_inputs()[0].shape or [1])[0]
        rows = len(fed[self.inputs[0]]) if not isinstance(first, int) else 0
        if not self.batches and rows > self.most:
            raise faults.RefusedError(f"batch must be at most {self.most}, got {rows}")

    def _fed(self, request: Any) -> dict[str, Any]:
        return {name: np.from_dlpack(pb.get_input_tensor_by_name(request, name)) for name in self.inputs}

    def _response(self, request: Any, answers: list[Any]) -> Any:
        wanted = request.requested_output_names()
        named = zip(self.outputs, answers, strict=True)
        return pb.InferenceResponse([pb.Tensor.from_dlpack(name, answer) for name, answer in named if name in wanted])
