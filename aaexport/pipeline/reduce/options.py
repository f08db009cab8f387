"""What is asked of a file in float16 or int8, and which of it is wrong: seen before anything heavy is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from aaexport.device import Target
from aaexport.errors import ArgumentError, as_given, broken_rule, parameter
from aaexport.folder import DTYPES, Dtype
from aaexport.graph.precision.weight_types import WEIGHT_TYPES, WeightType
from aaexport.parity.thresholds import REDUCED, ReducedKind
from aaexport.pipeline.verify.options import check_inputs

IoDtype = Literal["float32", "float16"]
AUTO = "auto"
CALIBRATED_ON = 64  # images, by default
LEAST, MOST = 2, 4096
REFUSED = {
    "bfloat16": "take float16, as small and three bits finer: onnxruntime's CPU has no bfloat16 kernels for Conv, "
    "MatMul, Gemm, Softmax, Relu, Add, Pad and Attention, so that the file would not load, and its CUDA none for "
    "Pad, ReduceMean, MaxPool and Resize",
    "float64": "take float32, which is as exact as the weights are; float64 is what every file is judged by",
}


@dataclass(frozen=True)
class ReduceOptions:
    """What is asked of a file in fewer bits than float32.

    Attributes:
        dtype: `float16` or `int8`.
        io_dtype: of the inputs and outputs of a float16 file.
        calibrate: how many training images of the recipe's data set show which numbers each tensor holds; or a folder
            of images, or a .npz or .safetensors of them as the network takes them. None for `CALIBRATED_ON` images.
        keep: module paths or node names that stay in float32; `auto` alone for as few of the costliest as it takes.
        target: `cuda` for symmetric signed activations, as TensorRT wants them, in an int8 file, and for attention in
            depths that flash kernels take in a float16 file.
        seed: of the choice of images.
        weight_type: how an int8 file stores its weights (`aaexport.graph.precision.weight_types`); None for `uint8`,
            which is right on every CPU, and for the signed 8 bits that TensorRT wants with target `cuda`.
    """

    dtype: ReducedKind
    io_dtype: IoDtype = "float32"
    calibrate: int | str | Path | None = None
    keep: Sequence[str] = ()
    target: Target = "cpu"
    seed: int = 0
    weight_type: WeightType | None = None

    @property
    def is_auto(self) -> bool:
        """Whether layers are to be kept until the guard passes."""
        return tuple(self.keep) == (AUTO,)

    @property
    def images(self) -> Path | None:
        """Where the calibration images are; None for the recipe's data set."""
        return None if self.calibrate is None or isinstance(self.calibrate, int) else Path(self.calibrate)

    @property
    def needs_images(self) -> bool:
        """Whether it cannot be done without the images of a recipe's data set."""
        return self.dtype == "int8" and self.images is None

    @property
    def count(self) -> int:
        """How many of the data set's are taken."""
        return self.calibrate if isinstance(self.calibrate, int) else CALIBRATED_ON

    def check(self) -> None:
        """ArgumentError or DataError for what can be seen to be wrong before any work."""
        check_dtype(self.dtype)
        if self.dtype not in REDUCED:
            raise ArgumentError(broken_rule("dtype", f"be one of {', '.join(REDUCED)}", self.dtype))
        if self.io_dtype not in get_args(IoDtype):
            raise ArgumentError(broken_rule("io_dtype", f"be one of {', '.join(get_args(IoDtype))}", self.io_dtype))
        if self.io_dtype == "float16" and self.dtype != "float16":
            remedy = "the first convolution quantizes float32 images itself"
            raise ArgumentError(broken_rule("io_dtype", "be float32 with dtype int8", self.io_dtype, remedy))
        self._check_weight_type()
        if isinstance(self.calibrate, int):
            if not LEAST <= self.calibrate <= MOST:
                raise ArgumentError(broken_rule("calibrate", f"be {LEAST} to {MOST} images", self.calibrate))
        else:
            check_inputs(self.calibrate, "calibrate")
        if isinstance(self.keep, str):
            remedy = f"write ({self.keep!r},)"
            raise ArgumentError(broken_rule("keep", "be a sequence of names", self.keep, remedy))
        if AUTO in self.keep and not self.is_auto:
            others = ", ".join(name for name in self.keep if name != AUTO) or "it again"
            raise ArgumentError(broken_rule("keep", f"be {AUTO} alone, or paths of layers", f"{AUTO} and {others}"))

    def _check_weight_type(self) -> None:
        if self.weight_type is None:
            return
        if self.weight_type not in WEIGHT_TYPES:
            raise ArgumentError(broken_rule("weight_type", f"be one of {', '.join(WEIGHT_TYPES)}", self.weight_type))
        if self.dtype != "int8":
            raise ArgumentError(broken_rule("weight_type", "go with dtype int8", self.weight_type))
        if self.target == "cuda":
            remedy = "TensorRT wants signed weights of 8 bits"
            raise ArgumentError(broken_rule("weight_type", "be left out with target cuda", self.weight_type, remedy))


def check_dtype(dtype: str) -> None:
    """ArgumentError, with the nearest that works, unless a file can be written in it."""
    if dtype not in DTYPES:
        known = f"be one of {', '.join(DTYPES)}"
        raise ArgumentError(broken_rule("dtype", known, str(dtype), REFUSED.get(dtype, "")))


def check_unreduced(**given: object) -> None:
    """ArgumentError for what goes with a file in fewer bits only, and was given for one in float32."""
    for name, value in given.items():
        if value:
            rule = f"go with {parameter('dtype')} float16 or int8"
            raise ArgumentError(broken_rule(name, rule, as_given(value)))


def as_reduced(dtype: Dtype) -> ReducedKind | None:
    """The dtype, unless it is float32."""
    return None if dtype == "float32" else dtype
