"""Settings of onnxruntime sessions: what they become, what contradicts what, and that onnxruntime knows the names."""

import mmap
from pathlib import Path

import onnxruntime
import pytest

from aaexport.errors import ArgumentError
from aaexport.graph.probe import probe_model
from aaexport.runners.ort import OrtRunner
from aaexport.runners.ort_settings import DEFAULTS, EXACT, PROVIDERS, SessionSettings

EVERYTHING = SessionSettings(
    iobinding=True, cuda_graph=True, nhwc=True, cudnn_search="HEURISTIC", gpu_memory=2**30, copy_streams=True,
    one_stream=True,
)  # fmt: skip
PROFILES = ("x:1x3x8x8", "x:8x3x8x8", "x:32x3x8x8")
WITH_TENSORRT = SessionSettings(
    iobinding=True,
    cuda_graph=True,
    tensorrt=True,
    tensorrt_fp16=True,
    profiles=PROFILES,
    engine_cache=Path("engines"),
)


def options_of(settings, provider, device="cuda"):
    return dict(settings.providers_on(device))[PROVIDERS[provider]]


def test_defaults_describe_nothing():
    assert DEFAULTS.described() == {}


def test_what_differs_from_the_defaults_is_described_in_the_types_of_json():
    assert WITH_TENSORRT.described() == {
        "iobinding": True,
        "cuda_graph": True,
        "tensorrt": True,
        "tensorrt_fp16": True,
        "profiles": list(PROFILES),
        "engine_cache": "engines",
    }
    assert SessionSettings(threads=2, tf32=False).described() == {"threads": 2, "tf32": False}


@pytest.mark.parametrize(
    ("settings", "device", "providers"),
    [
        (DEFAULTS, "cpu", ["cpu"]),
        (DEFAULTS, "cuda", ["cuda", "cpu"]),
        (WITH_TENSORRT, "cuda", ["tensorrt", "cuda", "cpu"]),
    ],
)
def test_providers_come_in_their_order_of_precedence(settings, device, providers):
    assert [name for name, _ in settings.providers_on(device)] == [PROVIDERS[name] for name in providers]
    assert settings.provider_on(device) == PROVIDERS[providers[0]]


def test_settings_become_the_options_of_cuda():
    assert options_of(EVERYTHING, "cuda", "cuda:1") == {
        "device_id": 1,
        "use_tf32": 1,
        "cudnn_conv_algo_search": "HEURISTIC",
        "gpu_mem_limit": 2**30,
        "do_copy_in_default_stream": 0,
        "prefer_nhwc": 1,
        "use_ep_level_unified_stream": 1,
        "enable_cuda_graph": 1,
    }
    assert options_of(EXACT, "cuda")["use_tf32"] == 0
    assert str(options_of(SessionSettings(gpu_memory=2.0**20), "cuda")["gpu_mem_limit"]) == "1048576"


def test_settings_become_the_options_of_tensorrt_which_alone_records_graphs():
    assert options_of(WITH_TENSORRT, "tensorrt") == {
        "device_id": 0,
        "trt_cuda_graph_enable": 1,
        "trt_fp16_enable": 1,
        "trt_profile_min_shapes": "x:1x3x8x8",
        "trt_profile_opt_shapes": "x:8x3x8x8",
        "trt_profile_max_shapes": "x:32x3x8x8",
        "trt_engine_cache_enable": 1,
        "trt_engine_cache_path": "engines",
        "trt_timing_cache_enable": 1,
        "trt_timing_cache_path": "engines",
    }
    assert "enable_cuda_graph" not in options_of(WITH_TENSORRT, "cuda")


@pytest.mark.parametrize(("settings", "provider"), [(EVERYTHING, "cuda"), (WITH_TENSORRT, "tensorrt")])
def test_every_option_is_one_that_the_installed_provider_knows(settings, provider):
    """It refuses unknown ones, but only where it can start; its names stand in its binary."""
    path = Path(onnxruntime.__file__).parent / f"capi/libonnxruntime_providers_{provider}.so"
    if not path.is_file():
        pytest.skip("this onnxruntime has no such provider")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as binary:
        unknown = [name for name in options_of(settings, provider) if binary.find(name.encode() + b"\0") < 0]
    assert not unknown


def test_threads_that_must_not_spin_reach_the_session():
    session = OrtRunner(probe_model(), SessionSettings(spinning=False, threads=1)).session
    options = session.get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.intra_op_num_threads == 1


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"threads": 0}, "threads must be positive, got 0"),
        ({"gpu_memory": -1}, "gpu_memory must be positive, got -1"),
        ({"cudnn_search": "FAST"}, "cudnn_search must be one of EXHAUSTIVE, HEURISTIC, DEFAULT, got 'FAST'"),
        ({"cuda_graph": True, "iobinding": False}, "iobinding must be on with cuda_graph, got 'off'"),
        ({"resident": True, "iobinding": False}, "iobinding must be on with resident, got 'off'"),
        ({"pinned": True, "iobinding": False}, "iobinding must be on with pinned, got 'off'"),
        ({"graph_sizes": (1, 8)}, "cuda_graph must be on with graph_sizes, got 'off'"),
        ({"cuda_graph": True, "graph_sizes": (0, 8)}, "graph_sizes must be numbers ≥ 1, got (0, 8)"),
        ({"engine_cache": Path("x")}, "tensorrt must be on with engine_cache, got 'off'"),
        ({"tensorrt_fp16": True}, "tensorrt must be on with tensorrt_fp16, got 'off'"),
    ],
)
def test_values_out_of_range_and_contradictions_are_refused(wrong, text):
    with pytest.raises(ArgumentError) as caught:
        SessionSettings(**wrong)
    assert str(caught.value) == text


@pytest.mark.parametrize("name", ["cuda_graph", "resident", "pinned"])
def test_what_needs_bound_buffers_brings_them(name):
    assert SessionSettings(**{name: True}).binds
    assert not DEFAULTS.binds


def test_tensorrt_cannot_be_told_to_leave_tf32():
    with pytest.raises(ArgumentError, match=r"tf32 must be on with tensorrt.*NVIDIA_TF32_OVERRIDE=0"):
        SessionSettings(tensorrt=True, tf32=False)


@pytest.mark.parametrize(
    "name", ["nhwc", "tensorrt", "copy_streams", "one_stream", "gpu_memory", "cudnn_search", "cuda_graph", "resident",
             "pinned"],
)  # fmt: skip
def test_what_only_cuda_has_is_refused_on_the_cpu(name):
    value = {"gpu_memory": 1, "cudnn_search": "DEFAULT"}.get(name, True)
    settings = SessionSettings(iobinding=True, **{name: value})
    with pytest.raises(ArgumentError) as caught:
        OrtRunner(probe_model(), settings, device="cpu")
    assert str(caught.value) == f"device must be cuda for {name}, got 'cpu'"


def test_exact_products_are_no_contradiction_on_the_cpu():
    assert OrtRunner(probe_model(), EXACT).provider == PROVIDERS["cpu"]
