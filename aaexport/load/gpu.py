"""CUDA's number of a GPU → clocks, heat and what slows it down, as NVIDIA's management library tells them."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

# Functions of the library, the newer name of each before the older.
CLOCK = "nvmlDeviceGetClockInfo"
TEMPERATURE = "nvmlDeviceGetTemperatureV nvmlDeviceGetTemperature"
POWER = "nvmlDeviceGetPowerUsage"  # in mW
THROTTLED = "nvmlDeviceGetCurrentClocksEventReasons nvmlDeviceGetCurrentClocksThrottleReasons"
# Bits of nvmlClocksEventReasons (nvml.h). An idle GPU lowers its clocks as well, which slows nothing down.
REASONS = {
    0x002: "application clocks",
    0x004: "power",
    0x008: "hardware slowdown",
    0x010: "sync boost",
    0x020: "thermal",  # by the driver
    0x040: "thermal",  # by the hardware
    0x080: "power brake",
    0x100: "display clocks",
}


@dataclass(frozen=True)
class GpuState:
    """One reading. Clocks in MHz, temperature in °C, power in W; None where the driver does not tell.

    `throttled` are the reasons for which the driver holds the clocks down, such as `thermal` or `power`; `untold` are
    the fields that the driver does not tell, `throttled` perhaps among them.
    """

    name: str
    driver: str
    cuda: str
    sm_clock: int | None
    max_sm_clock: int | None
    memory_clock: int | None
    temperature: int | None
    power: float | None
    throttled: tuple[str, ...] = ()
    untold: tuple[str, ...] = ()


class UnreadableError(Exception):
    """Why a GPU cannot be read, in one line."""


@dataclass(frozen=True)
class Handles:
    """Of the management library: the GPU, which has clocks and power, and the part of it that CUDA sees, memory's."""

    gpu: Any
    part: Any


def read_gpu(index: int) -> GpuState | None:
    """The state of the GPU that CUDA counts as `index`; None where it cannot be read: `why_unreadable` says why."""
    try:
        with management() as nvml:
            return _state(nvml, handles(nvml, index))
    except UnreadableError:
        return None


def why_unreadable(index: int) -> str | None:
    """Why `read_gpu` gives None, with the remedy where there is one; None if it gives a state."""
    try:
        with management() as nvml:
            _state(nvml, handles(nvml, index))
    except UnreadableError as error:
        return str(error)
    return None


def nvml_index(index: int, gpus: Sequence[tuple[str, str]], environment: Mapping[str, str]) -> int:
    """The management library's number of the GPU that CUDA counts as `index`.

    The library counts by place on the bus and sees every GPU. CUDA counts the visible ones alone, the fastest first
    unless CUDA_DEVICE_ORDER says otherwise: among unlike GPUs that order cannot be known from here.

    Args:
        index: CUDA's.
        gpus: (UUID, name) of each GPU, as the library counts them.
        environment: where CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER may be set.

    Raises:
        UnreadableError: there is no such GPU, or it cannot be told which it is.
    """
    shown = environment.get("CUDA_VISIBLE_DEVICES")
    entries = [str(number) for number in range(len(gpus))] if shown is None else shown.split(",")
    visible = []
    for entry in map(str.strip, entries):
        found = [n for n, (uuid, _) in enumerate(gpus) if entry == str(n) or (entry and uuid.startswith(entry))]
        if len(found) != 1:
            break  # as CUDA does: what follows a number or name that is none is not visible either
        visible.append((found[0], entry.isdecimal()))
    if index >= len(visible):
        setting = "" if shown is None else f" with CUDA_VISIBLE_DEVICES={shown}"
        raise UnreadableError(f"GPU {index} must be one that is there, got {len(visible)} of them{setting}")
    number, by_order = visible[index]
    if by_order and len({name for _, name in gpus}) > 1 and environment.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        rule = "GPUs of several kinds must be counted by their place, got CUDA's own order"
        raise UnreadableError(f"{rule}; set CUDA_DEVICE_ORDER=PCI_BUS_ID")
    return number


@contextmanager
def management() -> Iterator[Any]:
    """The library, ready for questions; what it raises becomes the reason."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError as error:
        raise UnreadableError("nvidia-ml-py is not installed; pip install 'aaexport[gpu]'") from error
    try:
        nvml.nvmlInit()
        try:
            yield nvml
        finally:
            with suppress(nvml.NVMLError):  # what was read is read
                nvml.nvmlShutdown()
    except nvml.NVMLError as error:
        raise UnreadableError(f"NVIDIA's management library does not work here: {error}") from error


def handles(nvml: Any, index: int) -> Handles:
    """Of the GPU that CUDA counts as `index`, or of its instance where it is divided (MIG): CUDA sees one at most.

    UnreadableError if there is no such GPU.
    """
    shown = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    if shown.startswith("MIG-"):
        if index > 0:
            raise UnreadableError(f"GPU {index} must be one that is there, got one instance with {shown}")
        return _instance(nvml, shown)
    every = _usable(nvml)
    gpu = every[nvml_index(index, [(uuid, name) for _, uuid, name in every], os.environ)][0]
    return Handles(gpu, _first_instance(nvml, gpu))


def _usable(nvml: Any) -> list[tuple[Any, str, str]]:
    """Handle, UUID and name of each GPU that may be asked: the library counts those as well that it then refuses.

    Such are the other GPUs of the machine in a container, which CUDA does not count. What the library says of them is
    raised if it refuses all.
    """
    found, refused = [], None
    for number in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(number)
            found.append((handle, _text(nvml.nvmlDeviceGetUUID(handle)), _text(nvml.nvmlDeviceGetName(handle))))
        except nvml.NVMLError as error:
            refused = error
    if refused is not None and not found:
        raise refused
    return found


def _instance(nvml: Any, name: str) -> Handles:
    try:
        part = nvml.nvmlDeviceGetHandleByUUID(name)
        return Handles(nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(part), part)
    except AttributeError as error:
        raise UnreadableError(
            f"nvidia-ml-py must know of instances of a GPU to read {name}, got an older one; "
            "pip install --upgrade nvidia-ml-py"
        ) from error


def _first_instance(nvml: Any, gpu: Any) -> Any:
    """Which CUDA takes where a GPU is divided and nothing is said; else the GPU itself."""
    try:
        is_divided = nvml.nvmlDeviceGetMigMode(gpu)[0]
        return nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 0) if is_divided else gpu
    except (AttributeError, nvml.NVMLError):  # most GPUs cannot be divided, older packages do not know of it
        return gpu


def _state(nvml: Any, of: Handles) -> GpuState:
    handle = of.gpu
    cuda = int(nvml.nvmlSystemGetCudaDriverVersion())  # 13020 is 13.2
    clock, memory = nvml.NVML_CLOCK_SM, nvml.NVML_CLOCK_MEM
    found = {
        "sm_clock": told(nvml, CLOCK, handle, clock),
        "max_sm_clock": told(nvml, "nvmlDeviceGetMaxClockInfo", handle, clock),
        "memory_clock": told(nvml, CLOCK, handle, memory),
        "temperature": told(nvml, TEMPERATURE, handle, nvml.NVML_TEMPERATURE_GPU),
        "power": told(nvml, POWER, handle),
        "throttled": told(nvml, THROTTLED, handle),
    }
    return GpuState(
        name=_text(nvml.nvmlDeviceGetName(of.part)),
        driver=_text(nvml.nvmlSystemGetDriverVersion()),
        cuda=f"{cuda // 1000}.{cuda % 1000 // 10}",
        sm_clock=found["sm_clock"],
        max_sm_clock=found["max_sm_clock"],
        memory_clock=found["memory_clock"],
        temperature=found["temperature"],
        power=None if found["power"] is None else found["power"] / 1000,
        throttled=throttle_reasons(found["throttled"] or 0),
        untold=tuple(name for name, value in found.items() if value is None),
    )


def throttle_reasons(bits: int) -> tuple[str, ...]:
    """The names of what holds the clocks down, each once; a bit that this table does not know by its number."""
    known = [name for bit, name in REASONS.items() if bits & bit]
    unknown = [f"reason {1 << n:#x}" for n in range(1, bits.bit_length()) if bits >> n & 1 and 1 << n not in REASONS]
    return tuple(dict.fromkeys((*known, *unknown)))


def told(nvml: Any, names: str, *arguments: Any) -> int | None:
    """What the first of the functions answers that library and driver know, the newer name before the older."""
    for function in filter(None, (getattr(nvml, name, None) for name in names.split())):
        try:
            return int(function(*arguments))
        except nvml.NVMLError:
            continue
    return None


def _text(value: str | bytes) -> str:
    """Older versions of the package answer with bytes."""
    return value.decode() if isinstance(value, bytes) else value
