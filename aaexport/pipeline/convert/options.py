"""What is asked of a conversion, and which of it is wrong: seen without loading anything that converts."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypedDict, get_args

from aaexport.capture.source import Source, require_file, require_source
from aaexport.device import TARGETS, Target
from aaexport.errors import (
    ArgumentError,
    DataError,
    FolderError,
    WeightsError,
    as_given,
    broken_rule,
    did_you_mean,
    parameter,
)
from aaexport.folder import Dtype, ModelFolder, require_outside_zoo
from aaexport.graph.precision.weight_types import WeightType
from aaexport.graph.there import require_readable
from aaexport.parity.tolerance import tolerances
from aaexport.pipeline.reduce.options import IoDtype, ReduceOptions, as_reduced, check_dtype, check_unreduced
from aaexport.pipeline.verify.options import VerifyOptions
from aaexport.recipe import (
    DECOMPOSITION_NAMES,
    MAX_BATCH,
    Batch,
    DecompositionName,
    check_opset,
    parse_kwargs,
)
from aaexport.writing import check_writable

# Images · MACs that `convert` verifies at the most, ten seconds of float64 on two cores; `verify` has no limit.
VERIFIED_MACS = 1.5e11
OptimizedDtype = Literal["float32", "float16"]
OTHER_DTYPES = {  # and what to do for them
    "int8": "it needs images: `aaexport convert MODEL --dtype int8` takes those of the model's data set",
    "bfloat16": "float16 is as small, finer, and runs where bfloat16 has no kernels",
}


@dataclass(frozen=True)
class ConvertOptions:
    """What is asked of a conversion.

    Attributes:
        opset: 18–25; the recipe's, or 20, or for `cuda` 23 where a layer has many logits.
        decomposition: for every augmented layer; the recipe's, or each layer's own. `auto` is one `Attention`
            operator a layer from opset 23 on, and below it what `aaexport.nn.choice` takes for the layer's sizes;
            in a folder that `aaexport.tune` has worked on, what was fastest there, and the result's notes say so.
        batch: "dynamic" or a number; the recipe's, or "dynamic".
        max_attention_memory: MiB that no tensor of the attention may exceed, of one image if the batch is dynamic:
            of augmented layers and of any other that is softmax(Q·Kᵀ + terms)·V. Where an other one cannot keep it,
            the result's notes say why.
        target: `cpu` or `cuda`, where the file is to run: decompositions and graph rules are chosen for it, and the
            result's `on_cuda` tells what onnxruntime will make of it there.
        with_attention: whether the attention weights are outputs too, after the usual ones, which stay as they are:
            `attention.<path of the layer>.head<number>` of shape (batch, H, W, H, W), where [b, h, w, i, j] is how
            much query position (h, w) takes from key position (i, j) of the layer's map.
        verify: whether parity must hold before the file gets its name.
        atol, rtol, seed: as of `aaexport.VerifyOptions`.
        dtype: `float32`, or `float16` for GPUs and `int8` for CPUs: then the folder's verified model.onnx, which is
            written first where it is not up to date, becomes model.fp16.onnx or model.int8.onnx beside it, as far as
            the guard lets it.
        io_dtype, calibrate, keep, weight_type: of such a file, as of
            `aaexport.pipeline.reduce.options.ReduceOptions`.
    """

    opset: int | None = None
    decomposition: DecompositionName | None = None
    batch: Batch | None = None
    max_attention_memory: float | None = None
    target: Target = "cpu"
    with_attention: bool = False
    verify: bool = True
    atol: float | None = None
    rtol: float | None = None
    seed: int = 0
    dtype: Dtype = "float32"
    io_dtype: IoDtype = "float32"
    calibrate: int | str | Path | None = None
    keep: Sequence[str] = ()
    weight_type: WeightType | None = None

    @property
    def reduction(self) -> ReduceOptions | None:
        """What is asked of a file in fewer bits; None for one in float32."""
        dtype = as_reduced(self.dtype)
        if dtype is None:
            return None
        return ReduceOptions(
            dtype, self.io_dtype, self.calibrate, self.keep, self.target, self.seed, self.weight_type
        )

    @property
    def in_float32(self) -> ConvertOptions:
        """The same for the file that one in fewer bits is made of."""
        return replace(self, dtype="float32", io_dtype="float32", calibrate=None, keep=(), weight_type=None)

    @property
    def verification(self) -> VerifyOptions:
        """What is asked of the one that the file must pass."""
        return VerifyOptions(atol=self.atol, rtol=self.rtol, seed=self.seed, most_macs=VERIFIED_MACS)

    def check(self) -> None:
        """ArgumentError for what can be seen to be wrong before any work."""
        if self.opset is not None:
            check_opset(self.opset)
        if self.decomposition is not None and self.decomposition not in DECOMPOSITION_NAMES:
            remedy = did_you_mean(str(self.decomposition), DECOMPOSITION_NAMES)
            raise ArgumentError(broken_rule("decomposition", "be a known one", self.decomposition, remedy))
        if self.target not in TARGETS:
            raise ArgumentError(broken_rule("target", f"be one of {', '.join(TARGETS)}", self.target))
        if isinstance(self.batch, int) and not 1 <= self.batch <= MAX_BATCH:
            raise ArgumentError(broken_rule("batch", f"be dynamic or between 1 and {MAX_BATCH}", self.batch))
        check_max_attention_memory(self.max_attention_memory, with_attention=self.with_attention)
        self.verification.check()
        self._check_reduction()

    def _check_reduction(self) -> None:
        check_dtype(self.dtype)
        if self.reduction is None:
            io_dtype = "" if self.io_dtype == "float32" else self.io_dtype
            check_unreduced(
                io_dtype=io_dtype, calibrate=self.calibrate, keep=tuple(self.keep), weight_type=self.weight_type
            )
            return
        self.reduction.check()
        if not self.verify:
            remedy = "the guard is what keeps its losses from being silent"
            raise ArgumentError(broken_rule("verify", f"be on with dtype {self.dtype}", "off", remedy))
        for name in ("atol", "rtol"):
            if getattr(self, name) is not None:
                rule = f"be left out with dtype {self.dtype}"
                remedy = "the guard has thresholds of its own"
                raise ArgumentError(broken_rule(name, rule, getattr(self, name), remedy))


class ConvertOverrides(TypedDict, total=False):
    """The fields of `ConvertOptions` as keywords."""

    opset: int | None
    decomposition: DecompositionName | None
    batch: Batch | None
    max_attention_memory: float | None
    target: Target
    with_attention: bool
    verify: bool
    atol: float | None
    rtol: float | None
    seed: int
    dtype: Dtype
    io_dtype: IoDtype
    calibrate: int | str | Path | None
    keep: Sequence[str]
    weight_type: WeightType | None


def check_max_attention_memory(limit: float | None, *, with_attention: bool = False) -> None:
    """ArgumentError unless it is None or a number of MiB above 0; as outputs, the weights are there all at once."""
    if limit is not None and with_attention:
        rule = f"be left out with {parameter('with_attention')}"
        remedy = "they are tensors of all weights of a layer"
        raise ArgumentError(broken_rule("max_attention_memory", rule, limit, remedy))
    if limit is not None and not (limit > 0 and math.isfinite(limit)):
        raise ArgumentError(broken_rule("max_attention_memory", "be above 0 MiB", limit))


@dataclass(frozen=True)
class Brought:
    """What is brought along, the shape (C, H, W) of its images where that is told, and the folder made of it."""

    source: Source
    kwargs: tuple[str, ...]
    checkpoint: Path | None
    shape: tuple[int, ...] | None
    folder: ModelFolder

    def check(self) -> None:
        """Raises what can be seen to be wrong before any work, as `check_source`."""
        parse_kwargs(self.kwargs)
        _require_free(self.folder, self.source)
        if self.checkpoint is not None and self.source.is_program:
            remedy = "a program has its weights in it; export it again with others"
            raise ArgumentError(broken_rule("checkpoint", "be left out for a program", str(self.checkpoint), remedy))
        require_file(self.source)
        if self.checkpoint is not None and not self.checkpoint.exists():
            raise WeightsError(f"{self.checkpoint} must be a readable file, but: {os.strerror(errno.ENOENT)}")
        if self.shape is None and not self.source.is_program:
            remedy = "pass --input-shape CxHxW"
            raise ArgumentError(broken_rule("input_shape", "be given for a module", "none", remedy))


def check_source(
    source: str,
    out: str | Path | None,
    *,
    input_shape: Sequence[int] | None,
    kwargs: Sequence[str],
    checkpoint: str | Path | None,
    options: ConvertOptions,
) -> Brought:
    """What is brought along; raises what can be seen to be wrong before it is imported.

    Raises:
        ArgumentError: an option breaks its rule, or goes with another kind of source.
        ModuleError: `source` has another form, or its file is not there.
        WeightsError: the checkpoint is not there.
        DataError: it is to become int8, and there are no images.
        FolderError: `out` holds something else.
    """
    options.check()
    if options.reduction is not None and options.reduction.needs_images:
        remedy = f"give images of your own with {parameter('calibrate')} FOLDER or FILE.npz"
        got = "none" if options.calibrate is None else str(options.calibrate)
        raise DataError(broken_rule("calibrate", "name images for int8 of a module without a data set", got, remedy))
    if options.with_attention:
        remedy = "the module itself gives no attention weights to judge them by"
        raise ArgumentError(broken_rule("with_attention", "be off for a module that is brought along", True, remedy))
    named = require_source(source)
    brought = Brought(
        named,
        tuple(kwargs),
        None if checkpoint is None else Path(checkpoint),
        None if input_shape is None else tuple(input_shape),
        ModelFolder(Path(named.folder_name) if out is None else Path(out)),
    )
    brought.check()
    return brought


def _require_free(folder: ModelFolder, source: Source) -> None:
    """FolderError if the folder holds anything but a former conversion of the same source."""
    path = folder.path
    require_outside_zoo(path)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    former = folder.module_recipe if folder.recipe_path.is_file() else None
    if former is None or former.module.source != source.text:
        rule = f"be new, empty, or a former conversion of {source.text}"
        raise FolderError(broken_rule("out", rule, str(path), "name another folder with --out"))


@dataclass(frozen=True)
class OptimizeOptions:
    """What is asked of `optimize`.

    Attributes:
        target: `cpu` or `cuda`, where the file is to run.
        verify: whether to compare; a file of several dynamic sizes can be with `inputs` only.
        atol, rtol, seed: as of `aaexport.VerifyOptions`.
        max_attention_memory: MiB that no tensor of any attention should exceed, of one image if the batch is dynamic;
            it is computed in blocks of queries then, and what cannot be is told with its reason.
        inputs: what both files are fed, instead of numbers that are made up: an .npz with an array for each input, or
            a folder of such files, of onnx's input_0.pb, …, or of folders test_data_set_0, … of those.
        dtype: `float32`, which leaves all types as they are, or `float16` for all nodes that nothing speaks against.
            On the same inputs it is seen which numbers each tensor holds.
        io_dtype: of inputs and outputs in a float16 file.
        keep: names of nodes, or paths of PyTorch modules, that stay in float32.
    """

    target: Target = "cpu"
    verify: bool = True
    atol: float | None = None
    rtol: float | None = None
    seed: int = 0
    max_attention_memory: float | None = None
    inputs: str | Path | None = None
    dtype: OptimizedDtype = "float32"
    io_dtype: OptimizedDtype = "float32"
    keep: Sequence[str] = ()

    def check(self) -> None:
        """ArgumentError or DataError for what can be seen to be wrong before any work."""
        if self.target not in TARGETS:
            raise ArgumentError(broken_rule("target", f"be one of {', '.join(TARGETS)}", self.target))
        check_max_attention_memory(self.max_attention_memory)
        self._check_dtype()
        tolerances("float32", "cpu", self.atol, self.rtol)
        if self.inputs is None:
            return
        if not self.verify and self.dtype == "float32":
            rule = "be left out where nothing is verified"
            raise ArgumentError(broken_rule("inputs", rule, str(self.inputs)))
        path = Path(self.inputs)
        if not path.exists():
            raise DataError(f"inputs must be whole, but {path} cannot be read: there is no such file")
        if not path.is_dir() and path.suffix != ".npz":
            raise DataError(broken_rule("inputs", "be a folder, or a file of .npz", str(path)))

    def _check_dtype(self) -> None:
        known = get_args(OptimizedDtype)
        if self.dtype not in known:
            remedy = OTHER_DTYPES.get(self.dtype, "")
            raise ArgumentError(broken_rule("dtype", f"be one of {', '.join(known)}", str(self.dtype), remedy))
        if self.io_dtype not in known:
            raise ArgumentError(broken_rule("io_dtype", f"be one of {', '.join(known)}", str(self.io_dtype)))
        for name, given in (("io_dtype", self.io_dtype != "float32"), ("keep", bool(self.keep))):
            if given and self.dtype == "float32":
                got = as_given(getattr(self, name))
                raise ArgumentError(broken_rule(name, f"go with {parameter('dtype')} float16", got))
        if self.dtype == "float16" and not self.verify:
            remedy = "the guard is what keeps its losses from being silent"
            raise ArgumentError(broken_rule("verify", "be on with dtype float16", "off", remedy))
        if self.dtype == "float16" and {self.atol, self.rtol} != {None}:
            rule = f"be left out with {parameter('dtype')} float16"
            got = str(self.atol if self.atol is not None else self.rtol)
            remedy = "what float16 may lose is told in dB"
            raise ArgumentError(broken_rule("atol" if self.atol is not None else "rtol", rule, got, remedy))


class OptimizeOverrides(TypedDict, total=False):
    """The fields of `OptimizeOptions` as keywords."""

    target: Target
    verify: bool
    atol: float | None
    rtol: float | None
    seed: int
    max_attention_memory: float | None
    inputs: str | Path | None
    dtype: OptimizedDtype
    io_dtype: OptimizedDtype
    keep: Sequence[str]


def check_files(source: Path, path: Path) -> None:
    """What `optimize` can see of its files before it loads anything.

    Raises:
        ArgumentError: `path` names a folder.
        GraphError: there is no file `source`.
        FolderError: nothing can be written at `path`.
    """
    require_readable(source)
    check_writable(path)
