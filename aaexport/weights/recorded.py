"""weights.safetensors → what can be known of it without PyTorch: the digest of its tensors, and who made them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from aaexport.pixels import Array

RANDOM = {"aaexport.weights.safetensors": "random"}
RANDOM_NOTE = "the weights are random ones, never trained"
# What both NumPy and PyTorch know, by its name in the file.
TYPES = {
    "F64": "torch.float64",
    "F32": "torch.float32",
    "F16": "torch.float16",
    "I64": "torch.int64",
    "I32": "torch.int32",
    "I16": "torch.int16",
    "I8": "torch.int8",
    "U8": "torch.uint8",
    "BOOL": "torch.bool",
}


def digest_of(tensors: Iterable[tuple[str, str, tuple[int, ...], Array]]) -> str:
    """sha256 over names, types as PyTorch has them, shapes and bytes (uint8, flat) of tensors, by name in order."""
    digest = hashlib.sha256()
    for name, dtype, shape, content in tensors:
        digest.update(f"{name} {dtype} {shape}\n".encode())
        digest.update(content.data)
    return digest.hexdigest()


def recorded_digest(path: Path) -> str | None:
    """As `aaexport.weights.safetensors.weights_digest` of a module with exactly these tensors.

    None where the file cannot be read, or holds numbers that NumPy has not: whoever loads it can tell.
    """
    try:
        with safe_open(path, framework="np") as file:
            types = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118  it is no dict
            if not TYPES.keys() >= set(types.values()):
                return None
            arrays = ((TYPES[types[name]], name, file.get_tensor(name)) for name in sorted(types))
            return digest_of(
                (name, kind, array.shape, np.ascontiguousarray(array).reshape(-1).view(np.uint8))
                for kind, name, array in arrays
            )
    except (SafetensorError, OSError):
        return None


def are_random(path: Path) -> bool:
    """Whether the file says that its weights were never trained."""
    with safe_open(path, framework="np") as file:
        about: dict[str, str] = file.metadata() or {}
    return RANDOM.items() <= about.items()
