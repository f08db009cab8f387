"""NVIDIA's management library without a GPU, as nvidia-ml-py has it: one H200, whose energy is of 300 W all the time.

It is divided into one instance, `MIG-fake`.

What a test can set, by environment variables:
  FAKE_NVML_REFUSED=N    so many GPUs come before it that the library counts and does not let anybody ask
"""

from __future__ import annotations

import os
import time
from types import SimpleNamespace

NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
OURS, INSTANCE = "gpu", "MIG-fake"


class NVMLError(Exception):
    """What it raises."""


def nvmlInit():
    pass


def nvmlShutdown():
    pass


def nvmlDeviceGetCount():
    return 1 + _refused()


def nvmlDeviceGetHandleByIndex(index):
    if index != _refused():
        raise NVMLError("Insufficient Permissions")
    return OURS


def nvmlDeviceGetHandleByUUID(name):
    if name != INSTANCE:
        raise NVMLError("Not Found")
    return INSTANCE


def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle):
    return OURS


def nvmlDeviceGetUUID(handle):
    return "GPU-fake"


def nvmlDeviceGetName(handle):
    return "NVIDIA H200 (fake)" + (" MIG 3g.71gb" if handle == INSTANCE else "")


def nvmlSystemGetDriverVersion():
    return "580.65"


def nvmlSystemGetCudaDriverVersion():
    return 13000


def nvmlDeviceGetClockInfo(handle, kind):
    return {NVML_CLOCK_SM: 1980, NVML_CLOCK_MEM: 3201}[kind]


def nvmlDeviceGetMaxClockInfo(handle, kind):
    return 1980


def nvmlDeviceGetTemperature(handle, sensor):
    return 45


def nvmlDeviceGetPowerUsage(handle):
    return 300_000


def nvmlDeviceGetCurrentClocksEventReasons(handle):
    return 0


def nvmlDeviceGetTotalEnergyConsumption(handle):
    return round(time.monotonic() * 300_000)


def nvmlDeviceGetMemoryInfo(handle):
    return SimpleNamespace(used=1 << 30)


def _refused():
    return int(os.environ.get("FAKE_NVML_REFUSED", "0"))
