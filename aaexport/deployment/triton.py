"""Facts of a model → a Triton model repository for NVIDIA's container, whose onnxruntime backend runs the file.

model_repository/NAME/…    as `aaexport.serving.repository` lays it out
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aaexport.deployment.artefact import README, Check, Target, found, readme
from aaexport.deployment.model_config import data_type_name, read_config
from aaexport.deployment.settings import DeploySettings
from aaexport.device import parse_device
from aaexport.errors import AaexportError
from aaexport.graph.files import model_inputs, parse_onnx, tensor_info
from aaexport.serving.engine import closing_flags
from aaexport.serving.facts import ModelFacts, ServedTensor
from aaexport.serving.pbtxt import Message, entries
from aaexport.serving.process import GRACE
from aaexport.serving.reading import served_tensor
from aaexport.serving.repository import Batching, Files, RepositorySettings, on_cuda, repository_files
from aaexport.serving.shared_memory import image_bytes, mebibytes

REPOSITORY = "model_repository"
RELEASE = "25.11-py3"  # its onnxruntime runs the opsets that `convert` writes by default
IMAGE = f"nvcr.io/nvidia/tritonserver:{RELEASE}"
# Triton completes a configuration by itself, and would switch on batching that was measured not to pay.
SERVER_FLAGS = ("--disable-auto-complete-config", "--model-control-mode=none")
DRAIN_SECONDS = round(GRACE)  # that Triton may take for what it has accepted; docker kills after 10 s by itself
WORKSPACE = 2**30  # bytes that TensorRT may take while it runs
BYTES_OF = {"BOOL": 1, "INT8": 1, "UINT8": 1, "INT16": 2, "UINT16": 2, "FP16": 2, "FP64": 8, "INT64": 8, "UINT64": 8}


def files(facts: ModelFacts, settings: DeploySettings) -> Files:
    """The repository, and what to start it with."""
    return {f"{REPOSITORY}/{name}": content for name, content in repository(facts, settings).items()} | {
        README: readme(
            "Triton",
            facts,
            8000,
            f"`{REPOSITORY}/` is a model repository for the onnxruntime backend of `{IMAGE}`.",
            f"`docker run --rm{' --gpus all' if settings.device != 'cpu' else ''} --stop-timeout {DRAIN_SECONDS} "
            f"{_shared_memory(facts, settings)}-p 127.0.0.1:8000:8000 -p 127.0.0.1:8001:8001 "
            f"-v $PWD/{REPOSITORY}:/models:ro {IMAGE} tritonserver --model-repository=/models "
            f"{' '.join((*SERVER_FLAGS, *closing_flags('$(openssl rand -hex 32)')))}`; the last two flags close to "
            "everybody what clients need not: loading, shared memory, traces and logs",
        )
    }


def _shared_memory(facts: ModelFacts, settings: DeploySettings) -> str:
    """What docker is told of it: images go through the Python backend; the onnxruntime backend needs none."""
    return f"--shm-size {mebibytes(image_bytes(facts))}m " if settings.images and facts.image is not None else ""


def repository(facts: ModelFacts, settings: DeploySettings) -> Files:
    """The files of the repository itself, by their paths in it."""
    return repository_files(facts, repository_settings(facts, settings))


def repository_settings(facts: ModelFacts, settings: DeploySettings) -> RepositorySettings:
    """In the words of the repository's writer."""
    return RepositorySettings(
        backend="onnxruntime",
        max_batch=settings.max_batch,
        batching=Batching(settings.max_delay / 1000) if settings.batching else None,
        instances=settings.instances,
        threads=settings.threads,
        device=settings.device,
        optimization=_optimization(facts, settings),
        images=settings.images,
    )


def _optimization(facts: ModelFacts, settings: DeploySettings) -> Message:
    """What the GPU's execution providers are told; nothing on a CPU.

    CUDA graphs belong to TensorRT here: onnxruntime's own need every tensor at one address, which a server has not.
    """
    if parse_device(settings.device)[0] == "cpu":
        return {}
    if not settings.tensorrt:
        return on_cuda()
    return on_cuda({"name": "tensorrt", "parameters": entries(_tensorrt(facts, settings))})


def _tensorrt(facts: ModelFacts, settings: DeploySettings) -> dict[str, str]:
    """An engine is built once, for all batches up to the bound: built anew for each, it stalls for minutes.

    Where other sizes are open too nobody knows their bounds, and TensorRT is left to find them.
    """
    options = {
        "precision_mode": "FP16" if settings.fp16 else "FP32",
        "max_workspace_size_bytes": str(WORKSPACE),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": "/tmp/tensorrt",
    }
    if settings.cuda_graph:
        options["trt_cuda_graph_enable"] = "1"
    if facts.batched and all(size > 0 for tensor in facts.inputs for size in tensor.shape[1:]):
        for bound, batch in (("min", 1), ("opt", settings.max_batch), ("max", settings.max_batch)):
            options[f"trt_profile_{bound}_shapes"] = ",".join(_profile(tensor, batch) for tensor in facts.inputs)
    return options


def _profile(tensor: ServedTensor, batch: int) -> str:
    return f"{tensor.name}:{'x'.join(str(size) for size in (batch, *tensor.shape[1:]))}"


def check(root: Path) -> Iterator[Check]:
    """Every model of the repository in `root`: its configuration, and its file against that."""
    yield from check_repository(root / REPOSITORY)


def check_repository(repository: Path) -> Iterator[Check]:
    """The same of a repository itself."""
    models = sorted(path for path in repository.iterdir() if path.is_dir()) if repository.is_dir() else []
    yield found("models", [] if models else [f"{repository.name} holds no model"], ", ".join(m.name for m in models))
    for model in models:
        yield from _check_model(model)


def _check_model(model: Path) -> Iterator[Check]:
    try:
        config = read_config((model / "config.pbtxt").read_text(encoding="utf-8"))
    except (AaexportError, OSError, ValueError) as error:
        yield Check(f"{model.name}: configuration", False, str(error))
        return
    yield found(
        f"{model.name}: configuration", list(_config_faults(model, config)), "config.pbtxt is one of Triton's"
    )
    if config.backend != "python":
        yield found(f"{model.name}: tensors", list(_tensor_faults(model, config)), _tensors_seen(config))


def _config_faults(model: Path, config: Any) -> Iterator[str]:
    if config.name != model.name:
        yield f"name must be that of its folder, {model.name}, got {config.name}"
    versions = sorted(path.name for path in model.iterdir() if path.is_dir() and path.name.isdecimal())
    wanted = [str(version) for version in config.version_policy.specific.versions] or versions[:1]
    for version in wanted or ["1"]:
        if not (model / version / config.default_model_filename).is_file():
            yield f"version {version} must have its {config.default_model_filename}, got none"
    policy = config.dynamic_batching.default_queue_policy
    counts = [group.count for group in config.instance_group]
    if (
        config.dynamic_batching.HasField("default_queue_policy")
        and max(counts, default=1) == 1
        and policy.ListFields()
    ):
        yield "default_queue_policy must not stand beside one instance: Triton then stalls for half a second"
    if config.HasField("dynamic_batching") and config.max_batch_size < 1:
        yield f"max_batch_size must be at least 1 for dynamic_batching, got {config.max_batch_size}"
    for output in config.output:
        if output.label_filename and not (model / output.label_filename).is_file():
            yield f"label_filename of {output.name} must be there, got {output.label_filename}"
        elif output.label_filename:
            labels = len((model / output.label_filename).read_text(encoding="utf-8").splitlines())
            if labels != output.dims[-1]:
                yield f"{output.label_filename} must have a line for each of {output.dims[-1]} classes, got {labels}"
    yield from _warmup_faults(model, config)


def _warmup_faults(model: Path, config: Any) -> Iterator[str]:
    ports = {port.name: port for port in config.input}
    for warmup in config.model_warmup:
        if set(warmup.inputs) != set(ports):
            yield f"warm-up must give {', '.join(ports)}, got {', '.join(warmup.inputs) or 'nothing'}"
            continue
        for given in warmup.inputs.values():
            path = model / "warmup" / given.input_data_file
            kind = data_type_name(given.data_type).removeprefix("TYPE_")
            wanted = math.prod(given.dims) * BYTES_OF.get(kind, 4)
            if given.input_data_file and (not path.is_file() or path.stat().st_size != wanted):
                got = f"{path.stat().st_size}" if path.is_file() else "no file"
                yield f"warmup/{given.input_data_file} must hold {wanted} bytes for {list(given.dims)}, got {got}"


def _tensor_faults(model: Path, config: Any) -> Iterator[str]:
    """What the configuration says of tensors, and the ONNX file of each version otherwise."""
    for path in sorted(model.glob(f"*/{config.default_model_filename}")):
        try:
            graph = parse_onnx(path)
            told = {
                "input": list(model_inputs(graph)),
                "output": [tensor_info(value) for value in graph.graph.output],
            }
            for side, tensors in told.items():
                ports = {port.name: port for port in getattr(config, side)}
                served = [served_tensor(tensor, path) for tensor in tensors]
                if [tensor.name for tensor in served] != list(ports):
                    names = ", ".join(tensor.name for tensor in served)
                    yield f"{side}s must be those of {path.name}, {names}, got {', '.join(ports) or 'none'}"
                    continue
                yield from (fault for one in served for fault in _port_faults(side, ports[one.name], one, config))
        except AaexportError as error:
            yield str(error)


def _port_faults(side: str, port: Any, tensor: ServedTensor, config: Any) -> Iterator[str]:
    kind = data_type_name(port.data_type)
    if kind != f"TYPE_{tensor.datatype}":
        yield f"data_type of {side} {port.name} must be TYPE_{tensor.datatype}, got {kind}"
    shape = list(port.reshape.shape) if port.HasField("reshape") else list(port.dims)
    whole = [-1, *shape] if config.max_batch_size else shape
    if whole != list(tensor.shape):
        yield f"dims of {side} {port.name} must make {list(tensor.shape)}, got {whole}"


def _tensors_seen(config: Any) -> str:
    sides = (", ".join(f"{port.name} {list(port.dims)}" for port in ports) for ports in (config.input, config.output))
    batch = f", batches up to {config.max_batch_size}" if config.max_batch_size else ""
    return " → ".join(sides) + batch


TARGET = Target(files, check)
