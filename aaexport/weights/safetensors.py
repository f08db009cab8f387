"""safetensors ↔ state_dict; every complaint names the tensor.

A file may say of itself that its weights are random ones (`RANDOM`), which is told whenever it is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from aaexport.errors import WeightsError
from aaexport.nn.retarget import retargeted
from aaexport.pixels import Array
from aaexport.weights.recorded import RANDOM, RANDOM_NOTE, are_random, digest_of
from aaexport.writing import atomic_path

IO_ERROR = re.compile(r"I/O error: (.*?) \(os error")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU. WeightsError if it is truncated or of another format."""
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} must be a whole safetensors file, but: {error}") from error
    return tensors


def write_tensors(tensors: Mapping[str, Tensor], path: Path, about: dict[str, str] | None = None) -> None:
    """Writes a safetensors file, atomically; `about` is kept in its header."""
    with atomic_path(path) as temporary:
        whole = _apart({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        try:
            save_file(whole, temporary, metadata=about)
        except SafetensorError as error:
            if found := IO_ERROR.search(str(error)):  # a full disk's, say, which `atomic_path` tells of
                raise OSError(found[1]) from error
            raise WeightsError(f"{path} cannot be written: {error}") from error


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same numbers, each tensor with memory of its own: the format has no way to share it."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        memory = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return apart


def save_weights(module: nn.Module, path: Path, *, random: bool = False) -> None:
    """Writes the module's state_dict, atomically; `random` marks weights that were never trained."""
    write_tensors(module.state_dict(), path, RANDOM if random else None)


def load_weights(module: nn.Module, path: Path) -> tuple[str, ...]:
    """Loads a state_dict into `module`, strictly, and returns what a user should know of it.

    Relative tables of another image size are brought to the module's (`aaexport.nn.retarget`); a module that has
    `ignored_weights`, such as a backbone without its classifier, leaves tensors of those prefixes.

    Raises:
        WeightsError: unreadable, or a tensor is missing, unexpected, of another shape or kind.
    """
    ignored: tuple[str, ...] = getattr(module, "ignored_weights", ())
    found = {name: tensor for name, tensor in read_tensors(path).items() if not name.startswith(ignored)}
    wanted = module.state_dict()
    found, notes = retargeted(found, wanted)
    for complaint in complaints(wanted, found):
        raise WeightsError(f"{path} does not fit the model: {complaint}; were they trained with another recipe?")
    module.load_state_dict(found)
    return (RANDOM_NOTE, *notes) if are_random(path) else notes


def weights_digest(module: nn.Module) -> str:
    """sha256 over names, types, shapes and values of the state_dict: the same wherever the weights came from."""
    named = sorted(module.state_dict().items())
    return digest_of(
        (name, str(tensor.dtype), tuple(tensor.shape), _bytes_of(tensor))
        for name, tensor in named
        if isinstance(tensor, Tensor)  # and no extra state of a module's own, which may be anything
    )


def _bytes_of(tensor: Tensor) -> Array:
    """Flat, as bytes because NumPy knows no bfloat16."""
    numbers: Array = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return numbers


def complaints(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """What is missing, unexpected, or of another shape or kind, a line each, in alphabetical order."""
    lines = [f"tensor {name!r} is missing" for name in wanted if name not in found]
    lines += [f"tensor {name!r} is unexpected" for name in found if name not in wanted]
    for name in wanted.keys() & found.keys():
        if wanted[name].shape != found[name].shape:
            shapes = f"{tuple(wanted[name].shape)}, got {tuple(found[name].shape)}"
            lines.append(f"tensor {name!r} must have the shape {shapes}")
        elif wanted[name].dtype.is_floating_point != found[name].dtype.is_floating_point:
            lines.append(f"tensor {name!r} must be of {wanted[name].dtype}, got {found[name].dtype}")
    return sorted(lines)
