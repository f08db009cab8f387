"""safetensors ↔ state_dict; every complaint names the tensor."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from aaexport.errors import WeightsError
from aaexport.folder import atomic_path


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU. WeightsError if it is truncated or of another format."""
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} must be a whole safetensors file, but: {error}") from error
    return tensors


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Writes a safetensors file, atomically."""
    with atomic_path(path) as temporary:
        # Through memory, so that a full disk is the operating system's error and no library's own.
        temporary.write_bytes(save({n: tensor.detach().cpu().contiguous() for n, tensor in tensors.items()}))


def save_weights(module: nn.Module, path: Path) -> None:
    """Writes the module's state_dict, atomically."""
    write_tensors(module.state_dict(), path)


def load_weights(module: nn.Module, path: Path) -> None:
    """Loads a state_dict into `module`, strictly.

    Raises:
        WeightsError: unreadable, or a tensor is missing, unexpected, of another shape or kind.
    """
    found = read_tensors(path)
    wanted = module.state_dict()
    for complaint in _complaints(wanted, found):
        raise WeightsError(f"{path} does not fit the model: {complaint}; were they trained with another recipe?")
    module.load_state_dict(found)


def weights_digest(module: nn.Module) -> str:
    """sha256 over names, types, shapes and values of the state_dict: the same wherever the weights came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        # As bytes, because numpy knows no bfloat16.
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _complaints(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    complaints = [f"tensor {name!r} is missing" for name in wanted if name not in found]
    complaints += [f"tensor {name!r} is unexpected" for name in found if name not in wanted]
    for name in wanted.keys() & found.keys():
        if wanted[name].shape != found[name].shape:
            shapes = f"{tuple(wanted[name].shape)}, got {tuple(found[name].shape)}"
            complaints.append(f"tensor {name!r} must have the shape {shapes}")
        elif wanted[name].dtype.is_floating_point != found[name].dtype.is_floating_point:
            complaints.append(f"tensor {name!r} must be of {wanted[name].dtype}, got {found[name].dtype}")
    return sorted(complaints)
