"""The InferenceService, and what its check finds."""

from dataclasses import replace

import pytest
from deployable import edit, failed, write

from aaexport.deployment.kserve import GPU, SCHEMA, check, files, inference_service, service_name
from aaexport.deployment.schema import Keys, Many, faults
from aaexport.deployment.settings import DeploySettings
from aaexport.deployment.yaml_text import read_yaml

SERVICE = "inference-service.yaml"
# The types of KServe's own definition (CRD of serving.kserve.io/v1beta1, August 2026), of the keys that we write.
CRD = {
    "apiVersion": "string", "kind": "string", "metadata": "object", "spec": "object",
    "spec.predictor": "object", "spec.predictor.minReplicas": "integer", "spec.predictor.maxReplicas": "integer",
    "spec.predictor.timeout": "integer", "spec.predictor.scaleTarget": "integer",
    "spec.predictor.scaleMetric": "string", "spec.predictor.containerConcurrency": "integer",
    "spec.predictor.canaryTrafficPercent": "integer", "spec.predictor.model": "object",
    "spec.predictor.model.modelFormat": "object", "spec.predictor.model.modelFormat.name": "string",
    "spec.predictor.model.modelFormat.version": "string", "spec.predictor.model.protocolVersion": "string",
    "spec.predictor.model.runtime": "string", "spec.predictor.model.runtimeVersion": "string",
    "spec.predictor.model.storageUri": "string", "spec.predictor.model.args": "array",
    "spec.predictor.model.env": "array", "spec.predictor.model.resources": "object",
    "spec.predictor.model.resources.requests": "object", "spec.predictor.model.resources.limits": "object",
    "spec.predictor.terminationGracePeriodSeconds": "integer", "spec.predictor.volumes": "array",
    "spec.predictor.model.volumeMounts": "array",
}  # fmt: skip
PROBE = {
    "": "object", ".httpGet": "object", ".httpGet.path": "string", ".httpGet.port": "int-or-string",
    ".httpGet.scheme": "string", ".initialDelaySeconds": "integer", ".periodSeconds": "integer",
    ".timeoutSeconds": "integer", ".failureThreshold": "integer", ".successThreshold": "integer",
    ".terminationGracePeriodSeconds": "integer",
}  # fmt: skip
for name in ("startupProbe", "readinessProbe", "livenessProbe"):
    CRD |= {f"spec.predictor.model.{name}{key}": kind for key, kind in PROBE.items()}


def test_what_is_written_passes_its_check(facts, tmp_path):
    found = list(check(write(files(facts, DeploySettings()), tmp_path)))
    assert failed(found) == {}
    assert {"service", "service and models", "digits: tensors"} <= {one.name for one in found}


def test_the_service_says_what_was_asked_for(facts):
    settings = DeploySettings(
        device="cuda",
        min_replicas=2,
        max_replicas=8,
        cpus=3,
        memory=512,
        storage="s3://bucket/models",
        namespace="ml",
    )
    service = inference_service(facts, settings)
    predictor = service["spec"]["predictor"]
    assert service["metadata"]["namespace"] == "ml"
    assert (predictor["minReplicas"], predictor["maxReplicas"]) == (2, 8)
    assert predictor["model"]["resources"]["limits"] == {"cpu": "3", "memory": "512Mi", GPU: 1}
    assert predictor["model"]["storageUri"] == "s3://bucket/models/digits"
    assert predictor["model"]["readinessProbe"]["httpGet"] == {"path": "/v2/models/digits/ready", "port": 8080}


def test_every_key_and_type_is_kserves():
    kinds = {str: "string", int: "integer", (int, str): "int-or-string", (str, int): "int-or-string"}

    def walk(wanted, place):
        if isinstance(wanted, Keys):
            yield place, "object"
            for key, inner in wanted.known.items():
                yield from walk(inner, f"{place}.{key}" if place else key)
        elif isinstance(wanted, Many):
            yield place, "object"
        elif isinstance(wanted, list):
            yield place, "array"
        else:
            yield place, kinds.get(wanted, "string" if isinstance(wanted, tuple) else None)

    for place, kind in walk(SCHEMA, ""):
        if place and not place.startswith("metadata."):  # metadata is of Kubernetes, not of KServe
            assert CRD[place] == kind, place


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("minReplicas", "minReplica", "got 'minReplica'; did you mean 'minReplicas'?"),
        ("minReplicas: 1", "minReplicas: '1'", "spec.predictor.minReplicas must be int, got '1'"),
        ("minReplicas: 1", "minReplicas: 1\n    minReplicas: 2", "minReplicas must stand once"),
        ("minReplicas: 1", "minReplicas: 7", "minReplicas must be at most 3"),
        ("kind: InferenceService", "kind: InferenceServices", "kind must be one of InferenceService"),
        (
            "modelFormat:\n        name: triton\n        version: '2'\n      ",
            "",
            "modelFormat must be there, got none",
        ),
        ("name: triton", "name: onnx", "modelFormat.name must be triton"),
        ("port: 8080", "port: 8000", "startupProbe must ask port 8080"),
        ("/v2/models/digits/ready", "/v2/models/digit/ready", "startupProbe must ask one of digits, got digit"),
        ("pvc://models", "models", "storageUri must begin with one of"),
        ("cpu: '1'", "cpus: '1'", "resources.requests.cpu must be there"),
        ("name: digits\n", "name: Digits\n", "metadata.name must be a label of DNS"),
        ("--http-restricted-api=", "--http-restricted=", "args must have --http-restricted-api, which closes"),
        ("--grpc-restricted-protocol=", "--grpc=", "args must have --grpc-restricted-protocol, which closes"),
        ("secretKeyRef", "secretKeyRefs", "got 'secretKeyRefs'; did you mean 'secretKeyRef'?"),
        ("--exit-timeout-secs=12", "--exit-timeout-secs=30", "--exit-timeout-secs must be at most 15, as a pod is"),
        ("--exit-timeout-secs=12", "--exit-timeout-secs=", "args must have --exit-timeout-secs=SECONDS, got"),
        ("--exit-timeout-secs=12", "--strict-readiness=true", "args must have --exit-timeout-secs=SECONDS, got none"),
        ("spec:", "spec: [", "must be YAML"),
    ],
)
def test_a_spoilt_service_is_found(facts, tmp_path, old, new, fault):
    write(files(facts, DeploySettings()), tmp_path)
    edit(tmp_path / SERVICE, old, new)
    assert fault in " ".join(failed(check(tmp_path)).values())


def test_the_models_beside_it_are_checked_too(facts, tmp_path):
    write(files(facts, DeploySettings()), tmp_path)
    edit(tmp_path / "models/digits/config.pbtxt", "dims: 10", "dims: 11")
    assert "got [-1, 11]" in failed(check(tmp_path))["digits: tensors"]


def test_people_read_it_without_anchors(facts):
    text = files(facts, DeploySettings())[SERVICE]
    assert "&" not in text
    assert read_yaml(text)["apiVersion"] == "serving.kserve.io/v1beta1"


@pytest.mark.parametrize(
    ("name", "service"), [("aa_cnn3_digits", "aa-cnn3-digits"), ("3D.Net", "m-3d-net"), ("x" * 99, "x" * 63)]
)
def test_names_are_such_as_kubernetes_has(name, service):
    assert service_name(name) == service


def test_what_clients_need_not_is_closed_by_a_secret_that_is_in_no_file(facts):
    written = files(facts, DeploySettings(namespace="ml"))
    model = read_yaml(written[SERVICE])["spec"]["predictor"]["model"]
    closed = "model-repository,shared-memory,trace,logging:authorization=$(AAEXPORT_CONTROL)"
    assert {f"--http-restricted-api={closed}", f"--grpc-restricted-protocol={closed}"} <= set(model["args"])
    (variable,) = model["env"]
    assert variable == {
        "name": "AAEXPORT_CONTROL",
        "valueFrom": {"secretKeyRef": {"name": "digits-control", "key": "key"}},
    }
    assert (
        "kubectl create secret generic digits-control -n ml --from-literal=key=$(openssl rand" in written["README.md"]
    )


def test_a_pod_that_is_given_more_time_may_take_it(facts, tmp_path):
    write(files(facts, DeploySettings()), tmp_path)
    edit(tmp_path / SERVICE, "--exit-timeout-secs=12", "--exit-timeout-secs=60")
    edit(tmp_path / SERVICE, "    timeout: 60\n", "    timeout: 60\n    terminationGracePeriodSeconds: 120\n")
    assert failed(check(tmp_path)) == {}


def test_images_larger_than_a_pods_shared_memory_get_a_volume_for_it(facts, tmp_path):
    small = inference_service(facts, DeploySettings(images=True))["spec"]["predictor"]
    assert "volumes" not in small
    assert "volumeMounts" not in small["model"]
    (images,) = facts.inputs
    large = replace(facts, inputs=(replace(images, shape=(-1, 3, 1024, 1024)),))
    predictor = inference_service(large, DeploySettings(images=True))["spec"]["predictor"]
    assert predictor["volumes"] == [{"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "96Mi"}}]
    assert predictor["model"]["volumeMounts"] == [{"name": "shared-memory", "mountPath": "/dev/shm"}]
    assert "volumes" not in inference_service(large, DeploySettings())["spec"]["predictor"]
    written = files(large, DeploySettings(images=True))
    assert list(faults(read_yaml(written[SERVICE]), SCHEMA)) == []
