"""What is asked of a verification, and which of it is wrong: seen without loading anything that computes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict, get_args

from aaexport.device import parse_device
from aaexport.errors import ArgumentError, DataError, broken_rule, did_you_mean
from aaexport.memory import MEBIBYTE, default_memory
from aaexport.parity.tolerance import Bounds, Precision, Tolerances, tolerances
from aaexport.serving.address import TIMEOUT, check_service

FileDtype = Literal["float32", "float16", "bfloat16", "int8"]  # what a file may be meant to compute in
FILE_DTYPES: tuple[FileDtype, ...] = get_args(FileDtype)
MAX_BATCH = 4096
LONGEST_PAUSE = 86_400.0  # seconds
INPUT_FILES = (".npz", ".safetensors")
RUNTIMES = {
    "reference": "onnx's reference evaluator, for small models",
    "unoptimized": "onnxruntime on the CPU with its graph optimizer off",
    "onnxruntime": "onnxruntime on the CPU as it is served, and on --device if that is another",
    "tf32": "onnxruntime on CUDA with TF32 on",
    "tensorrt": "onnxruntime's TensorRT provider",
    "openvino": "OpenVINO on the CPU, in float32",
    "web": "onnxruntime-web in a headless browser: WebAssembly, and WebGPU where it starts",
}
# What is taken by itself; on the CPU `tf32` is not there to be taken.
USUAL: dict[str, tuple[str, ...]] = {
    "cpu": ("reference", "unoptimized", "onnxruntime"),
    "cuda": ("reference", "unoptimized", "onnxruntime", "tf32"),
}
LOADED = 3  # times the bytes of a float32 file: its numbers, and those in float64
LEAST_LEFT = 4  # a fourth part of the default


@dataclass(frozen=True)
class Judged:
    """Bounds by hand and the precision that the file is meant to have: with a runtime they give its tolerance."""

    precision: Precision = "float32"
    atol: float | Bounds | None = None
    rtol: float | Bounds | None = None

    def on(self, runtime: str) -> Tolerances:
        """What holds for `cpu`, `cuda`, `tf32`, `tensorrt`, `openvino` or `webgpu`. ArgumentError as `tolerances`."""
        return tolerances(self.precision, runtime, self.atol, self.rtol)


@dataclass(frozen=True)
class VerifyOptions:
    """What is asked of a verification.

    Attributes:
        device: `cpu`, `cuda` or `cuda:N`, for onnxruntime; PyTorch's side always runs on the CPU.
        dtype: the precision of the file: which of the folder's files is judged, and as what, be it another file. None
            for model.onnx, or for what another file says that it is.
        atol, rtol: replace those of the tolerance table (`aaexport.parity.TOLERANCES`), for all outputs or by output.
        inputs: a .npz, .safetensors or folder of images to take instead of the data set's.
        batch: one more batch size to try, the largest that will be served.
        runtimes: which of `aaexport.pipeline.verify.options.RUNTIMES` run the file; the usual ones by default.
        locate: whether to look for the first node that went wrong, if one did.
        strict: whether warnings are failures.
        seed: of the made-up inputs and of the choice of images.
        url: live services that are to serve the file: each is a row of the matrix.
        served_as: the model's name there, or NAME:VERSION; the folder's name by default.
        timeout: seconds for one answer of a service.
        ca: a file of the authorities whose certificates count; None for those that the system trusts.
        most_macs: images · MACs at the most, beyond which inputs are left out, and a note says so; None for all
            inputs, however long they take.
        max_memory: MiB that a verification may take at its peak beyond the loaded models: what would take more is
            computed in blocks or some images at a time, or left out, and a note says so. None for 4 GiB with the
            models, or half of what is free where that is less.
    """

    device: str = "cpu"
    dtype: FileDtype | None = None
    atol: float | Bounds | None = None
    rtol: float | Bounds | None = None
    inputs: str | Path | None = None
    batch: int | None = None
    runtimes: Sequence[str] | None = None
    locate: bool = True
    strict: bool = False
    seed: int = 0
    url: Sequence[str] = ()
    served_as: str | None = None
    timeout: float = TIMEOUT
    ca: str | Path | None = None
    most_macs: float | None = None
    max_memory: float | None = None

    def most_bytes(self, file_bytes: int) -> int:
        """That memory, beyond loaded models; where nobody asked, what the default leaves beside those of such a file.

        They are its numbers in float32 and in float64. A quarter of the default is left in any case.
        """
        if self.max_memory is not None:
            return int(self.max_memory * MEBIBYTE)
        most = default_memory()
        return max(most - LOADED * file_bytes, most // LEAST_LEFT)

    @property
    def judged(self) -> Judged:
        """What gives the tolerance of each runtime, of files that the matrix judges: float32's if none is asked."""
        precision: Precision = "float32" if self.dtype is None or self.dtype == "int8" else self.dtype
        return Judged(precision, self.atol, self.rtol)

    def check(self) -> None:
        """ArgumentError, DataError or ProviderError for what can be seen to be wrong before any work."""
        check_runtimes(self.runtimes, self.device)
        if self.dtype is not None and self.dtype not in FILE_DTYPES:
            raise ArgumentError(broken_rule("dtype", f"be one of {', '.join(FILE_DTYPES)}", str(self.dtype)))
        self.judged.on("cpu")
        check_largest_batch(self.batch)
        check_inputs(self.inputs)
        check_max_memory(self.max_memory)
        check_service(self.url, self.served_as, self.timeout, self.ca)


class VerifyOverrides(TypedDict, total=False):
    """The fields of `VerifyOptions` as keywords."""

    device: str
    dtype: FileDtype | None
    atol: float | Bounds | None
    rtol: float | Bounds | None
    inputs: str | Path | None
    batch: int | None
    runtimes: Sequence[str] | None
    locate: bool
    strict: bool
    seed: int
    url: Sequence[str]
    served_as: str | None
    timeout: float
    ca: str | Path | None
    most_macs: float | None
    max_memory: float | None


def check_runtimes(runtimes: Sequence[str] | None, device: str) -> tuple[str, ...]:
    """Those to run on, in the order of RUNTIMES.

    Raises:
        ArgumentError: one is not known, or wants CUDA on another device.
        ProviderError: one was asked for by name and is not installed.
    """
    kind, _ = parse_device(device)
    wanted = USUAL[kind] if runtimes is None else tuple(runtimes)
    for name in wanted:
        if name not in RUNTIMES:
            raise ArgumentError(broken_rule("runtimes", "be known ones", name, did_you_mean(name, RUNTIMES)))
        if name in ("tf32", "tensorrt") and kind != "cuda":
            raise ArgumentError(broken_rule("device", f"be cuda for {name}", device))
    if not wanted:
        raise ArgumentError(broken_rule("runtimes", "name at least one", "none", f"choose of {', '.join(RUNTIMES)}"))
    if "openvino" in wanted:
        from aaexport.runners.openvino import require_openvino

        require_openvino()
    if "web" in wanted:
        from aaexport.runners.browser import require_browser
        from aaexport.runners.web_runtime import find_runtime

        require_browser()
        find_runtime()
    return tuple(name for name in RUNTIMES if name in wanted)


def check_largest_batch(batch: int | None) -> None:
    """ArgumentError unless it is a size that can be tried."""
    if batch is not None and not 1 <= batch <= MAX_BATCH:
        raise ArgumentError(broken_rule("batch", f"be between 1 and {MAX_BATCH}", batch))


def check_max_memory(limit: float | None) -> None:
    """ArgumentError unless it is None or a number of MiB above 0."""
    if limit is not None and not (limit > 0 and math.isfinite(limit)):
        raise ArgumentError(broken_rule("max_memory", "be above 0 MiB", limit))


def check_inputs(path: str | Path | None, option: str = "inputs") -> None:
    """DataError, of that option, unless it is a folder, or a file of a kind that is read."""
    if path is None or Path(path).is_dir():
        return
    if Path(path).suffix not in INPUT_FILES:
        rule = f"be a folder of images or a file of {', '.join(INPUT_FILES)}"
        raise DataError(broken_rule(option, rule, str(path)))
    if not Path(path).exists():
        raise DataError(f"{option} must be whole, but {path} cannot be read: there is no such file")


def check_every(every: float) -> None:
    """ArgumentError unless it is a time between two looks."""
    if not 0 < every <= LONGEST_PAUSE:
        raise ArgumentError(broken_rule("every", f"be above 0 and at most {LONGEST_PAUSE:,.0f} seconds", every))
