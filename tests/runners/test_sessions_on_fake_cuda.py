"""Sessions of the CUDA provider on a GPU that computes nothing: threads, graphs, buffers, events, complaints.

All that is asked of a session that works is asked in one process, and its calls are counted by the fake's log.
"""

import pytest

PRELUDE = """
import json, sys, threading
import numpy as np
from onnx_files import convolution
from aaexport.errors import AaexportError
from aaexport.load.threads import RunnerThread
from aaexport.runners.cuda_runtime import CudaRuntime
from aaexport.runners.ort import OrtRunner, working_providers
from aaexport.runners.ort_serving import CaptureGate
from aaexport.runners.ort_settings import SessionSettings
rng = np.random.default_rng(0)
MODEL = convolution(rng)
feeds = lambda batch: {"x": np.ones((batch, 8, 12, 12), np.float32)}
"""
GRAPHS = """
gate, settings = CaptureGate(), SessionSettings(cuda_graph=True, graph_sizes=(1, 2, 4))
threads = [RunnerThread(lasting=True) for _ in range(2)]
serving = [thread.run(lambda: OrtRunner(MODEL, settings, device="cuda").serving(gate)) for thread in threads]
lost = []
def ask(number):
    for turn in range(200):
        try:
            serving[number].infer(feeds(1 + turn % 4))
        except AaexportError as error:
            lost.append(str(error))
ended = [thread.start(lambda number=number: ask(number)) for number, thread in enumerate(threads)]
[each.result() for each in ended]
print(json.dumps(lost))
for thread, each in zip(threads, serving):
    thread.run(lambda each=each: each.__exit__(None, None, None))
"""
BUFFERS = """
told = {}
with OrtRunner(MODEL, SessionSettings(pinned=True), device="cuda").serving() as serving:
    for _ in range(3):
        serving.infer(feeds(2))  # arrays come and go
with OrtRunner(MODEL, SessionSettings(resident=True), device="cuda").serving() as serving:
    same = feeds(3)
    for _ in range(5):
        serving.query(same)
with OrtRunner(MODEL, device="cuda") as runner:
    told["answer"] = runner.infer(feeds(1))["y"].nbytes
    times = runner.phases(feeds(4), 3)
    told["phases"] = times.medians()
    told["untimed"] = times.untimed
    with CudaRuntime(0).flusher() as flush:
        flush()
with OrtRunner(MODEL, SessionSettings(cuda_graph=True), device="cuda").serving() as serving:
    told["graph"] = serving.phases(feeds(5), 3).medians()
print(json.dumps(told))
"""
COMPLAINT = """
settings = SessionSettings(**json.loads(sys.argv[2]))
if sys.argv[3:]:
    import onnx
    ports = "(float[n, 8, 12, 12] x) => (float[n, 8, 12, 12] y)"
    text = f'<ir_version: 10, opset_import: ["": 23]> g {ports} {{ y = {sys.argv[3]}(x) }}'
    MODEL = onnx.parser.parse_model(text).SerializeToString()
try:
    with OrtRunner(MODEL, settings, device=sys.argv[1]).serving() as serving:
        for _ in range(3):
            serving.infer(feeds(2))
except AaexportError as error:
    print(f"{type(error).__name__} {error.exit_code} {error}")
"""
BOUND = '{"iobinding": true}'


@pytest.fixture(scope="module")
def graphs(fake_cuda, tmp_path_factory):
    return fake_cuda.run(["-c", PRELUDE + GRAPHS], tmp_path_factory.mktemp("graphs") / "log")


@pytest.fixture(scope="module")
def buffers(fake_cuda, tmp_path_factory):
    return fake_cuda.run(["-c", PRELUDE + BUFFERS], tmp_path_factory.mktemp("buffers") / "log")


def test_two_sessions_that_record_and_serve_at_a_time_lose_no_query(graphs):
    assert graphs.json == []
    assert graphs.count("error") == 0


def test_graphs_are_recorded_once_for_each_size_and_session_and_replayed(graphs):
    captured = [event.thread for event in graphs.events if event.call == "cudaStreamBeginCapture"]
    replayed = [event.thread for event in graphs.events if event.call == "cudaGraphLaunch"]
    assert sorted(captured.count(thread) for thread in set(captured)) == [3, 3]
    assert set(replayed) == set(captured)
    assert all(replayed.count(thread) >= 200 for thread in set(captured))
    assert {event.details.rpartition(" ")[2] for event in graphs.events if event.call == "cudaGraphLaunch"} == {"0"}


def test_every_session_has_its_handles_once_and_gives_its_graphs_back(graphs):
    calls = [event.call for event in graphs.events]
    assert (calls.count("cublasCreate_v2"), calls.count("cudnnCreate")) == (2, 2)
    assert graphs.count("cudaGraphExecDestroy") == graphs.count("cudaGraphInstantiate") == 6


def test_locked_arrays_are_locked_once_copied_from_and_let_go(buffers):
    assert buffers.count("error") == 0
    assert buffers.count("cudaHostRegister") == buffers.count("cudaHostUnregister") == 2
    size = 2 * 8 * 12 * 12 * 4
    assert buffers.count("cudaMemcpy", f"kind 1 bytes {size} host pinned") >= 3
    assert buffers.count("cudaMemcpy", f"kind 2 bytes {2 * buffers.json['answer']} host pinned") == 3


def test_what_stays_on_the_device_is_copied_there_once(buffers):
    size, answer = 3 * 8 * 12 * 12 * 4, 3 * buffers.json["answer"]
    # Once to learn the shapes of its answers, once when the buffers are made, once by the first query.
    assert sum(f"kind 1 bytes {size} " in event.details for event in buffers.events) == 3
    assert sum(f"kind 2 bytes {answer} " in event.details for event in buffers.events) == 1


def test_phases_have_the_devices_own_time_with_and_without_a_graph(buffers):
    told = buffers.json
    for phases in (told["phases"], told["graph"]):
        assert set(phases) == {"to_device", "submit", "compute", "to_host", "gpu"}
        assert all(value is not None for value in phases.values())
    assert told["untimed"] is None


def test_the_cache_is_written_over_twice(buffers):
    assert buffers.count("cudaMemset", f"bytes {2 * 62914560}") == 1


COMPLAINTS = {
    "no such device": (
        ("cuda:1", "{}"), {},
        "ProviderError 5 device must be one that is there, got 'cuda:1': Invalid device ID: 1, must be between 0 "
        "(inclusive) and 1 (exclusive); `nvidia-smi -L` lists them, and CUDA_VISIBLE_DEVICES may hide some",
    ),
    "no device": (
        ("cuda", "{}"), {"devices": 0},
        "ProviderError 5 CUDAExecutionProvider did not become active: CUDA failure 100: no CUDA-capable device is "
        "detected (cudaGetDeviceCount); look whether `nvidia-smi -L` lists one, and what CUDA_VISIBLE_DEVICES hides, "
        "or use --device cpu",
    ),
    "driver too old": (
        ("cuda", "{}"), {"driver": 12080},
        "ProviderError 5 CUDAExecutionProvider did not become active: CUDA failure 35: CUDA driver version is "
        "insufficient for CUDA runtime version (cudaGetDeviceCount); install a newer NVIDIA driver, or use --device "
        "cpu",
    ),
    "no memory in the arena": (
        ("cuda", '{"gpu_memory": 1}'), {},
        "RunnerError 1 onnxruntime cannot load the model: Exception during initialization: Available memory of 0 is "
        "smaller than requested bytes of 4608",
    ),
    "a graph of what has no kernel": (
        ("cuda", '{"cuda_graph": true}', "Elu"), {},
        "RunnerError 1 cuda_graph must be off for a model with nodes that CUDAExecutionProvider leaves to the CPU, "
        "got 'on'; `aaexport convert` and `optimize` write files without such nodes by --target cuda",
    ),
    "a launch that fails": (
        ("cuda", "{}"), {"fail": "kernel:700:1"},
        "RunnerError 1 onnxruntime cannot run the model: Relu the last: CUDA error cudaError700:an illegal memory "
        "access was encountered",
    ),
    "a buffer that finds no room": (
        ("cuda", BOUND), {"fail": "cudaMalloc:2:2"},
        "RunnerError 1 onnxruntime cannot keep room for x: Failed to allocate memory for requested buffer of size "
        "9216",
    ),
    "a copy that fails": (
        ("cuda", BOUND), {"fail": "cudaMemcpy:700:2"},
        "RunnerError 1 onnxruntime cannot copy x to the device: CUDA failure 700: an illegal memory access was "
        "encountered (cudaMemcpy)",
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "settings", "line"), COMPLAINTS.values(), ids=COMPLAINTS)
def test_what_goes_wrong_is_one_clean_line(fake_cuda, tmp_path, arguments, settings, line):
    ran = fake_cuda.run(["-c", PRELUDE + COMPLAINT, *arguments], tmp_path / "log", **settings)
    assert (ran.code, ran.out, ran.err) == (0, f"{line}\n", "")


@pytest.mark.slow
def test_a_library_that_is_missing_is_named(fake_cuda, tmp_path):
    """Of a copy of the fake without cuDNN."""
    import shutil

    packages = tmp_path / "packages"
    shutil.copytree(fake_cuda.packages, packages)
    without = type(fake_cuda)(packages)
    (without.libraries / "libcudnn.so.9").unlink()
    ran = without.run(["-c", PRELUDE + COMPLAINT, "cuda", "{}"], tmp_path / "log")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(
        "ProviderError 5 CUDAExecutionProvider did not become active: libcudnn must be libcudnn.so.9"
    )
    assert ran.out.endswith("pip install 'aaexport[cuda]', or use --device cpu\n")
