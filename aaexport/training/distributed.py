"""The processes that torchrun started → one training: who leads, who computes which share, and who speaks.

Without torchrun there is one process and nothing here communicates.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from aaexport.device import parse_device
from aaexport.errors import AaexportError, ArgumentError, ProviderError, TrainingError, broken_rule

LAUNCHER_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
PATIENCE = timedelta(hours=2)  # the first process may read a whole data set while the others wait
UNLIKE_ONE_PROCESS = (
    "on the CPU each of the {count} processes normalises by its own share of a batch, "
    "and the first one's running statistics are kept: losses differ a little from those of one process"
)
Answer = TypeVar("Answer")


class AnotherProcessFailedError(AaexportError):
    """This process ends because another one failed, and that one has said why."""


@dataclass(frozen=True)
class Processes:
    """This process among those that train together."""

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes files and reports."""
        return self.rank == 0

    @property
    def notes(self) -> tuple[str, ...]:
        """In what the numbers differ from those of one process."""
        unlike = self.count > 1 and self.device.type == "cpu"
        return (UNLIKE_ONE_PROCESS.format(count=self.count),) if unlike else ()

    def share_of(self, index: Tensor) -> Tensor:
        """This process's part of `index`, (N,) → about (N ÷ count,); the parts keep the order."""
        return index.tensor_split(self.count)[self.rank]

    def summed(self, tensor: Tensor) -> Tensor:
        """The sum over the processes, in place."""
        if self.count > 1:
            dist.all_reduce(tensor)
        return tensor

    def led(self, action: Callable[[], Answer]) -> Answer:
        """`action` by the leader, and after it by the others: for what leaves files that the others then find."""
        if self.leads:
            return self._announced(action)
        self._await_leader()
        return action()

    def alone(self, action: Callable[[], None]) -> None:
        """`action` by the leader only, while the others wait."""
        if self.leads:
            self._announced(action)
        else:
            self._await_leader()

    def _announced(self, action: Callable[[], Answer]) -> Answer:
        if self.count == 1:
            return action()
        done = torch.zeros(1, device=self.device)
        try:
            answer = action()
            done += 1
        finally:
            dist.broadcast(done, 0)
        return answer

    def _await_leader(self) -> None:
        done = torch.zeros(1, device=self.device)
        dist.broadcast(done, 0)
        if not done.item():
            raise AnotherProcessFailedError("the first process failed")

    def prepared(self, module: nn.Module) -> nn.Module:
        """`module`; on several GPUs its batch normalization takes the statistics of the whole batch."""
        if self.count > 1 and self.device.type == "cuda":
            converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
            return converted
        return module

    def parallel(self, module: nn.Module) -> nn.Module:
        """`module` as the processes train it together: its gradients become their mean."""
        if self.count == 1:
            return module
        return DistributedDataParallel(module, device_ids=[self.device.index] if self.device.type == "cuda" else None)

    def kept_apart(self, module: nn.Module) -> AbstractContextManager[None]:
        """Within it the gradients of a `parallel` module stay this process's own: more parts are to come."""
        if isinstance(module, DistributedDataParallel):
            return module.no_sync()
        return nullcontext()

    def take_leaders_buffers(self, module: nn.Module) -> None:
        """The leader's running statistics become everybody's."""
        if self.count > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)


@contextmanager
def joined(device: str | None) -> Iterator[Processes]:
    """This process among the others that torchrun started, or alone; `device` None takes CUDA where it works.

    Within it an inner `joined` finds the same processes. If one fails, its error is raised there alone, and
    AnotherProcessFailedError in the others, as far as they live to see it.

    Raises:
        ArgumentError, ProviderError: `device` is none, or torch cannot use it here.
        TrainingError: torchrun's variables are no numbers, or a process vanished.
    """
    if dist.is_available() and dist.is_initialized():
        yield Processes(_own_device(device, _local_rank()), dist.get_rank(), dist.get_world_size())
    elif _launched_count() == 1:
        yield Processes(training_device(device))
    else:
        own = _own_device(device, _local_rank())
        store, rank, count = next(rendezvous("env://", timeout=PATIENCE))
        with _first_failure_speaks(store, rank), _group(own, store, rank, count):
            yield Processes(own, rank, count)


def training_device(name: str | None) -> torch.device:
    """The device called `cpu`, `cuda` or `cuda:N`; None takes CUDA where torch can use it."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, index = parse_device(name)
    if kind == "cuda" and not torch.cuda.is_available():
        reason = "torch was built without CUDA" if torch.version.cuda is None else "torch finds no NVIDIA GPU"
        raise ProviderError(f"device must be one that works here, got {name!r}: {reason}; use --device cpu")
    return torch.device(kind) if kind == "cpu" else torch.device(kind, index)


def _own_device(name: str | None, local_rank: int) -> torch.device:
    """The GPU of this process's number on its machine, or the CPU."""
    if name is not None and name not in ("cpu", "cuda"):
        raise ArgumentError(broken_rule("device", "be cpu or cuda under torchrun, which deals out the GPUs", name))
    if training_device(name).type == "cpu":
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        rule = f"be at most {torch.cuda.device_count()}, the GPUs here"
        raise ProviderError(broken_rule("torchrun --nproc-per-node", rule, f"a process number {local_rank + 1}"))
    return torch.device("cuda", local_rank)


def _launched_count() -> int:
    return _number("WORLD_SIZE") if all(name in os.environ for name in LAUNCHER_VARIABLES) else 1


def _local_rank() -> int:
    return _number("LOCAL_RANK") if "LOCAL_RANK" in os.environ else 0


def _number(variable: str) -> int:
    value = os.environ[variable]
    if not value.isdecimal():
        raise TrainingError(broken_rule(variable, "be a number, as torchrun sets it", value))
    return int(value)


@contextmanager
def _group(device: torch.device, store: Any, rank: int, count: int) -> Iterator[None]:
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=rank,
        world_size=count,
        timeout=PATIENCE,
        device_id=device if device.type == "cuda" else None,
    )
    try:
        yield
    except BaseException:
        # gloo's peers notice the closed connections; nccl would wait here for peers that may be gone.
        if device.type == "cpu":
            dist.destroy_process_group()
        raise
    # What still holds the group, such as a DDP module in a cycle of references, would keep its threads running into
    # the end of the interpreter, which they do not survive.
    gc.collect()
    dist.destroy_process_group()


@contextmanager
def _first_failure_speaks(store: Any, rank: int) -> Iterator[None]:
    """Lets through the error of the process that failed first; what fails in consequence is told apart."""
    try:
        yield
    except AnotherProcessFailedError:
        raise
    except BaseException as error:
        if (isinstance(error, KeyboardInterrupt) and rank != 0) or _failures(store) > 1:
            raise AnotherProcessFailedError("another process of this training ended first") from error
        if _lost_a_peer(error):
            lost = f"process {rank} lost another one, which ended without a word"
            raise TrainingError(f"{lost}; look for what ended it, such as too little memory") from error
        raise


def _failures(store: Any) -> int:
    """How many processes have failed up to now, this one included."""
    try:
        return int(store.add("failures", 1))
    except RuntimeError:  # the process that kept the count is gone
        return 2


def _lost_a_peer(error: BaseException) -> bool:
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(name in str(error).lower() for name in ("gloo", "nccl"))
