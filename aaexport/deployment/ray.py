"""Facts of a model → a Ray Serve application for many hosts: one file, what it serves, and its configuration.

application.py    REST and gRPC of the Open Inference Protocol, one onnxruntime session a replica
serve.yaml        ports, replicas, health checks, resources
model/…  model.json  golden.npz
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aaexport.deployment.artefact import README, Check, Target, found, readme, require_golden
from aaexport.deployment.schema import Keys, Many, faults
from aaexport.deployment.settings import DeploySettings
from aaexport.deployment.yaml_text import read_yaml, yaml_of
from aaexport.errors import AaexportError
from aaexport.folder import sha256
from aaexport.graph.files import file_digest, model_inputs, parse_onnx, tensor_info
from aaexport.serving.facts import ModelFacts
from aaexport.serving.reading import served_tensor
from aaexport.serving.repository import Files

APPLICATION, CONFIGURATION, ABOUT, GOLDEN, MODEL = "application.py", "serve.yaml", "model.json", "golden.npz", "model"
SOURCE = Path(__file__).parent / "inside_ray" / APPLICATION
HTTP_PORT, GRPC_PORT = 8000, 9000
DEPLOYMENT = "Model"
SERVICE_FUNCTION = "application.add_inference_service"
TARGET_REQUESTS = 8  # under way in a replica before another one starts
NUMBER = (int, float)
# What aaexport writes of a Serve configuration: Ray takes more, and passes over what it does not know.
DEPLOYMENT_KEYS = Keys(
    {
        "name": (DEPLOYMENT,),
        "max_ongoing_requests": int,
        "autoscaling_config": Keys(
            {
                "min_replicas": int, "max_replicas": int, "initial_replicas": int, "target_ongoing_requests": NUMBER,
                "upscale_delay_s": NUMBER, "downscale_delay_s": NUMBER,
            },
            ("min_replicas", "max_replicas"),
        ),
        "health_check_period_s": NUMBER, "health_check_timeout_s": NUMBER, "graceful_shutdown_timeout_s": NUMBER,
        "ray_actor_options": Keys({"num_cpus": NUMBER, "memory": NUMBER, "resources": Many(NUMBER)}),
        "max_replicas_per_node": int,
    },
    ("name", "max_ongoing_requests", "autoscaling_config", "ray_actor_options"),
)  # fmt: skip
ARGUMENTS = Keys(
    {"max_batch": int, "max_delay": NUMBER, "batching": bool, "threads": (int, type(None))},
    ("max_batch", "max_delay", "batching", "threads"),
)
SCHEMA = Keys(
    {
        "proxy_location": ("EveryNode", "HeadOnly", "Disabled"),
        "http_options": Keys({"host": str, "port": int, "request_timeout_s": NUMBER}, ("port",)),
        "grpc_options": Keys({"port": int, "grpc_servicer_functions": [str], "request_timeout_s": NUMBER},
                             ("port", "grpc_servicer_functions")),
        "applications": [
            Keys(
                {"name": str, "route_prefix": str, "import_path": str, "args": ARGUMENTS,
                 "deployments": [DEPLOYMENT_KEYS]},
                ("name", "import_path", "args", "deployments"),
            )
        ],
    },
    ("proxy_location", "http_options", "grpc_options", "applications"),
)  # fmt: skip


def files(facts: ModelFacts, settings: DeploySettings) -> Files:
    """The application, its configuration and its model.

    FolderError where nobody knows an answer of the model's: health would then be nothing to ask for.
    """
    require_golden(facts, "Ray's health checks")
    written: Files = {
        APPLICATION: SOURCE,
        CONFIGURATION: yaml_of(configuration(facts, settings)),
        ABOUT: json.dumps(_about(facts, settings), indent=2) + "\n",
        GOLDEN: _golden(facts),
        f"{MODEL}/{facts.onnx.name}": facts.onnx,
    }
    written |= {f"{MODEL}/{file.relative_to(facts.onnx.parent)}": file for file in facts.data_files}
    return written | {
        README: readme(
            "Ray Serve",
            facts,
            HTTP_PORT,
            "Every host has this folder under the same path, and Python with `ray[serve]`, onnxruntime, grpcio and "
            "aaexport (`pip install --no-deps aaexport` is enough: no PyTorch).",
            "`PYTHONPATH=$PWD ray start --head` on the first host, `PYTHONPATH=$PWD ray start --address=FIRST:6379` "
            f"on the others, `python application.py` on one; then each answers on {HTTP_PORT} (REST) and {GRPC_PORT} "
            "(gRPC): give clients all URLs, and let them retry.",
        ),
    }


def configuration(facts: ModelFacts, settings: DeploySettings) -> dict[str, Any]:
    """serve.yaml as a value."""
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": HTTP_PORT, "request_timeout_s": 30.0},
        "grpc_options": {
            "port": GRPC_PORT,
            "grpc_servicer_functions": [SERVICE_FUNCTION],
            "request_timeout_s": 30.0,
        },
        "applications": [
            {
                "name": facts.name,
                "route_prefix": "/",
                "import_path": "application:build",
                "args": {
                    "max_batch": settings.max_batch,
                    "max_delay": settings.max_delay / 1000,
                    "batching": settings.batching,
                    "threads": settings.threads,
                },
                "deployments": [_deployment(settings)],
            }
        ],
    }


def _deployment(settings: DeploySettings) -> dict[str, Any]:
    return {
        "name": DEPLOYMENT,
        "max_ongoing_requests": max(2 * settings.max_batch, 2 * TARGET_REQUESTS),
        "autoscaling_config": {
            "min_replicas": settings.min_replicas,
            "max_replicas": settings.max_replicas,
            "target_ongoing_requests": TARGET_REQUESTS,
        },
        "health_check_period_s": 5.0,
        "health_check_timeout_s": 10.0,
        "graceful_shutdown_timeout_s": 20.0,
        "ray_actor_options": {"num_cpus": settings.cpus, "memory": settings.memory * 2**20},
    }


def _about(facts: ModelFacts, settings: DeploySettings) -> dict[str, Any]:
    def told(tensors: Any) -> list[dict[str, Any]]:
        return [{"name": one.name, "datatype": one.datatype, "shape": list(one.shape)} for one in tensors]

    return {
        "name": facts.name,
        "onnx": facts.onnx.name,
        "onnx_sha256": facts.onnx_sha256,
        "dtype": settings.dtype,
        "inputs": told(facts.inputs),
        "outputs": told(facts.outputs),
    }


def _golden(facts: ModelFacts) -> bytes:
    query = facts.golden[0]
    arrays = {f"input.{name}": array for name, array in query.inputs.items()}
    arrays |= {f"output.{name}": array for name, array in query.outputs.items()}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # arrays by name, and no option of its own
    return buffer.getvalue()


def check(root: Path) -> Iterator[Check]:
    """The application and its configuration, and what model.json says against the file."""
    try:
        is_ours = sha256(root / APPLICATION) == sha256(SOURCE)
        compile((root / APPLICATION).read_text(encoding="utf-8"), APPLICATION, "exec")
        yield found(
            "application", [], f"{APPLICATION} is " + ("this aaexport's" if is_ours else "another aaexport's")
        )
    except (OSError, SyntaxError, ValueError) as error:
        yield Check("application", False, str(error))
    try:
        config = read_yaml((root / CONFIGURATION).read_text(encoding="utf-8"))
        wrong = list(faults(config, SCHEMA)) or list(_contradictions(config))
        yield found("configuration", wrong, f"{CONFIGURATION} has keys and types of Ray Serve's")
    except (AaexportError, OSError, ValueError) as error:
        yield Check("configuration", False, str(error))
    try:
        about = json.loads((root / ABOUT).read_text(encoding="utf-8"))
        yield found(
            "model", list(_model_faults(root, about)), f"tensors and digest of {about['name']} are the file's"
        )
    except (AaexportError, OSError, LookupError, ValueError, TypeError) as error:
        yield Check("model", False, f"{ABOUT}: {error}")


def _contradictions(config: Mapping[str, Any]) -> Iterator[str]:
    if len(config["applications"]) != 1:
        yield f"applications must be one, got {len(config['applications'])}"
        return
    application = config["applications"][0]
    if application["import_path"] != "application:build":
        yield f"import_path must be application:build, got {application['import_path']!r}"
    if SERVICE_FUNCTION not in config["grpc_options"]["grpc_servicer_functions"]:
        yield f"grpc_servicer_functions must name {SERVICE_FUNCTION}, or gRPC answers nothing"
    if config["http_options"]["port"] == config["grpc_options"]["port"]:
        yield f"the ports of REST and gRPC must differ, got {config['grpc_options']['port']} twice"
    if len(application["deployments"]) != 1:
        yield f"deployments must be one, got {len(application['deployments'])}"
        return
    deployment = application["deployments"][0]
    bounds = deployment["autoscaling_config"]
    if not 1 <= bounds["min_replicas"] <= bounds["max_replicas"]:
        most, got = bounds["max_replicas"], bounds["min_replicas"]
        yield f"min_replicas must be between 1 and max_replicas, {most}, got {got}"
    if application["args"]["max_batch"] < 1:
        yield f"max_batch must be at least 1, got {application['args']['max_batch']}"


def _model_faults(root: Path, about: Mapping[str, Any]) -> Iterator[str]:
    path = root / MODEL / about["onnx"]
    graph = parse_onnx(path)
    beside = sorted(file for file in path.parent.iterdir() if file != path)
    if file_digest(path, beside) != about["onnx_sha256"]:
        yield f"{path.name} must be the file of {ABOUT}, got another: deploy it again"
    sides = {"inputs": model_inputs(graph), "outputs": [tensor_info(value) for value in graph.graph.output]}
    for side, tensors in sides.items():
        served = [served_tensor(tensor, path) for tensor in tensors]
        wanted = [{"name": one.name, "datatype": one.datatype, "shape": list(one.shape)} for one in served]
        if about[side] != wanted:
            yield f"{side} of {ABOUT} must be those of {path.name}, {wanted}, got {about[side]}"


TARGET = Target(files, check)
