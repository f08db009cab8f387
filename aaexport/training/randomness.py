"""(seed, epoch, what for) → a stream of random numbers of its own.

Nothing random outlives an epoch, so a checkpoint needs no generator states, and a run that was interrupted goes on
exactly as if it had not been.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def stream_seed(seed: int, epoch: int, purpose: str) -> int:
    """A seed below 2⁶³ for the triple; hashed, so that no two streams run side by side."""
    digest = hashlib.sha256(f"{seed} {epoch} {purpose}".encode()).digest()
    return int.from_bytes(digest[:8]) >> 1


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """torch's global generators of the CPU and of `device` start from `seed`, and are as before afterwards."""
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(cuda):
        torch.default_generator.manual_seed(seed)
        for gpu in cuda:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        yield
