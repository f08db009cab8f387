"""Options and a file → what each worker loads: the file itself, its rivals, and what answers are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aaexport.errors import ArgumentError, broken_rule, parameter
from aaexport.folder import Dtype, ModelFolder, find_model
from aaexport.graph.files import GraphSummary, parse_onnx
from aaexport.graph.precision.kinds import kind_of
from aaexport.graph.precision.tensorrt import require_symmetric
from aaexport.pipeline.bench.answer_check import Terms
from aaexport.pipeline.bench.contender import OURS
from aaexport.pipeline.bench.options import ONE_SESSION, BenchOptions
from aaexport.pipeline.bench.rival_names import (
    IN_PROCESS,
    file_in,
    is_autocast,
    is_dtype,
    is_other_model,
    other_file,
)
from aaexport.pipeline.bench.rivals import other_spec, rival_spec
from aaexport.pipeline.bench.samples import Samples
from aaexport.pipeline.bench.worker_models import WorkerSpec

Tick = Callable[[str, float], None]


def our_spec(path: Path, room: Path, samples: Samples, options: BenchOptions) -> WorkerSpec:
    """Of the file itself."""
    assert options.device is not None
    return WorkerSpec(
        "onnxruntime",
        str(path),
        str(room / "samples.npz"),
        options.device,
        options.threads_each(),
        sessions=options.workers,
        batched=samples.batched,
        session=_plain(options.session),
        scratch=str(room / "engines"),
        flush=options.flush_l2,
    )


def _plain(session: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON can carry it to the worker."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in session.items()}


def rival_specs(
    options: BenchOptions, folder: ModelFolder | None, ours: WorkerSpec, summary: GraphSummary, room: Path, tick: Tick
) -> dict[str, WorkerSpec]:
    """Of those that can be measured beside a file: the network itself needs its weights."""
    specs = {}
    for name in rivals_of(options, folder):
        tick(f"preparing {name}", 0.0)
        if name == IN_PROCESS:
            specs[name] = replace(ours, sessions=1)
        elif is_other_model(name):
            specs[name] = other_spec(name, ours)
        elif is_dtype(name):
            assert folder is not None
            specs[name] = replace(ours, model=str(folder.onnx_of(name)))
        elif runs_in_torch(folder, options):
            assert folder is not None
            specs[name] = rival_spec(name, folder, ours, summary, room, options.module)
    return specs


def rivals_of(options: BenchOptions, folder: ModelFolder | None) -> Sequence[str]:
    """What was asked for, or by default eager PyTorch, where there is such and the load suits it.

    Beside a file in float16 or int8 it is the float32 file that it was made of.
    """
    if options.compare is not None:
        return options.compare
    if options.url:
        return (IN_PROCESS,) if options.scenario in ONE_SESSION else ()
    if options.dtype != "float32" and folder is not None and not options.is_server:
        return ("float32",) if folder.onnx_path.is_file() else ()
    return () if options.is_server or not runs_in_torch(folder, options) else ("eager",)


def runs_in_torch(folder: ModelFolder | None, options: BenchOptions) -> bool:
    """Whether PyTorch can run the network: it has weights, and its code is ours or may be imported."""
    if folder is None or not folder.weights_path.is_file():
        return False
    return folder.module_recipe is None or options.module is not None


def truth_spec(
    folder: ModelFolder | None, options: BenchOptions, ours: WorkerSpec, summary: GraphSummary, room: Path
) -> WorkerSpec | None:
    """What answers are compared with: PyTorch's, where there is one; on the CPU, in float32 and nothing less."""
    if folder is not None and folder.module_recipe is not None and options.module is None:
        is_whole = folder.golden_path.is_file()
        golden = replace(ours, runtime="golden", model=str(folder.path), device="cpu", sessions=1, flush=False)
        return golden if is_whole and not options.dims else None
    if folder is None or not runs_in_torch(folder, options):
        plain = replace(ours, device="cpu", sessions=1, session={}, flush=False)
        if options.dtype != "float32" and folder is not None and folder.onnx_path.is_file():
            return replace(plain, model=str(folder.onnx_path))
        # Of a live service the file itself is what it must answer as.
        return plain if options.url else None
    eager = rival_spec("eager", folder, ours, summary, room, options.module)
    return replace(eager, device="cpu", sessions=1, flush=False)


def find_file(model: str | Path | ModelFolder, dtype: Dtype) -> tuple[Path, ModelFolder | None]:
    """The file that is measured, and its folder; None of an ONNX file by itself.

    Raises:
        ArgumentError: another precision is asked for of such a file.
        ModelNotFoundError, FolderError: there is no such folder, or no such file in it.
    """
    if not isinstance(model, ModelFolder):
        if Path(model).suffix == ".onnx" or Path(model).is_file():
            if dtype != "float32":
                rule, remedy = "go with a model folder", "an ONNX file is in the precision that it has"
                raise ArgumentError(broken_rule("dtype", rule, f"{dtype} for {model}", remedy))
            return Path(model), None
        model = find_model(model)
    return file_in(model, dtype), model


def require_comparable_models(options: BenchOptions, folder: ModelFolder | None) -> None:
    """ArgumentError if what was asked for by name needs weights, or a folder, that are not there.

    FolderError if it is a file of the folder's that is not there.
    """
    wanted = [name for name in options.compare or () if not is_other_model(name) and name != IN_PROCESS]
    for name in filter(is_dtype, wanted):
        if folder is None:
            rule, remedy = "be a file of a model folder's", "name another file as onnx:FILE"
            raise ArgumentError(broken_rule(f"{parameter('compare')} {name}", rule, "an ONNX file alone", remedy))
        file_in(folder, name)
    missing = [name for name in wanted if not is_dtype(name)]
    if missing and not runs_in_torch(folder, options):
        rule, remedy = "have PyTorch weights beside the file", "leave it out"
        if folder is not None and folder.module_recipe is not None:
            rule, remedy = "have the module that the folder was made of", "give it with --module FILE.py:NAME"
        raise ArgumentError(broken_rule(f"{parameter('compare')} {','.join(missing)}", rule, "none", remedy))


def require_for_tensorrt(path: Path, folder: ModelFolder | None, options: BenchOptions) -> None:
    """ArgumentError where TensorRT is asked for, and does not take the 8 bits of a file that is to be measured."""
    if not options.session.get("tensorrt"):
        return
    require_symmetric(path)
    for name in rivals_of(options, folder):
        if is_other_model(name):
            require_symmetric(other_file(name))
        elif is_dtype(name) and folder is not None:
            require_symmetric(folder.onnx_of(name))


def terms_of(path: Path, folder: ModelFolder | None, options: BenchOptions, samples: Samples) -> Terms:
    """What each contender computes in, and by which outputs and samples its loss is told."""
    kinds: dict[str, str] = {OURS: kind_of(parse_onnx(path))}
    for name in rivals_of(options, folder):
        if name == IN_PROCESS:
            kinds[name] = kinds[OURS]
        elif is_other_model(name):
            kinds[name] = kind_of(parse_onnx(other_file(name)))
        elif is_dtype(name) and folder is not None:
            kinds[name] = kind_of(parse_onnx(folder.onnx_of(name)))
        elif is_autocast(name):
            kinds[name] = "float16"
    scores = None
    if folder is not None and folder.module_recipe is None and not folder.recipe.network.classifies:
        scores = frozenset[str]()
    return Terms(kinds, scores, is_noise=not samples.are_images)
