"""The GPU that tests have without one: onnxruntime's own CUDA provider takes it for real."""

import pytest

SESSION = """
import sys
import numpy as np, onnxruntime
from aaexport.graph.probe import probe_model
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
given = [("CUDAExecutionProvider", {"gpu_mem_limit": 2**40})]
try:
    session = onnxruntime.InferenceSession(probe_model(), options, given, enable_fallback=0)
    session.run(None, {"x": np.ones(1, np.float32)})
except Exception as error:
    sys.exit(str(error))
print(session.get_providers()[0])
"""


def test_onnxruntime_takes_it_for_a_gpu(fake_cuda, tmp_path):
    ran = fake_cuda.run(["-c", SESSION], tmp_path / "log")
    assert (ran.code, ran.out, ran.err) == (0, "CUDAExecutionProvider\n", "")
    assert ran.count("cudaMemcpyAsync", "kind 1 bytes 4 host pageable") == 1  # in
    assert ran.count("cudaMemcpyAsync", "kind 2 bytes 4 host pageable") == 1  # out
    assert [event.details for event in ran.events if event.call == "kernel" and "OP_Add" in event.details]
    assert ran.count("cudnnCreate") == ran.count("cudnnDestroy") > 0
    assert ran.count("error") == 0


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"devices": 0}, "no CUDA-capable device is detected"),
        ({"driver": 12080}, "CUDA driver version is insufficient for CUDA runtime version"),
        ({"memory": 100}, "Failed to allocate memory for requested buffer of size 256"),
        ({"fail": "kernel:700:1"}, "an illegal memory access was encountered"),
    ],
)
def test_what_goes_wrong_on_it_onnxruntime_tells(fake_cuda, tmp_path, settings, complaint):
    ran = fake_cuda.run(["-c", SESSION], tmp_path / "log", **settings)
    assert ran.code == 1
    assert complaint in ran.err
    assert ran.count("error") > 0


LOCKED_TWICE = """
import ctypes, sys
cuda = ctypes.CDLL(sys.argv[1])
room = ctypes.create_string_buffer(200_000)
page = (ctypes.addressof(room) + 65_535) // 65_536 * 65_536
lock = lambda offset: cuda.cudaHostRegister(ctypes.c_void_p(page + offset), ctypes.c_size_t(100), 0)
unlock = lambda: cuda.cudaHostUnregister(ctypes.c_void_p(page))
print(lock(0), lock(100), lock(0), lock(50_000), unlock(), lock(0))
"""


def test_a_page_that_is_locked_is_not_locked_again_as_on_a_real_one(fake_cuda, tmp_path):
    ran = fake_cuda.run(["-c", LOCKED_TWICE, fake_cuda.libraries / "libcudart.so.13"], tmp_path / "log")
    assert (ran.out, ran.err) == ("0 712 712 0 0 0\n", "")
