"""Runs inside Triton's Python backend: the bytes of a JPEG or PNG file → the likeliest classes.

It decodes, crops, resizes and normalises as `pixels.py` beside it does, asks the model that takes tensors and tells
classes, labels and probabilities, the likeliest first. It imports nothing of aaexport.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb

sys.path.insert(0, str(Path(__file__).parent))
import at_work
import faults
import pixels

_told = sys.unraisablehook


def _untold(about: Any) -> None:
    """As in the backend for tensors."""
    if "incorrect name" not in str(about.exc_value):
        _told(about)


sys.unraisablehook = _untold


class TritonPythonModel:
    """What Triton makes one of for each instance."""

    def initialize(self, args: dict[str, str]) -> None:
        """Reads what makes an image fit."""
        folder = Path(args["model_repository"]) / args["model_version"]
        self.about = json.loads((folder / "image.json").read_text(encoding="utf-8"))

        self.at_work, self.places = at_work.AtWork(), faults.places_of(folder)
        texts = [label.encode() for label in self.about["labels"]]
        longest = max(map(len, texts))
        # A text for each class, filled up with zeros: NumPy 2 and Triton's own strings do not go together.
        self.labels = np.frombuffer(b"".join(text.ljust(longest, b"\0") for text in texts), np.uint8)
        self.labels = self.labels.reshape(len(texts), longest)

    def execute(self, requests: list[Any]) -> list[Any]:
        """A response for each request."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            content = np.from_dlpack(pb.get_input_tensor_by_name(request, "image")).tobytes()
            with self.at_work:  # and not while it waits for the other model: that may be what hangs
                fed = self._fed(content)
        # Of a damaged file Pillow raises whatever the damage leads it to.
        except Exception as error:  # noqa: BLE001
            code, text = faults.told(error, is_clients=not isinstance(error, ImportError), places=self.places)
            if code == "INVALID_ARG":
                text = f"image must be a readable JPEG or PNG file, but: {text.partition(' <_io')[0]}"
            return _refusal(code, text)
        try:
            scores = self._scores(fed)
            return pb.InferenceResponse(_tensors(scores, self.labels, self.about["top"]))
        # The image was right: what goes wrong now is the server's, such as a model that is being loaded anew.
        except Exception as error:  # noqa: BLE001
            return _refusal(*faults.told(error, is_clients=False))

    def _scores(self, fed: Any) -> Any:
        asked = pb.InferenceRequest(
            model_name=self.about["model"],
            model_version=self.about["version"],
            inputs=[pb.Tensor.from_dlpack(self.about["input"], fed)],
            requested_output_names=[self.about["scores"]],
        ).exec()
        if asked.has_error():
            raise RuntimeError(asked.error().message())
        return np.from_dlpack(pb.get_output_tensor_by_name(asked, self.about["scores"]))[0]

    def _fed(self, content: bytes) -> Any:
        about = self.about
        if len(content) > about["most_bytes"]:
            raise faults.RefusedError(f"it has {len(content)} bytes, more than {about['most_bytes']}")
        shape, mean, std = tuple(about["shape"]), about["mean"], about["std"]
        return pixels.network_input(content, shape, mean, std, about["crop_share"], about["most_pixels"])


def _refusal(code: str, text: str) -> Any:
    return pb.InferenceResponse(error=pb.TritonError(text, getattr(pb.TritonError, code)))


def _tensors(scores: Any, labels: Any, top: int) -> list[Any]:
    shifted = np.exp(scores.astype(np.float64) - scores.max())
    shares = (shifted / shifted.sum()).astype(np.float32)
    best = np.argsort(-shares, kind="stable")[:top]
    return [
        pb.Tensor.from_dlpack("class", best.astype(np.int64)),
        pb.Tensor.from_dlpack("label", labels[best]),
        pb.Tensor.from_dlpack("probability", shares[best]),
    ]
