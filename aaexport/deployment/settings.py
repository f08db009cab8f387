"""How a deployed model is to run: what the targets write down, every number decided."""

from __future__ import annotations

from dataclasses import dataclass

from aaexport.folder import Dtype

# The targets by name, each with the settings that mean something to it.
TARGET_SETTINGS = {
    "triton": (
        *("dtype", "device", "instances", "threads", "max_batch", "max_delay", "batching"),
        *("tensorrt", "fp16", "cuda_graph", "images"),
    ),
    "kserve": (
        *("dtype", "device", "instances", "threads", "max_batch", "max_delay", "batching"),
        *("tensorrt", "fp16", "cuda_graph", "images"),
        *("min_replicas", "max_replicas", "cpus", "memory", "storage", "namespace"),
    ),
    "ray": (
        *("dtype", "threads", "max_batch", "max_delay", "batching"),
        *("min_replicas", "max_replicas", "cpus", "memory"),
    ),
    "container": ("dtype", "instances", "threads", "max_batch", "max_delay", "memory"),
    "web": ("dtype", "runtime_files", "fetch_runtime"),
}
STORAGES = ("pvc", "s3", "gs", "hf", "http", "https", "oci", "hdfs", "webhdfs", "file")  # that KServe fetches from
NAMESPACE = "default"
STORAGE = "pvc://models"


@dataclass(frozen=True)
class DeploySettings:
    """Of every target; each takes what means something to it.

    Attributes:
        dtype: which of the folder's files is deployed.
        device: `cpu`, `cuda` or `cuda:N`.
        instances: sessions at work in one server.
        threads: of each session; None leaves it to onnxruntime.
        max_batch: images of one run, where the file takes any number.
        batching: whether requests that wait share a run.
        max_delay: milliseconds that a request may wait for others to share its run.
        tensorrt, fp16, cuda_graph: how a GPU runs it.
        images: whether a model that takes image files stands beside the one that takes tensors.
        min_replicas, max_replicas: the bounds of autoscaling.
        cpus: cores of one replica.
        memory: MiB of one replica.
        storage: where a cluster finds the models, as `pvc://models` or `s3://bucket/models`.
        namespace: of Kubernetes.
    """

    dtype: Dtype = "float32"
    device: str = "cpu"
    instances: int = 1
    threads: int | None = None
    max_batch: int = 32
    batching: bool = False
    max_delay: float = 0.0
    tensorrt: bool = False
    fp16: bool = False
    cuda_graph: bool = False
    images: bool = False
    min_replicas: int = 1
    max_replicas: int = 3
    cpus: int = 1
    memory: int = 2048
    storage: str = STORAGE
    namespace: str = NAMESPACE
