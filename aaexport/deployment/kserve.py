"""Facts of a model → an InferenceService for KServe's Triton runtime, and the models as its storage has them.

inference-service.yaml
models/NAME/…    the Triton repository; what goes to the storage that the service names
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from aaexport.deployment.artefact import README, Check, Target, found, readme, require_memory
from aaexport.deployment.schema import Keys, Many, faults
from aaexport.deployment.settings import STORAGES, DeploySettings
from aaexport.deployment.triton import RELEASE, SERVER_FLAGS, check_repository, repository
from aaexport.deployment.yaml_text import read_yaml, yaml_of
from aaexport.errors import AaexportError
from aaexport.serving.engine import RESTRICTED, closing_flags
from aaexport.serving.facts import ModelFacts
from aaexport.serving.repository import Files
from aaexport.serving.shared_memory import GIVEN, image_bytes, mebibytes

SERVICE = "inference-service.yaml"
MODELS = "models"
HTTP_PORT, GRPC_PORT = 8080, 9000  # of KServe's Triton runtime
RUNTIME = "kserve-tritonserver"
NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")  # of a service: a label of DNS
GPU = "nvidia.com/gpu"
# Triton waits so long for connections, and so long for models. Kubernetes kills after 30 s, and only one of KServe's
# two modes lets that be changed: Knative refuses terminationGracePeriodSeconds and takes `timeout` for it.
EXIT_FLAG, EXIT_SECONDS, POD_SECONDS = "--exit-timeout-secs", 12, 30
SHARED, SHARED_PLACE = "shared-memory", "/dev/shm"
SECRET, SECRET_KEY = "AAEXPORT_CONTROL", "key"  # a variable of the pod, and what a Secret calls its value

QUANTITY = (str, int)
PROBE = Keys(
    {
        "httpGet": Keys({"path": str, "port": (int, str), "scheme": ("HTTP", "HTTPS")}, ("path", "port")),
        "initialDelaySeconds": int, "periodSeconds": int, "timeoutSeconds": int, "failureThreshold": int,
        "successThreshold": int, "terminationGracePeriodSeconds": int,
    },
    ("httpGet",),
)  # fmt: skip
MODEL = Keys(
    {
        "modelFormat": Keys({"name": str, "version": str}, ("name",)),
        "protocolVersion": ("v2", "grpc-v2"),
        "runtime": str, "runtimeVersion": str, "storageUri": str, "args": [str],
        "resources": Keys({"requests": Many(QUANTITY), "limits": Many(QUANTITY)}),
        "env": [
            Keys(
                {
                    "name": str, "value": str,
                    "valueFrom": Keys({"secretKeyRef": Keys({"name": str, "key": str}, ("name", "key"))}),
                },
                ("name",),
            )
        ],
        "volumeMounts": [Keys({"name": str, "mountPath": str}, ("name", "mountPath"))],
        "startupProbe": PROBE, "readinessProbe": PROBE, "livenessProbe": PROBE,
    },
    ("modelFormat", "storageUri", "resources", "readinessProbe"),
)  # fmt: skip
IN_MEMORY = Keys({"medium": ("Memory",), "sizeLimit": QUANTITY}, ("medium", "sizeLimit"))
PREDICTOR = Keys(
    {
        "minReplicas": int, "maxReplicas": int, "scaleMetric": ("cpu", "memory", "concurrency", "rps"),
        "scaleTarget": int, "containerConcurrency": int, "timeout": int, "canaryTrafficPercent": int, "model": MODEL,
        "terminationGracePeriodSeconds": int,
        "volumes": [Keys({"name": str, "emptyDir": IN_MEMORY}, ("name", "emptyDir"))],
    },
    ("minReplicas", "maxReplicas", "model"),
)  # fmt: skip
# What aaexport writes of an InferenceService: KServe takes more, and passes over what it does not know.
SCHEMA = Keys(
    {
        "apiVersion": ("serving.kserve.io/v1beta1",),
        "kind": ("InferenceService",),
        "metadata": Keys({"name": str, "namespace": str, "labels": Many(), "annotations": Many()}, ("name",)),
        "spec": Keys({"predictor": PREDICTOR}, ("predictor",)),
    },
    ("apiVersion", "kind", "metadata", "spec"),
)


def files(facts: ModelFacts, settings: DeploySettings) -> Files:
    """The service, the repository that its storage holds, and how both get to the cluster."""
    written: Files = {f"{MODELS}/{name}": content for name, content in repository(facts, settings).items()}
    name = service_name(facts.name)
    return written | {
        SERVICE: yaml_of(inference_service(facts, settings)),
        README: readme(
            "KServe",
            facts,
            HTTP_PORT,
            f"Copy what is inside `{MODELS}/` to `{settings.storage}/{name}`, which KServe mounts at `/mnt/models`.",
            f"{_secret_line(name, settings)} `kubectl apply -f {SERVICE}` and `kubectl wait --for=condition=Ready "
            f"inferenceservice/{name} -n {settings.namespace} --timeout=10m`; Triton answers on {HTTP_PORT} (REST) "
            f"and {GRPC_PORT} (gRPC) of a pod.",
        ),
    }


def service_name(name: str) -> str:
    """The model's name as Kubernetes has names; the model itself keeps its own."""
    label = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return (label if label[:1].isalpha() else f"m-{label}")[:63].rstrip("-")


def _secret_line(name: str, settings: DeploySettings) -> str:
    value = f"--from-literal={SECRET_KEY}=$(openssl rand -hex 32)"
    once = f"`kubectl create secret generic {_secret(name)['name']} -n {settings.namespace} {value}`"
    return f"Once {once}: who does not know it cannot load models, nor reach shared memory, traces and logs. Then"


def _secret(name: str) -> dict[str, str]:
    """Where the value lies by which Triton knows who may load models and touch shared memory, traces and logs."""
    return {"name": f"{name[:55]}-control", "key": SECRET_KEY}


def inference_service(facts: ModelFacts, settings: DeploySettings) -> dict[str, Any]:
    """As KServe has it. A pod is ready when the model is: a server's own readiness says nothing of one model."""
    name = service_name(facts.name)
    resources: dict[str, Any] = {"cpu": str(settings.cpus), "memory": f"{settings.memory}Mi"}
    if settings.device != "cpu":
        resources[GPU] = 1
    ready = {"httpGet": {"path": f"/v2/models/{facts.name}/ready", "port": HTTP_PORT}}
    alive = {"httpGet": {"path": "/v2/health/live", "port": HTTP_PORT}}
    shared = mebibytes(image_bytes(facts)) if settings.images and facts.image is not None else GIVEN
    if shared > GIVEN:
        require_memory(settings.memory, shared)
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": name,
            "namespace": settings.namespace,
            "annotations": {"aaexport/onnx-sha256": facts.onnx_sha256},
        },
        "spec": {
            "predictor": {
                "minReplicas": settings.min_replicas,
                "maxReplicas": settings.max_replicas,
                "timeout": 60,
                **({"volumes": [_volume(shared)]} if shared > GIVEN else {}),
                "model": {
                    "modelFormat": {"name": "triton", "version": "2"},
                    "protocolVersion": "v2",
                    "runtime": RUNTIME,
                    "runtimeVersion": RELEASE,
                    "storageUri": f"{settings.storage}/{name}",
                    "args": [*SERVER_FLAGS, f"{EXIT_FLAG}={EXIT_SECONDS}", *closing_flags(f"$({SECRET})")],
                    "env": [{"name": SECRET, "valueFrom": {"secretKeyRef": _secret(name)}}],
                    "resources": {"requests": resources, "limits": dict(resources)},
                    **({"volumeMounts": [{"name": SHARED, "mountPath": SHARED_PLACE}]} if shared > GIVEN else {}),
                    "startupProbe": {**ready, "periodSeconds": 5, "failureThreshold": 60},
                    "readinessProbe": {**ready, "periodSeconds": 5, "timeoutSeconds": 3, "failureThreshold": 2},
                    "livenessProbe": {**alive, "periodSeconds": 10, "timeoutSeconds": 3, "failureThreshold": 3},
                },
            }
        },
    }


def _volume(shared: int) -> dict[str, Any]:
    """So many MiB for /dev/shm, by way of which images reach the backend that decodes them; they count as memory."""
    return {"name": SHARED, "emptyDir": {"medium": "Memory", "sizeLimit": f"{shared}Mi"}}


def check(root: Path) -> Iterator[Check]:
    """The service by its keys and types, what it says against the models beside it, and these."""
    models = root / MODELS
    try:
        service = read_yaml((root / SERVICE).read_text(encoding="utf-8"))
        wrong = list(faults(service, SCHEMA))
        yield found("service", wrong, f"{SERVICE} has keys and types of KServe's")
        if not wrong:
            names = sorted(path.name for path in models.iterdir()) if models.is_dir() else []
            seen = f"ports, storage, resources and replicas fit, probes ask {', '.join(names)}"
            yield found("service and models", list(_contradictions(service, names)), seen)
    except (AaexportError, OSError, ValueError) as error:
        yield Check("service", False, str(error))
    yield from check_repository(models)


def _contradictions(service: Mapping[str, Any], models: list[str]) -> Iterator[str]:
    predictor = service["spec"]["predictor"]
    model = predictor["model"]
    if NAME.fullmatch(service["metadata"]["name"]) is None:
        yield f"metadata.name must be a label of DNS, got {service['metadata']['name']!r}"
    if not 0 <= predictor["minReplicas"] <= predictor["maxReplicas"]:
        yield f"minReplicas must be at most {predictor['maxReplicas']}, maxReplicas, got {predictor['minReplicas']}"
    if model["modelFormat"]["name"] != "triton":
        yield f"modelFormat.name must be triton for a folder of models, got {model['modelFormat']['name']!r}"
    scheme = model["storageUri"].partition("://")[0]
    if scheme not in STORAGES:
        yield f"storageUri must begin with one of {', '.join(STORAGES)} and ://, got {model['storageUri']!r}"
    yield from _probe_faults(model, models)
    yield from _end_faults(predictor)
    for flag in closing_flags(""):
        name = flag.partition("=")[0]
        if not any(arg.startswith(f"{name}=") for arg in model.get("args", ())):
            yield f"args must have {name}, which closes {', '.join(RESTRICTED)}, got none"
    requests, limits = (model["resources"].get(side, {}) for side in ("requests", "limits"))
    for side, given in (("requests", requests), ("limits", limits)):
        for name in ("cpu", "memory"):
            if name not in given:
                yield f"resources.{side}.{name} must be there, got none"


def _end_faults(predictor: Mapping[str, Any]) -> Iterator[str]:
    """Whether Triton has the time to answer what it has accepted."""
    given = [arg.partition("=")[2] for arg in predictor["model"].get("args", ()) if arg.startswith(f"{EXIT_FLAG}=")]
    takes = 2 * int(given[0]) if given and given[0].isdecimal() else None
    has = predictor.get("terminationGracePeriodSeconds", POD_SECONDS)
    if takes is None:
        yield f"args must have {EXIT_FLAG}=SECONDS, got {given[0] if given else 'none'}"
    elif takes > has:
        yield f"{EXIT_FLAG} must be at most {has // 2}, as a pod is killed after {has} s, got {given[0]}"


def _probe_faults(model: Mapping[str, Any], models: list[str]) -> Iterator[str]:
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = model.get(name, {}).get("httpGet")
        if asked is None:
            continue
        if asked["port"] != HTTP_PORT:
            yield f"{name} must ask port {HTTP_PORT}, where KServe's Triton listens, got {asked['port']}"
        which = re.fullmatch(r"/v2/models/([^/]+)/ready", asked["path"])
        if which is not None and which[1] not in models:
            yield f"{name} must ask one of {', '.join(models) or 'no models'}, got {which[1]}"
        if which is None and not asked["path"].startswith("/v2/health/"):
            yield f"{name} must ask a path of the protocol's, got {asked['path']}"


TARGET = Target(files, check)
