"""A GPU that is read while it works: which readings count, and what is made of them."""

import sys
import threading
from types import SimpleNamespace

import pytest

from aaexport.load import gpu_watch
from aaexport.load.gpu import UnreadableError, handles
from aaexport.load.gpu_watch import GpuLoad, GpuSample, GpuWatch, gpu_reader, summary


class Time:
    """A clock that is set by hand, and readings of that moment."""

    def __init__(self, **readings):
        self.now, self.readings = 0.0, readings

    def __call__(self):
        return self.now

    def read(self):
        return GpuSample(self.now, **{name: value(self.now) for name, value in self.readings.items()})


def during(watch, time, seconds, *, counts=True):
    """A period with a reading every second."""
    with watch.period(counts=counts):
        for _ in range(seconds):
            time.now += 1
            watch._add()
        time.now += 0.5
    time.now += 0.5


def test_only_what_was_read_in_periods_that_count_is_told():
    time = Time(sm_clock=lambda now: 1000 + round(now), temperature=lambda now: 40)
    watch = GpuWatch(time.read, time)
    during(watch, time, 3)  # 1, 2, 3
    during(watch, time, 5, counts=False)
    during(watch, time, 2)
    load = watch.load()
    assert (load.samples, load.sm_clock_lowest, load.temperature) == (5, 1001, 40)
    assert watch.load([watch.last_period]).samples == 2


def test_without_a_reader_there_is_nothing_and_without_a_reading_neither():
    with GpuWatch(None) as watch:
        with watch.period():
            pass
        assert (watch.load(), watch.memory()) == (None, None)
        assert watch.mean_power(watch.last_period) is None


def test_readings_are_taken_by_themselves(monkeypatch):
    monkeypatch.setattr(gpu_watch, "PAUSE", 0.001)
    enough = threading.Event()
    taken = []

    def read():
        taken.append(None)
        if len(taken) > 5:
            enough.set()
        return GpuSample(0.0)

    with GpuWatch(read):
        assert enough.wait(10)
    assert not [each for each in threading.enumerate() if each.name == "aaexport-gpu"]


def test_power_is_what_the_account_of_energy_grew_by():
    time = Time(energy=lambda now: 300.0 * now, power=lambda now: 1.0)
    watch = GpuWatch(time.read, time)
    during(watch, time, 2)
    assert watch.mean_power(watch.last_period) == pytest.approx(300)


def test_energy_is_that_of_the_period_and_of_none_before_it():
    """A warm-up at 600 W, then 300 W from 2 s on, with a reading every second."""
    time = Time(energy=lambda now: 600.0 * min(now, 2) + 300.0 * max(now - 2, 0))
    watch = GpuWatch(time.read, time)
    during(watch, time, 6, counts=False)
    assert watch.mean_power((2.5, 4.5)) == pytest.approx(300)
    assert watch.mean_power((0.5, 1.5)) == pytest.approx(600)
    assert watch.mean_power((2.0, 99.0)) is None  # no reading after it


def test_a_period_that_is_known_afterwards_counts_beside_others_or_alone():
    time = Time(temperature=round)
    watch = GpuWatch(time.read, time)
    during(watch, time, 6, counts=False)
    assert watch.load() is None
    watch.count((0.5, 2.5))
    watch.count((2.5, 3.5))
    assert (watch.load().samples, watch.load().temperature) == (3, 3)
    watch.count((4.5, 5.5), alone=True)
    assert (watch.load().samples, watch.load().temperature) == (1, 5)


def test_without_such_an_account_power_is_the_mean_of_the_readings():
    time = Time(power=lambda now: 100.0 * now)
    watch = GpuWatch(time.read, time)
    during(watch, time, 3)
    assert watch.mean_power(watch.last_period) == pytest.approx(200)


def test_memory_is_the_most_that_was_in_use_in_what_counts():
    time = Time(memory=lambda now: round(100 - 10 * abs(now - 2)))
    watch = GpuWatch(time.read, time)
    during(watch, time, 4)
    assert (watch.memory(), watch.load().memory) == (70, 100)


def test_throttling_is_a_share_of_the_readings_and_clocks_have_a_first_and_a_last_part():
    clocks = [1980] * 5 + [1700] * 5
    samples = [GpuSample(n, clock, 60 + n, 500.0, 0x4 if n >= 5 else 0x1) for n, clock in enumerate(clocks)]
    assert summary(samples) == GpuLoad(10, 1840.0, 1700, 1980.0, 1700.0, 69, 500.0, {"power": 0.5}, None)


def test_what_the_driver_does_not_tell_is_none():
    assert summary([GpuSample(0.0)]) == GpuLoad(1, None, None, None, None, None, None, {}, None)


# By the management library


class NVMLError(Exception):
    pass


def refusing(*_):
    raise NVMLError("Not Supported")


def library(**changes):
    """As nvidia-ml-py: one GPU, divided into instances where `changes` say so."""
    answers = {
        "nvmlInit": None, "nvmlShutdown": None, "nvmlDeviceGetCount": 1, "nvmlDeviceGetHandleByIndex": "gpu",
        "nvmlDeviceGetUUID": "GPU-1", "nvmlDeviceGetName": "H100", "nvmlDeviceGetClockInfo": 1500,
        "nvmlDeviceGetTemperature": 50, "nvmlDeviceGetPowerUsage": 250_000,
        "nvmlDeviceGetCurrentClocksEventReasons": 0x4, "nvmlDeviceGetTotalEnergyConsumption": 7_000,
    }  # fmt: skip
    functions = {name: (lambda *_, answer=answer: answer) for name, answer in answers.items()}
    constants = {"NVMLError": NVMLError, "NVML_CLOCK_SM": 1, "NVML_TEMPERATURE_GPU": 0}
    memory = {"gpu": 5 << 30, "instance": 1 << 30}
    functions["nvmlDeviceGetMemoryInfo"] = lambda handle: SimpleNamespace(used=memory[handle])
    return SimpleNamespace(**constants, **functions | changes)


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return lambda **changes: monkeypatch.setitem(sys.modules, "pynvml", library(**changes))


def test_a_reading_has_everything_in_its_unit(installed):
    installed()
    with gpu_reader(0) as read:
        sample = read()
    assert sample == GpuSample(sample.moment, 1500, 50, 250.0, 0x4, 7.0, 5 << 30)


def test_what_is_not_supported_is_none(installed):
    installed(nvmlDeviceGetTotalEnergyConsumption=refusing, nvmlDeviceGetMemoryInfo=refusing)
    with gpu_reader(0) as read:
        assert (read().energy, read().memory) == (None, None)


def test_without_a_library_nothing_is_read(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with gpu_reader(0) as read:
        assert read is None


def test_a_gpu_that_refuses_to_be_asked_is_not_read_and_ends_nothing(installed):
    installed(nvmlDeviceGetHandleByIndex=refusing)
    with gpu_reader(0) as read:
        assert read is None


def test_a_name_of_an_instance_that_is_not_there_ends_nothing(installed, monkeypatch):
    installed(nvmlDeviceGetHandleByUUID=refusing)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-9")
    with gpu_reader(0) as read:
        assert read is None


def test_a_library_that_cannot_be_closed_spoils_nothing(installed):
    installed(nvmlShutdown=refusing)
    with gpu_reader(0) as read:
        assert read().sm_clock == 1500


def test_memory_is_that_of_the_instance_that_cuda_sees(installed, monkeypatch):
    by_name = {
        "nvmlDeviceGetHandleByUUID": lambda name: {"MIG-7": "instance"}[name],
        "nvmlDeviceGetDeviceHandleFromMigDeviceHandle": lambda part: {"instance": "gpu"}[part],
    }
    installed(**by_name)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-7")
    with gpu_reader(0) as read:
        assert (read().memory, read().sm_clock) == (1 << 30, 1500)
    with pytest.raises(UnreadableError, match="GPU 1 must be one that is there, got one instance with MIG-7"):
        handles(library(**by_name), 1)


def test_a_package_that_knows_of_no_instances_is_named(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-7")
    with pytest.raises(UnreadableError, match="nvidia-ml-py must know of instances of a GPU to read MIG-7"):
        handles(library(), 0)


def test_of_a_divided_gpu_cuda_takes_the_first_instance(installed):
    installed(
        nvmlDeviceGetMigMode=lambda gpu: (1, 1), nvmlDeviceGetMigDeviceHandleByIndex=lambda gpu, number: "instance"
    )
    with gpu_reader(0) as read:
        assert read().memory == 1 << 30
