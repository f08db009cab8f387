"""The GPU's own account of itself: clocks, temperature and what slows it down, by NVIDIA's management library."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GpuState:
    """One reading. Clocks in MHz, temperature in °C, power in W; None where the driver does not tell.

    `throttled` are the reasons for which the driver holds the clocks down, such as `thermal` or `power`.
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
