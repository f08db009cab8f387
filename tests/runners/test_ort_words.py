"""Complaints of onnxruntime as it writes them → the line that a user gets."""

import pytest

from aaexport.runners.ort_words import cause, clean, reason

CUDA = (
    "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:129 std::conditional_t<THRW, void, Status> "
    "onnxruntime::CudaCall(ERRTYPE, const char *, const char *, SUCCTYPE, const char *, const char *, int) "
    "[with ERRTYPE = cudaError; bool THRW = true; SUCCTYPE = cudaError; "
    "std::conditional_t<THRW, void, Status> = void] "
    "CUDA failure 101: invalid device ordinal ; GPU=0 ; hostname=node-17 ; "
    "file=/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_execution_provider.cc ; line=311 ; "
    "expr=cudaSetDevice(info_.device_id); "
)
WORDS = {
    "a call of CUDA": (CUDA, "CUDA failure 101: invalid device ordinal (cudaSetDevice)"),
    "a node": (
        "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Conv node. Name:'first' "
        "Status Message: CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED ; GPU=0 ; hostname=h ; file=f.cc ; "
        "line=1 ; expr=cudnnConvolutionForward(x, y)",
        "Conv first: CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED (cudnnConvolutionForward)",
    ),
    "colours": ("\x1b[0;93mno device\x1b[m\nmore", "no device"),
    "an arena": (
        "/onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:359 void* "
        "onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*) "
        "Failed to allocate memory for requested buffer of size 4096",
        "Failed to allocate memory for requested buffer of size 4096",
    ),
}


@pytest.mark.parametrize(("text", "line"), WORDS.values(), ids=WORDS)
def test_a_complaint_is_one_line_without_places_hosts_and_colours(text, line):
    assert clean(text) == line


def test_an_exception_without_text_is_called_by_its_kind():
    assert cause(RuntimeError()) == "RuntimeError"


def test_of_a_log_the_missing_library_is_the_reason():
    noise = [
        "[W:onnxruntime:Default, x.cc:1] something else failed",
        "2026 [E:onnxruntime:Default, provider_bridge_ort.cc:2167 TryGetProviderInfo_CUDA] "
        "/onnxruntime_src/onnxruntime/core/session/provider_bridge_ort.cc:1778 onnxruntime::Provider& "
        "onnxruntime::ProviderLibrary::Get() "
        "[ONNXRuntimeError] : 1 : FAIL : Failed to load library libonnxruntime_providers_cuda.so with error: "
        "libcudnn.so.9: cannot open shared object file: No such file or directory",
    ]
    assert reason(noise) == "libcudnn.so.9: cannot open shared object file: No such file or directory"
    assert reason(["quiet"]) == ""
