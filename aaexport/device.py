"""The names of devices (`cpu`, `cuda`, `cuda:N`) → kind and index, for every room."""

from __future__ import annotations

from typing import Literal, get_args

from aaexport.errors import ArgumentError, broken_rule

Target = Literal["cpu", "cuda"]  # the kinds of devices that a file can be written for
TARGETS: tuple[Target, ...] = get_args(Target)


MAX_THREADS = 1024  # of one session, or of torch


def parse_device(device: str) -> tuple[Target, int]:
    """`cpu`, `cuda` or `cuda:N` → (kind, index). ArgumentError for anything else."""
    kind, _, index = device.partition(":")
    if device == "cpu":
        return "cpu", 0
    if kind == "cuda" and (not _ or index.isdecimal()):
        return "cuda", int(index or 0)
    is_a_name = device.startswith(("GPU-", "MIG-"))  # as `nvidia-smi -L` lists them
    remedy = f"take cuda, with CUDA_VISIBLE_DEVICES={device} in the environment" if is_a_name else ""
    raise ArgumentError(broken_rule("device", "be cpu, cuda or cuda:N", device, remedy))
