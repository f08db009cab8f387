"""(ONNX file, inputs) → outputs in four runtimes: one function each, and whether it can be called here."""

import base64
import importlib
import importlib.util
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

WEB = Path(__file__).parent / "web"
WEB_PACKAGE = WEB / "node_modules/onnxruntime-web/package.json"
Arrays = dict[str, np.ndarray]


def run_in_onnxruntime(path: Path, feeds: Arrays) -> Arrays:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def run_in_reference_evaluator(path: Path, feeds: Arrays) -> Arrays:
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(str(path))
    return dict(zip(evaluator.output_names, evaluator.run(None, feeds), strict=True))


def run_in_openvino(path: Path, feeds: Arrays) -> Arrays:
    import openvino

    core = openvino.Core()
    # Left alone it takes the processor's fastest type, which may be bfloat16: wrong by a hundredth of the output.
    compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return {port.any_name: np.array(array) for port, array in compiled(feeds).items()}


def run_in_node(path: Path, feeds: Arrays) -> Arrays:
    sent = json.dumps({name: _to_json(array) for name, array in feeds.items()})
    node = subprocess.run(
        ["node", WEB / "run.mjs", path], input=sent, capture_output=True, encoding="utf-8", check=False
    )
    if node.returncode:
        raise RuntimeError(node.stderr.strip().splitlines()[-1])
    return {name: _from_json(array) for name, array in json.loads(node.stdout).items()}


def _to_json(array: np.ndarray) -> dict:
    return {"dims": array.shape, "data": base64.b64encode(array.astype("<f4").tobytes()).decode()}


def _from_json(array: dict) -> np.ndarray:
    return np.frombuffer(base64.b64decode(array["data"]), "<f4").reshape(array["dims"])


@dataclass(frozen=True)
class Runtime:
    """`package` is what Python imports; None for the one that node runs."""

    name: str
    run: Callable[[Path, Arrays], Arrays]
    package: str | None

    @property
    def missing(self) -> str:
        """What to do to have it here; empty if it is here."""
        if self.package is not None:
            return "" if importlib.util.find_spec(self.package) else f"pip install {self.package}"
        if shutil.which("node") is None:
            return "install node"
        return "" if WEB_PACKAGE.is_file() else "make web"

    @property
    def version(self) -> str:
        if self.package is None:
            return json.loads(WEB_PACKAGE.read_text())["version"]
        return importlib.import_module(self.package).__version__.split("-")[0]


RUNTIMES = (
    Runtime("onnxruntime", run_in_onnxruntime, "onnxruntime"),
    Runtime("onnx.reference", run_in_reference_evaluator, "onnx"),
    Runtime("OpenVINO (f32)", run_in_openvino, "openvino"),
    Runtime("onnxruntime-web (wasm)", run_in_node, None),
)
