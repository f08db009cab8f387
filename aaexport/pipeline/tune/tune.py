"""(model folder, device) → tuning.json: how every distinct attention of the network is best written out there.

Layers are one if their `AttentionSizes` are equal: a decomposition sees queries, keys and values, and nothing else of
a layer. One of each such group is timed, of the kind that is most frequent in it (`layer_contest` beside this file).
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from torch import nn

from aaexport.device import Target, parse_device
from aaexport.errors import ArgumentError, FolderError, broken_rule
from aaexport.folder import ModelFolder, find_model, tool_versions
from aaexport.graph.probe import probe_model
from aaexport.load.launches import Launches
from aaexport.load.machine import MachineWatch
from aaexport.load.validity import warnings_about_the_machine
from aaexport.nn.augmented import AugmentedConv2d, augmented_layers
from aaexport.nn.build import build_network
from aaexport.nn.choice import TYPICAL_BATCH, AttentionSizes
from aaexport.nn.memory import BYTES_IN_FLOAT32, require_memory
from aaexport.nn.own_settings import own_settings
from aaexport.outcome import verb
from aaexport.overrides import overridden
from aaexport.pipeline.export.plan import ATTENTION_OPSET, default_opset
from aaexport.pipeline.tune.layer_contest import Conditions, LayerContest, Tick
from aaexport.pipeline.tune.options import TuneOptions, TuneOverrides
from aaexport.pipeline.tune.precision_contest import Asked, precision_contest
from aaexport.pipeline.tune.threads import settled_threads
from aaexport.recipe import DEFAULT_DECOMPOSITION, DEFAULT_OPSET, Recipe
from aaexport.report.tuning import tuning_json
from aaexport.results import TunedLayer, TuneResult
from aaexport.runners.ort import OrtRunner, device_by_default
from aaexport.weights.safetensors import load_weights
from aaexport.writing import check_writable, write_json

THREADS_SHARE = 0.2  # of the time, by and large
PRECISION_FROM = 0.6  # the same, where whole networks are measured after the layers


@verb
@own_settings()
def tune(
    model: str | Path | ModelFolder,
    *,
    size: tuple[int, int] | None = None,
    options: TuneOptions | None = None,
    tick: Tick = lambda step, share: None,
    **overrides: Unpack[TuneOverrides],
) -> TuneResult:
    """Times every decomposition of every distinct augmented layer through onnxruntime, and keeps what it found.

    First the whole network is launched with several numbers of threads; the one that is fast and steady
    (`aaexport.load.launches`) is what the layers are timed with and what `serve-bench` takes.

    With `dtype` `auto` the whole network is then written and measured in float32, int8 and, on a GPU, float16
    (`precision_contest` beside this file).

    On CUDA, where neither the recipe nor the user names an opset, the layers are timed at 23, which has all ways to
    write them out, and 20 is kept unless the operator Attention is best somewhere.

    `convert` takes the winners from the folder's tuning.json for layers that are left to `auto`. A winner is inside
    the parity bound, and is another than the cost model's choice only if it is faster beyond doubt
    (`aaexport.load.contest`). Times depend on shapes only: a folder without weights is tuned with random ones.
    Where tuning.json cannot be written after the measurement, `not_kept` of the result says why.

    Args:
        model: a model folder, which is written to; not the zoo's own.
        size: (H, W) of the images; the recipe's by default.
        options: where and how long each candidate is timed.
        tick: is told each step, and the share that is done.
        overrides: fields of `TuneOptions` that are to be other than in `options`, or than their defaults.

    Raises:
        ArgumentError: an argument breaks its rule, or the network has no augmented layer and `dtype` is `float32`.
        ModelNotFoundError, FolderError, RecipeError, WeightsError: the folder is not there, not one, or not whole.
        ProviderError: `device` does not work here.
        ParityError: no decomposition of a layer is inside the parity bound.
        MeasurementError: no decomposition of a layer could be run.
        NoWeightsError: `dtype` is `auto`, and there are no weights to write files of.
        ExportError, GraphError, RunnerError: the whole network cannot be written, or does not run.
    """
    began = time.perf_counter()
    options = overridden(options or TuneOptions(), overrides, tune)
    options.check()
    folder = _own_folder(model)
    if options.dtype == "auto":
        _require_for_precision(folder, size)
    recipe = folder.recipe.for_size(size)
    module = _network(folder, recipe)
    groups = _attentions(folder, module, may_lack=options.dtype == "auto")
    for group in groups.values():
        require_memory(_most_frequent(group), recipe.input.shape, bytes_a_number=BYTES_IN_FLOAT32)
    device, decided = device_by_default() if options.device is None else (options.device, None)
    with OrtRunner(probe_model(), device=device) as probe:
        label, provider = probe.label, probe.provider
    fixed = recipe.export.batch if isinstance(recipe.export.batch, int) else TYPICAL_BATCH
    watch = MachineWatch()
    settled = settled_threads(module, recipe, options, device, _part(tick, 0.0, THREADS_SHARE))
    target, named_opset = parse_device(device)[0], options.opset or recipe.export.opset
    untuned_opset = named_opset or default_opset(module, target)
    conditions = Conditions(
        opset=untuned_opset if target == "cpu" else named_opset or ATTENTION_OPSET,
        images=options.batch or fixed,
        device=device,
        threads=settled.threads,
        duration=options.duration,
        seed=options.seed,
        untuned_opset=untuned_opset,
    )
    end = 1.0 if options.dtype == "float32" else PRECISION_FROM
    begin = 0.0 if settled.launches is None else THREADS_SHARE * end
    layers = _contests(groups, conditions, _part(tick, begin, end))
    environment = watch.environment()
    opset = untuned_opset if named_opset or target == "cpu" else _opset_for(layers)
    result = TuneResult(
        path=folder.tuning_path,
        label=label,
        provider=provider,
        opset=opset,
        timed_opset=conditions.opset,
        batch=conditions.images,
        threads=conditions.threads,
        duration=options.duration,
        seed=options.seed,
        launches=settled.launches,
        layers=layers,
        environment=environment,
        tools=tool_versions(),
        seconds=time.perf_counter() - began,
        warnings=(*_about(settled.launches), *warnings_about_the_machine(environment)),
        notes=(
            *([f"timed {decided}"] if decided else []),
            *settled.notes,
            *_on_a_gpu(target, named_opset, opset),
            *_notes(folder),
        ),
    )
    kept = _kept(result, folder)
    if options.dtype == "float32" or kept.not_kept is not None:
        return kept
    return _kept(_with_precision(kept, folder, options, device, _part(tick, PRECISION_FROM, 1.0), began), folder)


def _with_precision(
    result: TuneResult, folder: ModelFolder, options: TuneOptions, device: str, tick: Tick, began: float
) -> TuneResult:
    """The result with what the whole network takes in each precision; the layers' choices are stored by then."""
    images = options.batch or (folder.recipe.export.batch if isinstance(folder.recipe.export.batch, int) else 1)
    asked = Asked(options.opset, images, device, result.threads, options.duration, options.seed, options.max_loss)
    precision, notes = precision_contest(folder, asked, tick)
    seconds = time.perf_counter() - began
    return replace(result, precision=precision, notes=(*result.notes, *notes), seconds=seconds)


def _kept(result: TuneResult, folder: ModelFolder) -> TuneResult:
    """The result, written into the folder; where that fails it says so: what was measured is not lost with it."""
    try:
        write_json(folder.tuning_path, tuning_json(result, raw=True))
        folder.write_manifest()
    except FolderError as error:
        return replace(result, not_kept=str(error))
    return result


def distinct_layers(module: nn.Module) -> dict[AttentionSizes, dict[str, AugmentedConv2d]]:
    """The augmented layers of `module` by the sizes of their attention, in the order of the network."""
    groups: dict[AttentionSizes, dict[str, AugmentedConv2d]] = defaultdict(dict)
    for path, layer in augmented_layers(module).items():
        groups[layer.sizes][path] = layer
    return dict(groups)


def _own_folder(model: str | Path | ModelFolder) -> ModelFolder:
    folder = model if isinstance(model, ModelFolder) else find_model(model)
    if folder.is_zoo:
        raise FolderError(f"{folder.name} must be copied out of the zoo to be tuned; `aaexport tune` does so")
    check_writable(folder.tuning_path)
    return folder


def _require_for_precision(folder: ModelFolder, size: tuple[int, int] | None) -> None:
    """NoWeightsError, or ArgumentError, where no file of the whole network could be written and judged."""
    folder.require_weights()
    if size is not None:
        rule, remedy = "be the recipe's with --dtype auto", "tune the layers of another size without it"
        raise ArgumentError(broken_rule("size", rule, f"{size[0]} {size[1]}", remedy))


def _part(tick: Tick, begin: float, end: float) -> Tick:
    """What tells of a part of the whole, from `begin` to `end`."""
    return lambda step, share: tick(step, begin + share * (end - begin))


def _about(launches: Launches | None) -> tuple[str, ...]:
    return () if launches is None else launches.warnings


def _network(folder: ModelFolder, recipe: Recipe) -> nn.Module:
    module = build_network(recipe)
    if folder.weights_path.is_file():
        load_weights(module, folder.weights_path)
    return module


def _attentions(
    folder: ModelFolder, module: nn.Module, *, may_lack: bool
) -> dict[AttentionSizes, dict[str, AugmentedConv2d]]:
    """By their sizes; ArgumentError if there are none and the network may not lack them."""
    groups = distinct_layers(module)
    if not groups and not may_lack:
        raise ArgumentError(broken_rule("model", "have augmented layers to tune", f"{folder.name}, which has none"))
    return groups


def _opset_for(layers: Sequence[TunedLayer]) -> int:
    """The one that most runtimes know, unless a layer is best with the operator Attention, which came later.

    All else has the same kernels of CUDA at both, so that the layers' winners, timed at the later one, say it all.
    """
    return ATTENTION_OPSET if any(layer.chosen.decomposition == "fused" for layer in layers) else DEFAULT_OPSET


def _on_a_gpu(target: Target, named_opset: int | None, opset: int) -> tuple[str, ...]:
    """What was decided by measurement there, and what was not: opset and type change which kernels run."""
    if target == "cpu":
        return ()
    told = "layers were timed in float32, and in float16 attention takes other kernels"
    if named_opset is None:
        which = "a layer" if opset >= ATTENTION_OPSET else "no layer"
        return (f"opset {opset} by measurement: {which} is best as the operator Attention", told)
    other = DEFAULT_OPSET if named_opset >= ATTENTION_OPSET else ATTENTION_OPSET
    return (f"opset {named_opset} was named, and {other}, where attention takes other kernels, not looked at", told)


def _notes(folder: ModelFolder) -> tuple[str, ...]:
    notes = []
    if not folder.weights_path.is_file():
        notes.append("no weights yet: random ones were timed, which take as long")
    own = folder.recipe.export.decomposition
    if own != DEFAULT_DECOMPOSITION:
        remedy = f"`convert` uses the tuning with --decomposition {DEFAULT_DECOMPOSITION} only"
        notes.append(f'model.toml has decomposition = "{own}": {remedy}')
    return tuple(notes)


def _contests(
    groups: dict[AttentionSizes, dict[str, AugmentedConv2d]], conditions: Conditions, tick: Tick
) -> tuple[TunedLayer, ...]:
    tuned = []
    for number, (sizes, layers) in enumerate(groups.items()):

        def tell(step: str, share: float, number: int = number, sizes: AttentionSizes = sizes) -> None:
            tick(f"attention {number + 1} of {len(groups)}, {sizes}: {step}", (number + share) / len(groups))

        with tempfile.TemporaryDirectory(prefix="aaexport-") as scratch:
            contest = LayerContest(_most_frequent(layers), conditions, Path(scratch))
            tuned.append(contest.run(tuple(layers), tell))
    return tuple(tuned)


def _most_frequent(layers: dict[str, AugmentedConv2d]) -> AugmentedConv2d:
    """The first of the kind that most of them are; a layer's text holds all its sizes."""
    (kind, _), *_ = Counter(map(str, layers.values())).most_common(1)
    return next(layer for layer in layers.values() if str(layer) == kind)
