"""What a batch takes of a GPU, by processes that are made up: each size by itself, and CUDA's own share apart."""

from pathlib import Path

import numpy as np
import pytest

from aaexport.errors import RunnerError
from aaexport.pipeline.bench.device_memory import DeviceMemory
from aaexport.pipeline.bench.worker_models import WorkerSpec

SPEC = WorkerSpec("onnxruntime", "model.onnx", "samples.npz", "cuda", 1, sessions=4, session={"cuda_graph": True},
                  flush=True)  # fmt: skip
OTHERS, CONTEXT, WEIGHTS, IMAGE = 10_000, 500, 90, 7


class Gpu:
    """A GPU on which others hold memory already; a process keeps what its largest batch took until it ends."""

    def __init__(self):
        self.used, self.started = OTHERS, []

    def read(self):
        return self.used

    def start(self, spec):
        return Process(self, spec)


class Process:
    def __init__(self, gpu, spec):
        self.gpu, self.spec, self.held = gpu, spec, 0
        gpu.started.append(spec)

    def __enter__(self):
        self.take(CONTEXT + (WEIGHTS if self.spec.model == "model.onnx" else 0))
        return self

    def __exit__(self, *error):
        self.gpu.used -= self.held

    def take(self, wanted):
        self.gpu.used += max(wanted - self.held, 0)
        self.held = max(wanted, self.held)

    def first_query(self, size):
        if size > 1000:
            raise RunnerError("out of memory")
        if self.spec.model == "model.onnx":
            self.take(CONTEXT + WEIGHTS + IMAGE * size)


@pytest.fixture
def gpu():
    return Gpu()


def test_every_size_is_told_by_itself_without_what_cuda_takes(gpu, tmp_path):
    memory = DeviceMemory(gpu.read, SPEC, tmp_path, gpu.start)
    assert [memory.of(size) for size in (32, 1, 8)] == [WEIGHTS + IMAGE * size for size in (32, 1, 8)]
    assert gpu.used == OTHERS


def test_a_process_has_one_session_and_that_of_one_node_is_measured_once(gpu, tmp_path):
    memory = DeviceMemory(gpu.read, SPEC, tmp_path, gpu.start)
    memory.of(1)
    memory.of(2)
    probe, *own = gpu.started
    assert [(each.model, each.sessions, each.flush, each.session) for each in own] == [
        ("model.onnx", 1, False, {"cuda_graph": True})
    ] * 2
    assert (Path(probe.model).is_file(), probe.batched) == (True, False)
    assert np.load(probe.samples)["x"].shape == (1, 1)


def test_where_nobody_tells_no_process_is_started(gpu, tmp_path):
    assert DeviceMemory(lambda: None, SPEC, tmp_path, gpu.start).of(1) is None
    assert gpu.started == []


def test_a_size_that_finds_no_room_is_an_error_and_leaves_nothing(gpu, tmp_path):
    with pytest.raises(RunnerError, match="out of memory"):
        DeviceMemory(gpu.read, SPEC, tmp_path, gpu.start).of(2000)
    assert gpu.used == OTHERS
