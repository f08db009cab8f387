"""The GPU's state by a management library that is made up: what is read, which GPU it is, and why there is none."""

import sys
from types import SimpleNamespace

import pytest

from aaexport.load.gpu import GpuState, nvml_index, read_gpu, throttle_reasons, why_unreadable

ALIKE = [("GPU-aaaa-1", "H100"), ("GPU-bbbb-2", "H100"), ("GPU-bbcc-3", "H100")]
MIXED = [("GPU-aaaa-1", "T4"), ("GPU-bbbb-2", "H100")]
STATE = GpuState("H100", "580.65", "13.2", 1200, 1980, 2600, 61, 350.5, ("power", "thermal"))


class NVMLError(Exception):
    pass


def answering(value):
    return lambda *_: value


def refusing(*_):
    raise NVMLError("Not Supported")


def library(**changes):
    """As nvidia-ml-py: two GPUs, each a number for a handle."""
    names = ["T4", "H100"]
    return SimpleNamespace(**{
        "NVMLError": NVMLError,
        "NVML_CLOCK_SM": 1,
        "NVML_CLOCK_MEM": 2,
        "NVML_TEMPERATURE_GPU": 0,
        "nvmlInit": answering(None),
        "nvmlShutdown": answering(None),
        "nvmlSystemGetDriverVersion": answering("580.65"),
        "nvmlSystemGetCudaDriverVersion": answering(13020),
        "nvmlDeviceGetCount": answering(2),
        "nvmlDeviceGetHandleByIndex": lambda number: number,
        "nvmlDeviceGetUUID": lambda handle: f"GPU-{handle}{handle}",
        "nvmlDeviceGetName": lambda handle: names[handle],
        "nvmlDeviceGetClockInfo": lambda handle, kind: {1: 1200, 2: 2600}[kind],
        "nvmlDeviceGetMaxClockInfo": answering(1980),
        "nvmlDeviceGetTemperatureV": answering(61),
        "nvmlDeviceGetPowerUsage": answering(350_500),
        "nvmlDeviceGetCurrentClocksEventReasons": answering(0x25),
        **changes,
    })  # fmt: skip


@pytest.fixture
def installed(monkeypatch):
    """Puts a made-up library in place of the installed one; the second GPU is CUDA's first."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-11")
    return lambda **changes: monkeypatch.setitem(sys.modules, "pynvml", library(**changes))


def test_a_reading_has_everything_in_its_unit(installed):
    installed()
    assert read_gpu(0) == STATE
    assert why_unreadable(0) is None


def test_an_older_package_answers_with_bytes_and_by_older_names(installed):
    installed(
        nvmlSystemGetDriverVersion=answering(b"580.65"),
        nvmlDeviceGetName=answering(b"H100"),
        nvmlDeviceGetUUID=lambda handle: f"GPU-{handle}{handle}".encode(),
        nvmlDeviceGetTemperatureV=None,
        nvmlDeviceGetTemperature=answering(61),
        nvmlDeviceGetCurrentClocksEventReasons=refusing,
        nvmlDeviceGetCurrentClocksThrottleReasons=answering(0x25),
    )
    assert read_gpu(0) == STATE


def test_what_the_driver_does_not_tell_is_named(installed):
    installed(nvmlDeviceGetPowerUsage=refusing, nvmlDeviceGetCurrentClocksEventReasons=refusing)
    state = read_gpu(0)
    assert (state.power, state.throttled, state.untold) == (None, (), ("power", "throttled"))


def test_a_clock_of_zero_is_told(installed):
    installed(nvmlDeviceGetMaxClockInfo=answering(0))
    assert read_gpu(0).max_sm_clock == 0
    assert read_gpu(0).untold == ()


@pytest.mark.parametrize(
    ("bits", "names"),
    [
        (0x0, ()),
        (0x1, ()),
        (0x4, ("power",)),
        (0x60, ("thermal",)),
        (0x88, ("hardware slowdown", "power brake")),
        (0x1001, ("reason 0x1000",)),
    ],
    ids=["none", "idle", "power", "both kinds of heat", "hardware", "unknown"],
)
def test_what_holds_the_clocks_down_has_a_name(bits, names):
    assert throttle_reasons(bits) == names


# Why there is no reading


def test_without_the_package_there_is_a_reason_with_a_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert read_gpu(0) is None
    assert why_unreadable(0) == "nvidia-ml-py is not installed; pip install 'aaexport[gpu]'"


def test_without_a_driver_there_is_the_librarys_reason(installed):
    installed(nvmlInit=refusing)
    assert read_gpu(0) is None
    assert why_unreadable(0) == "NVIDIA's management library does not work here: Not Supported"


def test_the_library_is_closed_whatever_happens(installed):
    closed = []
    installed(nvmlShutdown=lambda: closed.append(True), nvmlDeviceGetCount=refusing)
    assert read_gpu(0) is None
    assert closed == [True]


# Which GPU it is


def test_gpus_that_refuse_to_be_asked_are_not_among_those_that_cuda_counts(installed, monkeypatch):
    """In a container the library counts all of the machine."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    installed(nvmlDeviceGetHandleByIndex=lambda number: number if number == 1 else refusing())
    assert read_gpu(0).name == "H100"
    assert why_unreadable(1) == "GPU 1 must be one that is there, got 1 of them"


def test_where_all_refuse_it_is_the_reason(installed):
    installed(nvmlDeviceGetHandleByIndex=refusing)
    assert why_unreadable(0) == "NVIDIA's management library does not work here: Not Supported"


@pytest.mark.parametrize(
    ("shown", "index", "number"),
    [
        (None, 2, 2),
        ("2,0", 0, 2),
        ("2,0", 1, 0),
        (" 1 , 2 ", 1, 2),
        ("GPU-bbbb-2", 0, 1),
        ("GPU-a,GPU-bbc", 1, 2),
    ],
)
def test_cudas_number_is_one_among_the_visible(shown, index, number):
    environment = {} if shown is None else {"CUDA_VISIBLE_DEVICES": shown}
    assert nvml_index(index, ALIKE, environment) == number


@pytest.mark.parametrize(
    ("shown", "index", "visible"),
    [("", 0, 0), ("-1", 0, 0), ("0,-1,1", 1, 1), ("0,7", 1, 1), ("GPU-b", 0, 0), ("MIG-1234", 0, 0), (None, 3, 3)],
    ids=["empty", "none", "after none", "no such number", "two of that name", "MIG", "too many"],
)
def test_a_gpu_that_is_not_visible_has_no_number(shown, index, visible):
    environment = {} if shown is None else {"CUDA_VISIBLE_DEVICES": shown}
    with pytest.raises(Exception, match=f"GPU {index} must be one that is there, got {visible} of them"):
        nvml_index(index, ALIKE, environment)


def test_gpus_of_several_kinds_are_not_guessed_at():
    with pytest.raises(Exception, match="set CUDA_DEVICE_ORDER=PCI_BUS_ID"):
        nvml_index(0, MIXED, {})
    assert nvml_index(0, MIXED, {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}) == 0
    assert nvml_index(0, MIXED, {"CUDA_VISIBLE_DEVICES": "GPU-bbbb"}) == 1


@pytest.mark.cuda
def test_the_gpu_of_this_machine_is_read(cuda):
    pytest.importorskip("pynvml")
    state = read_gpu(0)
    assert state is not None, why_unreadable(0)
    assert state.sm_clock > 0
    assert 0 < state.temperature < 120
